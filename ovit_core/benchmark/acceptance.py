"""The acceptance run: the Triton kernel against the float64 reference, then times against what the device can do.

Figures are gpu_*.csv on a GPU. On a CPU the same code runs at toy size in Triton's interpreter and writes
interpreter_*.csv: those tables test this command and say nothing about speed.
"""

import math
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from ovit_core.benchmark import agreement, bounds
from ovit_core.benchmark.measuring import fastest, problem, write
from ovit_core.benchmark.side_by_side import DAMP, plain_inverse
from ovit_core.benchmark.whole_model import whole_model
from ovit_core.elimination import choose_backend, eliminate
from ovit_core.fisher import BlockFisher

DISTINCT = 64  # blocks with inverses of their own where elimination is timed; the others repeat them


class Scale(NamedTuple):
    """How large the run is."""

    agreed: tuple[int, ...]  # block sizes B at which agreement is checked
    sizes: tuple[int, ...]  # and at which times are taken
    models: dict[str, tuple[int, int]]  # name -> width, depth
    blocks: int  # whose agreement is checked, for each B and condition number
    copied: int  # numbers of the copy that measures bandwidth
    side: int  # rows of the products that measure arithmetic
    reads: int  # rows that each program of the kernel that measures the cache reads; a multiple of its ROWS
    gradients: int  # of the Fisher
    memory: tuple[str, int, float]  # a timm model, its block size, gigabytes of the budget
    repeat: int  # runs of which the fastest counts


CONDITIONS = (1e2, 1e3, 1e5, 1e8)
FULL = Scale(
    agreed=(192, 96), sizes=(192, 96), models=dict(deit_small=(384, 12), deit_base=(768, 12)), blocks=512,
    copied=2**28, side=4096, reads=2**14, gradients=64, memory=("deit_small_patch16_224", 192, 4.0), repeat=5,
)  # fmt: skip
TOY = Scale(
    agreed=(24, 8), sizes=(8, 4), models=dict(toy=(8, 2)), blocks=8, copied=2**20, side=256, reads=64,
    gradients=64, memory=("test_vit", 16, 0.01), repeat=1,
)  # fmt: skip


def shapes(width: int) -> dict[str, tuple[int, int]]:
    """(rows, inputs) of the weights of one layer of a ViT; every B of a `Scale` divides the inputs."""
    return dict(qkv=(3 * width, width), proj=(width, width), fc1=(4 * width, width), fc2=(width, 4 * width))


def filled(n: int, B: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (n, B), H (n, B, B) and pivots' floors (n, B); the time of an elimination does not depend on H."""
    _, H, floor = agreement.problem_of_condition(min(n, DISTINCT), B, 1e3, device)
    index = torch.arange(n, device=device) % len(H)
    w = torch.randn(n, B, generator=torch.Generator(device).manual_seed(0), device=device)
    return w, H[index], floor[index]


def time_elimination(n: int, B: int, device: torch.device, repeat: int) -> tuple[float, int]:
    """Seconds for n blocks of B, and how many fell back to float64."""
    w, H, floor = filled(n, B, device)
    run = lambda h: eliminate(w, h, backend="gpu", floor=floor)
    cost, e = fastest(run, device, lambda: (H.clone(),), repeat)
    return cost.seconds, e.fallbacks


def elimination(scale: Scale, device: torch.device, rate: bounds.Rates) -> list[dict]:
    """A row per model, B and weight, timed one weight of a layer at a time, so that a weight is all that must fit; and
    one row for all layers of the model.
    """
    rows = []
    for B in scale.sizes:
        onchip = bounds.reread(B, scale.reads, device, scale.repeat)
        block, at_once = bounds.one_block(B, device, scale.repeat)
        measured = dict(
            copy_gb_per_s=rate.copy / 1e9, onchip_gb_per_s=onchip / 1e9, single_tflop_per_s=rate.single / 1e12,
            one_block_s=block, blocks_at_once=at_once, in_flight_mb=at_once * B**2 * bounds.FLOAT / 1e6,
        )  # fmt: skip
        for model, (width, depth) in scale.models.items():
            total, sums, d = 0.0, Counter(), 0
            for weight, (out, inputs) in shapes(width).items():
                n = out * inputs // B
                seconds, fallbacks = time_elimination(n, B, device, scale.repeat)
                least = bounds.elimination_bounds(n, B, rate, onchip, block, at_once)
                about = dict(model=model, weight=weight, layers=1, d=out * inputs, B=B, blocks=n)
                rows.append(about | bounds.columns(seconds, least) | measured | dict(fallbacks=fallbacks))
                total, d = total + depth * seconds, d + depth * out * inputs
                sums.update({name: depth * value for name, value in least.items()})
            about = dict(model=model, weight="all", layers=depth, d=d, B=B, blocks=d // B)
            rows.append(about | bounds.columns(total, dict(sums)) | measured)
    return rows


def time_fisher(d: int, B: int, m: int, device: torch.device, repeat: int) -> tuple[dict[str, float], dict]:
    """Seconds of our stages; and of the plain form, how far they differ, and the gradients in a chunk."""
    _, gradients = problem(d, B, m, device)  # (m, n, B)

    def accumulate() -> BlockFisher:
        sums = BlockFisher({"w": gradients.shape[1:]}, B, DAMP, device=device)
        for g in gradients:
            sums.add({"w": g})
        sums.diagonal("w")  # nothing is pending any more
        return sums

    accumulate().inverse("w", consume=True)  # compiles
    one, sums = fastest(accumulate, device, repeat=repeat)
    two, H = fastest(lambda: sums.inverse("w"), device, repeat=repeat)
    plain, reference = fastest(lambda: plain_inverse(gradients), device, repeat=1)
    difference = float((H - reference).abs().max() / reference.abs().max())
    return dict(accumulation=one.seconds, inversion=two.seconds), dict(
        plain_s=plain.seconds, largest_difference=difference, chunk=sums.chunk
    )


def fisher(scale: Scale, device: torch.device, rate: bounds.Rates) -> list[dict]:
    """Rows per model and B on its largest weight of a layer: accumulation, inversion, and both beside the plain form."""
    rows = []
    for B in scale.sizes:
        for model, (width, _) in scale.models.items():
            out, inputs = shapes(width)["fc1"]
            d, m = out * inputs, scale.gradients
            seconds, beside = time_fisher(d, B, m, device, scale.repeat)
            least = bounds.fisher_bounds(d, B, m, beside["chunk"], rate)
            least["both"] = dict(Counter(least["accumulation"]) + Counter(least["inversion"]))
            seconds["both"] = sum(seconds.values())
            measured = dict(
                copy_gb_per_s=rate.copy / 1e9, single_tflop_per_s=rate.single / 1e12, double_tflop_per_s=rate.double / 1e12
            )  # fmt: skip
            for stage in least:
                about = dict(model=model, weight="fc1", stage=stage, d=d, B=B, m=m)
                rows.append(about | bounds.columns(seconds[stage], least[stage]) | measured)
            rows[-1] |= beside | dict(ratio=beside["plain_s"] / seconds["both"])
    return rows


def memory(scale: Scale, device: torch.device) -> list[dict]:
    """Peak memory of pruning a model with random weights, without a budget and with one; a note where it does not fit."""
    name, B, budget = scale.memory
    rows = []
    for limit in (None, budget):
        try:
            rows.append(whole_model(name, limit, device, B) | dict(note=""))
        except torch.OutOfMemoryError:
            rows.append(dict(model=name, B=B, memory=limit or math.nan, note="does not fit this device"))
            torch.cuda.empty_cache()
    return rows


def run(device: torch.device, scale: Scale) -> str:
    """All tables, each written as soon as it is there; returns what failed, in a line, or nothing.

    If the kernel disagrees with the reference, nothing is timed.

    Raises:
        ValueError: the kernel cannot run here; says why.
    """
    choose_backend("gpu", device, max(scale.agreed + scale.sizes))
    prefix, where = ("gpu", "") if device.type == "cuda" else ("interpreter", "Triton's interpreter on ")
    table = lambda name, rows: write(rows, f"{prefix}_{name}", device, where)
    found = table("agreement", agreement.agreement(scale.agreed, scale.blocks, CONDITIONS, device))
    if failed := agreement.failure(found):
        return failed
    rate = bounds.rates(scale.copied, scale.side, device, scale.repeat)
    table("elimination", elimination(scale, device, rate))
    table("fisher", fisher(scale, device, rate))
    table("memory", memory(scale, device))
    return ""
