"""The pruner against a plain implementation of the released algorithm, in one process and on the same tensors.

    python -m ovit_core.benchmark                                    # side by side, and cost against d, B and m
    python -m ovit_core.benchmark --model deit_tiny_patch16_224      # peak memory of pruning a whole model

The plain form is ours, written from the paper: one Sherman-Morrison update of every inverse block per gradient, one
explicit downdate of every inverse block per removed weight, and the weights stored after each removal.
"""

import argparse
import hashlib
import math
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ovit_core import models
from ovit_core.curvature import estimate
from ovit_core.elimination import eliminate
from ovit_core.fisher import BlockFisher
from ovit_core.methods import get_method
from ovit_core.plan import solve
from ovit_core.pruning import prune
from ovit_core.study import export, plots, provenance

COUNTS = 10  # sparsities read back from one factorization
DAMP = 0.05
GRADIENTS = 8  # of a whole model


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


def resident() -> float:
    """Gigabytes of memory this process holds, files that are mapped aside."""
    pages = Path("/proc/self/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * 4096 / 1e9


class Cost(NamedTuple):
    """Seconds, and gigabytes in use at the peak beyond what was there before."""

    seconds: float
    gigabytes: float


def measure(run: Callable[[], Any], device: torch.device) -> tuple[Cost, Any]:
    """The cost of one run, and its result."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before, start = torch.cuda.memory_allocated(device), time.perf_counter()
        out = run()
        torch.cuda.synchronize(device)
        return Cost(time.perf_counter() - start, (torch.cuda.max_memory_allocated(device) - before) / 1e9), out
    done, held = threading.Event(), [resident()]

    def watch() -> None:
        while not done.wait(0.005):
            held.append(resident())

    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    try:
        out = run()
        return Cost(time.perf_counter() - start, max(held) - held[0]), out
    finally:
        done.set()


def fastest(run: Callable, device: torch.device, prepare: Callable = tuple, repeat: int = 5) -> tuple[Cost, Any]:
    """The fastest of some runs on arguments that `prepare` makes anew; and a result."""
    costs = []
    for _ in range(repeat):
        arguments, out = prepare(), None  # the last result must not count as this run's memory
        cost, out = measure(lambda: run(*arguments), device)
        costs.append(cost)
    return min(costs), out


def problem(d: int, B: int, m: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights (n, B) and gradients (m, n, B), seeded; correlated inside a block, as real gradients are."""
    g = torch.Generator(device).manual_seed(0)
    n = d // B
    common = torch.randn(m, n, 1, generator=g, device=device)
    gradients = torch.randn(m, n, B, generator=g, device=device) + common
    return torch.randn(n, B, generator=g, device=device), gradients


def fisher_of(gradients: Tensor) -> BlockFisher:
    """Our Fisher of (m, n, B) gradients; `add` sees them one by one, as a training loop has them."""
    _, n, B = gradients.shape
    fisher = BlockFisher({"w": (n, B)}, B, DAMP, device=gradients.device)
    for g in gradients:
        fisher.add({"w": g})
    return fisher


def side_by_side(d: int, sizes: list[int], m: int, device: torch.device) -> list[dict]:
    """One row per stage and B: seconds and peak gigabytes of the plain form and of ours, and how far they differ."""
    rows = []

    def add(stage: str, ours: Cost, plain: Cost | None = None, **differences: float) -> None:
        row = dict(stage=stage, d=d, B=B, m=m, ours_s=ours.seconds, ours_gb=ours.gigabytes)
        if plain:
            row |= dict(plain_s=plain.seconds, plain_gb=plain.gigabytes, ratio=plain.seconds / ours.seconds)
        rows.append(row | differences)

    for B in sizes:
        w, gradients = problem(d, B, m, device)
        eliminate(w[:8], fisher_of(gradients[:, :8]).inverse("w"))  # compiles
        ours, H = fastest(lambda: fisher_of(gradients).inverse("w", consume=True), device)
        plain, differences = None, {}
        if B == min(sizes):  # one pass over d * B numbers per gradient: minutes for the larger blocks
            plain, reference = fastest(lambda: plain_inverse(gradients), device, repeat=1)
            differences = dict(largest_difference=float((H - reference).abs().max() / reference.abs().max()))
        add("Fisher and inverse", ours, plain, **differences)
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
        add(f"weights at {COUNTS} sparsities", read, plain._replace(gigabytes=math.nan))
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


def random_model(name: str, device: torch.device) -> tuple[torch.nn.Module, list[tuple[Tensor, Tensor]]]:
    """A timm model with random weights, and two batches of four random images."""
    torch.manual_seed(0)
    model = models.create(name, 1000).to(device)
    size = models.input_config(model)["input_size"]
    return model, [(torch.randn(4, *size), torch.randint(1000, (4,))) for _ in range(2)]


def whole_model(name: str, memory: float | None, device: torch.device, block_size: int = 192) -> dict:
    """Seconds and peak memory of pruning a timm model (random weights and images) to 50 %."""
    model, loader = random_model(name, device)
    d = sum(w.numel() for w in models.prunable(model).values())
    eliminate(torch.randn(4, 32, device=device), torch.eye(32, device=device).repeat(4, 1, 1))  # compiles
    options = dict(gradients=GRADIENTS, block_size=block_size, damp=1e-4, memory=memory)
    options |= dict(dtype=torch.float32)  # half the memory of float64, which `prune` takes where it fits
    cost, report = measure(lambda: prune(model, "ovit", 0.5, loader, **options), device)
    masks = hashlib.sha256(b"".join(m.cpu().numpy().tobytes() for m in report.masks.values())).hexdigest()[:12]
    fisher = sum(la["weights"] * la["block_size"] for la in report.layers) * 4 / 1e9
    return dict(
        model=name, d=d, B=block_size, m=GRADIENTS, memory=memory or math.nan, groups=report.groups,
        fisher_gb=fisher, peak_gb=cost.gigabytes, ratio=cost.gigabytes / fisher, seconds=cost.seconds,
        fallbacks=report.fallbacks, masks=masks,
    )  # fmt: skip


def slider(name: str, block_size: int, device: torch.device) -> list[dict]:
    """Seconds of a slider position, weights of a timm model (random weights and images) at another sparsity."""
    model, loader = random_model(name, device)
    weights = models.prunable(model)
    fisher = estimate(model, weights, loader, GRADIENTS, block_size=block_size, damp=1e-4)
    plan = solve(weights, get_method("ovit"), fisher, consume=True)
    d = sum(layer.loss.numel() for layer in plan.layers.values())
    seconds = {at: fastest(lambda: plan.at(at), device)[0].seconds for at in (0.5, 0.7, 0.9)}
    return [dict(model=name, d=d, B=block_size, sparsity=at, seconds=s) for at, s in seconds.items()]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ovit_core.benchmark", description=__doc__.partition("\n")[0])
    parser.add_argument("--d", type=int, default=2**19, help="weights")
    parser.add_argument("--m", type=int, default=512, help="gradients")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 192], help="block sizes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", help="measure pruning this timm model and its slider instead")
    parser.add_argument("--memory", type=float, nargs="+", default=[0], help="gigabytes for its Fisher, 0: no limit")
    args = parser.parse_args(arguments)
    device = models.pick_device(args.device)
    words = sys.argv[1:] if arguments is None else arguments
    os.environ[plots.COMMAND] = shlex.join(["python", "-m", "ovit_core.benchmark", *words])
    if args.model:
        write([whole_model(args.model, limit or None, device) for limit in args.memory], f"memory_{args.model}", device)
        write([row for B in args.sizes for row in slider(args.model, B, device)], f"slider_{args.model}", device)
        return
    write(side_by_side(args.d, args.sizes, args.m, device), "side_by_side", device)
    rows = write(scaling(device, args.d, min(args.sizes), args.m), "scaling", device)
    with plots.style():
        plots.save(plot_scaling(rows), "scaling", rows)


def write(rows: list[dict], name: str, device: torch.device) -> pd.DataFrame:
    """Prints a table and writes it to figures/benchmark/NAME.csv, with where it was taken."""
    table = pd.DataFrame(rows)
    with pd.option_context("display.width", 200, "display.max_columns", None):
        print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""), flush=True)
    table = table.assign(
        profile="benchmark", device=provenance.device_name(str(device)), commit=provenance.commit(), seed=0,
        versions=provenance.versions(), experiment="benchmark", run_id="",
    )  # fmt: skip
    export.export_table(table, "benchmark", name)
    return table


if __name__ == "__main__":
    main()
