"""The pruner against a plain implementation of the released algorithm, in one process and on the same tensors.

    python -m ovit_core.benchmark                                    # side by side, and cost against d, B and m
    python -m ovit_core.benchmark --model deit_tiny_patch16_224      # peak memory of pruning a whole model

The plain form is ours, written from the paper: one Sherman-Morrison update of every inverse block per gradient, one
explicit downdate of every inverse block per removed weight, and the weights stored after each removal.
"""

import argparse
import hashlib
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor

from ovit_core import models
from ovit_core.curvature import estimate
from ovit_core.elimination import eliminate
from ovit_core.fisher import BlockFisher
from ovit_core.methods import get_method
from ovit_core.plan import solve
from ovit_core.pruning import prune
from ovit_core.study import plots, provenance, store

COUNTS = 10  # sparsities read back from one factorization


def plain_inverse(gradients: Tensor, damp: float) -> Tensor:
    """(n, B, B) inverse Fisher of (m, n, B) gradients, by m Sherman-Morrison updates."""
    m, n, B = gradients.shape
    H = torch.eye(B, device=gradients.device).repeat(n, 1, 1) / damp
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


def resident() -> float:
    """Gigabytes of memory this process holds, files that are mapped aside."""
    pages = Path("/proc/self/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * 4096 / 1e9


@contextmanager
def measured(device: torch.device):
    """`seconds`, and `gigabytes` that were in use at the peak beyond what was there before."""
    found = SimpleNamespace(seconds=0.0, gigabytes=0.0)
    stop = threading.Event()
    peak = before = 0.0

    def watch():
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, resident())

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) / 1e9
    else:
        peak = before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        yield found
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            peak = torch.cuda.max_memory_allocated(device) / 1e9
    finally:
        found.seconds = time.perf_counter() - start
        stop.set()
        watcher.join()
        found.gigabytes = max(0.0, peak - before)


def problem(d: int, B: int, m: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights (n, B) and gradients (m, n, B), seeded; correlated inside a block, as real gradients are."""
    g = torch.Generator(device).manual_seed(0)
    n = d // B
    common = torch.randn(m, n, 1, generator=g, device=device)
    gradients = torch.randn(m, n, B, generator=g, device=device) + common
    return torch.randn(n, B, generator=g, device=device), gradients


def fisher_of(gradients: Tensor, damp: float) -> BlockFisher:
    """Our Fisher of (m, n, B) gradients; `add` sees them one by one, as a training loop has them."""
    _, n, B = gradients.shape
    fisher = BlockFisher({"w": (n, B)}, B, damp, device=gradients.device)
    for g in gradients:
        fisher.add({"w": g})
    return fisher


def timed(run: Callable, device: torch.device, prepare: Callable = tuple, repeat: int = 5):
    """The fastest of some runs: its measurements and its result."""
    best, out = None, None
    for _ in range(repeat):
        arguments = prepare()
        out = None  # the last result must not count as this run's memory
        with measured(device) as now:
            out = run(*arguments)
        if best is None or now.seconds < best.seconds:
            best = now
    return best, out


def side_by_side(d: int, sizes: list[int], m: int, device: torch.device, damp: float = 0.05) -> list[dict]:
    """One row per stage and B: seconds and peak gigabytes of the plain form and of ours, and how far they differ."""
    rows = []
    for B in sizes:
        w, gradients = problem(d, B, m, device)
        warm = fisher_of(gradients[:, :8], damp).inverse("w")
        eliminate(w[:8], warm)  # compiles
        ours, H = timed(lambda: fisher_of(gradients, damp).inverse("w", consume=True), device)
        row = dict(stage="Fisher and inverse", d=d, B=B, m=m, ours_s=ours.seconds, ours_gb=ours.gigabytes)
        if B == min(sizes):  # one pass over d * B numbers per gradient: minutes for the larger blocks
            plain, reference = timed(lambda: plain_inverse(gradients, damp), device, repeat=1)
            row |= dict(plain_s=plain.seconds, plain_gb=plain.gigabytes, ratio=plain.seconds / ours.seconds)
            row |= dict(largest_difference=float((H - reference).abs().max() / reference.abs().max()))
            del reference
        rows.append(row)
        gradients = None  # a gigabyte
        ours, e = timed(lambda h: eliminate(w, h), device, prepare=lambda: (H.clone(),))
        plain, (loss, trace) = timed(lambda h: plain_eliminate(w, h), device, lambda: (H.clone(),), repeat=3)
        half = torch.full((len(w),), B // 2, device=device)
        got, want = e.weights_at(half), trace[B // 2 - 1]
        same = ((e.loss.argsort(1)) == loss.argsort(1)).all(1)  # float32 may swap near-equal costs
        rows.append(
            dict(
                stage="elimination",
                d=d,
                B=B,
                m=m,
                ours_s=ours.seconds,
                ours_gb=ours.gigabytes,
                plain_s=plain.seconds,
                plain_gb=plain.gigabytes,
                ratio=plain.seconds / ours.seconds,
                same_order=float(same.float().mean()),
                largest_difference=float((e.loss - loss)[same].abs().max() / loss.max()),
                largest_weight_difference=float((got - want)[same].abs().max() / want.abs().max()),
            )  # fmt: skip
        )
        counts = torch.stack([torch.full((len(w),), B * i // COUNTS, device=device) for i in range(1, COUNTS + 1)])
        read, _ = timed(lambda: e.weights_at(counts), device)
        rows.append(
            dict(stage=f"weights at {COUNTS} sparsities", d=d, B=B, m=m, ours_s=read.seconds, ours_gb=read.gigabytes,
                 plain_s=plain.seconds, ratio=plain.seconds / read.seconds)
        )  # fmt: skip
    return rows


def scaling(device: torch.device, d: int, B: int, m: int) -> list[dict]:
    """Our seconds as one of d, B and m varies and the others stay."""
    rows = []
    grid = [("d", d >> i, B, m) for i in (4, 3, 2, 1, 0)]
    grid += [("B", d, b, m) for b in (32, 64, 128, 192, 256)]
    grid += [("m", d, B, m >> i) for i in (4, 3, 2, 1, 0)]
    for varies, d, B, m in grid:
        w, gradients = problem(d, B, m, device)
        one, H = timed(lambda: fisher_of(gradients, 0.05).inverse("w", consume=True), device, repeat=2)
        two, _ = timed(lambda h: eliminate(w, h), device, prepare=lambda: (H.clone(),))
        for stage, found in (("Fisher and inverse", one), ("elimination", two)):
            rows.append(dict(varies=varies, stage=stage, d=d, B=B, m=m, seconds=found.seconds))
    return rows


def bandwidth(device: torch.device) -> float:
    """Measured gigabytes per second of a large copy, read and written."""
    x = torch.empty(2**28, device=device)
    y = torch.empty_like(x)
    found, _ = timed(lambda: y.copy_(x), device)
    return 2 * x.numel() * 4 / 1e9 / found.seconds


def plot_scaling(rows: pd.DataFrame):
    """Seconds against d, B and m, log-log, a panel each."""
    fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), sharey=True)
    names = {"d": "weights d", "B": "block size B", "m": "gradients m"}
    for ax, (varies, name) in zip(axes, names.items()):
        for stage, marker in (("Fisher and inverse", "o"), ("elimination", "s")):
            here = rows[(rows.varies == varies) & (rows.stage == stage)]
            ax.plot(here[varies], here.seconds, marker=marker, ms=4.5, lw=1.5, label=stage)
        fixed = rows[rows.varies == varies].iloc[-1]
        others = ", ".join(f"{k} = {int(fixed[k]):,}" for k in names if k != varies)
        ax.set(xscale="log", yscale="log", xlabel=name)
        ticks = sorted(set(rows[rows.varies == varies][varies]))
        ax.set_xticks(ticks, [f"{t // 1024}k" if t >= 2**15 else str(t) for t in ticks])
        ax.set_xticks([], minor=True)
        ax.set_title(others, fontsize=8)
    axes[0].set_ylabel("seconds, fastest of several runs")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def random_model(name: str, device: torch.device) -> tuple[torch.nn.Module, list[tuple[Tensor, Tensor]]]:
    """A timm model with random weights, and two batches of four random images."""
    torch.manual_seed(0)
    model = models.create(name, 1000).to(device)
    size = models.input_config(model)["input_size"]
    return model, [(torch.randn(4, *size), torch.randint(1000, (4,))) for _ in range(2)]


def whole_model(name: str, memory: float | None, block_size: int, gradients: int, device: torch.device) -> dict:
    """Seconds and peak memory of pruning a timm model (random weights and images) to 50 %."""
    model, loader = random_model(name, device)
    d = sum(w.numel() for w in models.prunable(model).values())
    eliminate(torch.randn(4, 32, device=device), torch.eye(32, device=device).repeat(4, 1, 1))  # compiles
    with measured(device) as found:
        single = dict(damp=1e-4, dtype=torch.float32)  # half the memory of float64, which `prune` takes where it fits
        report = prune(model, "ovit", 0.5, loader, gradients=gradients, block_size=block_size, memory=memory, **single)
    masks = hashlib.sha256(b"".join(m.cpu().numpy().tobytes() for m in report.masks.values())).hexdigest()[:12]
    fisher = sum(la["weights"] * la["block_size"] for la in report.layers) * 4 / 1e9
    return dict(
        model=name, d=d, B=block_size, m=gradients, memory=memory or float("nan"), groups=report.groups,
        fisher_gb=fisher, peak_gb=found.gigabytes, ratio=found.gigabytes / fisher, seconds=found.seconds,
        fallbacks=report.fallbacks, masks=masks,
    )  # fmt: skip


def slider(name: str, block_size: int, gradients: int, device: torch.device) -> list[dict]:
    """Seconds of a slider position, weights of a timm model (random weights and images) at another sparsity."""
    model, loader = random_model(name, device)
    weights = models.prunable(model)
    fisher = estimate(model, weights, loader, gradients, block_size=block_size, damp=1e-4)
    plan = solve(weights, get_method("ovit"), fisher, consume=True)
    d = sum(layer.loss.numel() for layer in plan.layers.values())
    found = {at: timed(lambda at=at: plan.at(at), device)[0] for at in (0.5, 0.7, 0.9)}
    return [dict(model=name, d=d, B=block_size, sparsity=at, seconds=f.seconds) for at, f in found.items()]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ovit_core.benchmark", description=__doc__.partition("\n")[0])
    parser.add_argument("--d", type=int, default=2**19, help="weights")
    parser.add_argument("--m", type=int, default=512, help="gradients")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 192], help="block sizes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", help="measure pruning this timm model and its slider instead")
    parser.add_argument(
        "--memory", type=float, nargs="+", default=[0], help="gigabytes allowed for its Fisher, 0: no limit"
    )
    args = parser.parse_args(arguments)
    device = models.pick_device(args.device)
    words = sys.argv[1:] if arguments is None else arguments
    os.environ[plots.COMMAND] = shlex.join(["python", "-m", "ovit_core.benchmark", *words])
    if args.model:
        found = [whole_model(args.model, memory or None, 192, 8, device) for memory in args.memory]
        write(pd.DataFrame(found), f"memory_{args.model}", device)
        positions = [row for B in args.sizes for row in slider(args.model, B, 8, device)]
        write(pd.DataFrame(positions), f"slider_{args.model}", device)
        return
    found = write(pd.DataFrame(side_by_side(args.d, args.sizes, args.m, device)), "side_by_side", device)
    if device.type == "cuda":  # H is read once and the factor written once
        found = found[found.stage == "elimination"]
        moved = 2 * found.d * found.B * 4 / 1e9 / found.ours_s
        print(f"elimination moves {', '.join(f'{x:.0f}' for x in moved)} GB/s; a copy {bandwidth(device):.0f} GB/s")
    rows = write(pd.DataFrame(scaling(device, args.d, min(args.sizes), args.m)), "scaling", device)
    with plots.style():
        plots.save(plot_scaling(rows), "scaling", rows)


def write(rows: pd.DataFrame, name: str, device: torch.device) -> pd.DataFrame:
    """Prints a table and writes it to figures/benchmark/NAME.csv, with where it was taken."""
    with pd.option_context("display.width", 200, "display.max_columns", None):
        print(rows.to_string(index=False, float_format=lambda x: f"{x:.3g}", na_rep=""), flush=True)
    origin = dict(
        profile="benchmark", device=provenance.device_name(str(device)), commit=provenance.commit(), seed=0,
        versions=provenance.versions(), experiment="benchmark", run_id="",
    )  # fmt: skip
    rows = rows.assign(**origin)
    store.export_table(rows, "benchmark", name)
    return rows


if __name__ == "__main__":
    main()
