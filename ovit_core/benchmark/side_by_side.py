"""The pruner against a plain implementation of the released algorithm, in one process and on the same tensors.

The plain form is ours, written from the paper: one Sherman-Morrison update of every inverse block per gradient, one
explicit downdate of every inverse block per removed weight, and the weights stored after each removal.
"""

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ovit_core.benchmark.measuring import Cost, fastest, problem
from ovit_core.elimination import eliminate
from ovit_core.fisher import BlockFisher

COUNTS = 10  # sparsities read back from one factorization
DAMP = 0.05


def plain_inverse(gradients: Tensor) -> Tensor:
    """(n, B, B) inverse Fisher of (m, n, B) gradients, by m Sherman-Morrison updates."""
    m, n, B = gradients.shape
    H = torch.eye(B, device=gradients.device).repeat(n, 1, 1) / DAMP
    for g in gradients:
        Hg = torch.bmm(H, g.unsqueeze(2))  # (n, B, 1) = (n, B, B) @ (n, B, 1)
        scale = m + torch.bmm(g.unsqueeze(1), Hg)  # (n, 1, 1) = (n, 1, B) @ (n, B, 1)
        H.baddbmm_(Hg / scale, Hg.mT, alpha=-1)  # (n, B, B) -= (n, B, 1) @ (n, 1, B)
    return H


def plain_eliminate(weights: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """(n, B) accumulated losses by weight, and the (B, n, B) trace of weights, H downdated in full at each step."""
    w, (n, B) = weights.clone(), weights.shape
    blocks, gone = torch.arange(n, device=w.device), torch.zeros_like(w)
    loss, total, trace = torch.zeros_like(w), w.new_zeros(n), w.new_empty(B, n, B)
    for k in range(B):
        cost, p = (w.square() / H.diagonal(dim1=1, dim2=2) + gone).min(1)
        total = total + cost / 2
        loss[blocks, p] = total
        l = H[blocks, p] / H[blocks, p, p].sqrt().unsqueeze(1)
        w -= (w[blocks, p] / l[blocks, p]).unsqueeze(1) * l
        H.baddbmm_(l.unsqueeze(2), l.unsqueeze(1), alpha=-1)  # (n, B, B) -= (n, B, 1) @ (n, 1, B)
        gone[blocks, p], w[blocks, p], H[blocks, p, p] = torch.inf, 0, 1
        trace[k] = w
    return loss, trace


def fisher_of(gradients: Tensor) -> BlockFisher:
    """Our Fisher of (m, n, B) gradients; `add` sees them one by one, as a training loop has them."""
    _, n, B = gradients.shape
    fisher = BlockFisher({"w": (n, B)}, B, DAMP, device=gradients.device)
    for g in gradients:
        fisher.add({"w": g})
    return fisher


def side_by_side(d: int, sizes: list[int], m: int, device: torch.device) -> list[dict]:
    """One row per stage and B: seconds of the plain form and of ours, and how far they differ; of the Fisher, which is most
    of both, the peak gigabytes too. (What the others take, a process may have left over from before, and nobody sees it.)
    """
    rows = []

    def add(stage: str, ours: Cost, plain: Cost | None = None, **more: float) -> None:
        row = dict(stage=stage, d=d, B=B, m=m, ours_s=ours.seconds)
        if plain:
            row |= dict(plain_s=plain.seconds, ratio=plain.seconds / ours.seconds)
        rows.append(row | more)

    for B in sizes:
        w, gradients = problem(d, B, m, device)
        eliminate(w[:8], fisher_of(gradients[:, :8]).inverse("w"))  # compiles
        ours, H = fastest(lambda: fisher_of(gradients).inverse("w", consume=True), device)
        plain, more = None, dict(ours_gb=ours.gigabytes)
        if B == min(sizes):  # one pass over d * B numbers per gradient: minutes for the larger blocks
            plain, reference = fastest(lambda: plain_inverse(gradients), device, repeat=1)
            more["plain_gb"] = plain.gigabytes
            more["largest_difference"] = float((H - reference).abs().max() / reference.abs().max())
        add("Fisher and inverse", ours, plain, **more)
        gradients = reference = None  # a gigabyte
        ours, e = fastest(lambda h: eliminate(w, h), device, lambda: (H.clone(),))
        plain, (loss, trace) = fastest(lambda h: plain_eliminate(w, h), device, lambda: (H.clone(),), repeat=3)
        got, want = e.weights_at(torch.full((len(w),), B // 2, device=device)), trace[B // 2 - 1]
        same = (e.loss.argsort(1) == loss.argsort(1)).all(1)  # float32 may swap near-equal costs
        differences = dict(largest_difference=float((e.loss - loss)[same].abs().max() / loss.max()))
        differences |= dict(largest_weight_difference=float((got - want)[same].abs().max() / want.abs().max()))
        add("elimination", ours, plain, same_order=float(same.float().mean()), **differences)
        counts = (B * torch.arange(1, COUNTS + 1, device=device) // COUNTS).unsqueeze(1).repeat(1, len(w))
        read, _ = fastest(lambda: e.weights_at(counts), device)
        add(f"weights at {COUNTS} sparsities", read, plain)
    return rows


def scaling(device: torch.device, d: int, B: int, m: int) -> list[dict]:
    """Our seconds as one of d, B and m varies and the others stay."""
    rows = []
    grid = [("d", d >> i, B, m) for i in (4, 3, 2, 1, 0)]
    grid += [("B", d, b, m) for b in (32, 64, 128, 192, 256)]
    grid += [("m", d, B, m >> i) for i in (4, 3, 2, 1, 0)]
    for varies, d, B, m in grid:
        w, gradients = problem(d, B, m, device)
        one, H = fastest(lambda: fisher_of(gradients).inverse("w", consume=True), device, repeat=2)
        two, _ = fastest(lambda h: eliminate(w, h), device, lambda: (H.clone(),))
        for stage, cost in (("Fisher and inverse", one), ("elimination", two)):
            rows.append(dict(varies=varies, stage=stage, d=d, B=B, m=m, seconds=cost.seconds))
    return rows


def plot_scaling(rows: pd.DataFrame) -> Figure:
    """Seconds against d, B and m, log-log, a panel each."""
    fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), sharey=True)
    names = {"d": "weights d", "B": "block size B", "m": "gradients m"}
    for ax, (varies, here) in zip(axes, rows.groupby("varies", sort=False)):
        seconds = here.pivot(index=varies, columns="stage", values="seconds")
        seconds.plot(ax=ax, loglog=True, style=["o-", "s-"], ms=4.5, lw=1.5, legend=False, xlabel=names[varies])
        ax.set_xticks(seconds.index, [f"{t // 1024}k" if t >= 2**15 else str(t) for t in seconds.index])
        ax.set_xticks([], minor=True)
        ax.set_title(", ".join(f"{k} = {here[k].iloc[-1]:,}" for k in names if k != varies), fontsize=8)
    axes[0].set_ylabel("seconds, fastest of several runs")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig
