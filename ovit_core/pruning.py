"""`prune`: from a model and a loader of images to weights pruned in place, with masks."""

import logging
import os
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ovit_core import masks, models, refuse
from ovit_core.curvature import Loss, estimate, replayable
from ovit_core.elimination import choose_backend
from ovit_core.fisher import chunk_size, fit_block_size
from ovit_core.methods import DAMP, METHODS, Method, get_method
from ovit_core.pattern import Pattern, check_allocation
from ovit_core.plan import Plan, Point, install, solve
from ovit_core.report import Report
from ovit_core.sequential import check_in_turn, prune_in_turn

log = logging.getLogger(__name__)
__all__ = ["METHODS", "Report", "choose_dtype", "get_method", "install", "prune", "split_groups"]


def prune(
    model: nn.Module,
    method: str = "ovit",
    sparsity: float = 0.9,
    loader: Iterable | None = None,
    *,
    loss: Loss | None = None,
    gradients: int = 512,
    block_size: int = 192,
    damp: float | None = None,
    allocation: str = "global",
    pattern: str = "unstructured",
    prunable: str | None = None,
    recomputations: int = 0,
    per_sample: bool = False,
    memory: float | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    backend: str = "auto",
) -> Report:
    """Prunes a model in place and attaches its masks. Weights that masks already removed stay removed. If it fails,
    the model is as it was.

    Args:
        model: any model; of timm's transformers all attention and MLP projections are prunable by default.
        method: a name of METHODS. The losses of those that look at layer inputs are errors of each layer's outputs, not
            comparable between layers: give them allocation="uniform" (`wanda` ranks within rows and takes either).
        sparsity: zeros over prunable weights, in [0, 1]; implied by an N:M pattern.
        loader: of batches, by default (images, labels); each gives one gradient. Not needed by magnitude and random.
        loss: f(model, batch) -> scalar, whose gradients make the Fisher; None for the cross-entropy, and for a loss
            without labels where timm's model has no head (`curvature.default_loss`).
        gradients: of the Fisher; batches, for methods that look at layer inputs.
        block_size: B; each weight gets its row length's nearest divisor below or at it. Methods that look at layer inputs
            take whole rows.
        damp: lambda; None for the paper's 1e-8 (0.01 of the mean diagonal for layer inputs). Absolute for the Fisher:
            the best value depends on model, data and gradient batch. Methods without (`needs_damp`) ignore it.
        allocation: one `global` threshold, or `uniform` sparsity per weight: a sequential method takes only the latter.
        pattern: "unstructured", or "N:M" to keep N of every M consecutive input weights.
        prunable: regular expression of the prunable weights' names; None for `models.prunable`'s own choice.
        recomputations: how often curvature is estimated anew on the way, at evenly spaced sparsities.
        per_sample: gradients of single images instead of mini-batches.
        memory: gigabytes for curvature; the model is split into groups of layers that fit, and goes through the
            loader once for each. The loader must then give the same batches every time.
        dtype: of curvature and elimination; None for float64 where all of it fits `memory` (half of the device's if
            that is None), else float32.
        seed: of the random score.
        backend: of the elimination.

    Raises:
        TypeError: an argument is of another kind than its own.  ValueError: one is out of range or unknown, no name
            matches `prunable`, or less is asked for than masks already removed. Before any work.
        ValueError, TypeError: the first batch, or its loss, is nothing that a gradient could be taken of.
        FloatingPointError: a loss, a gradient or a weight is not finite.
        RuntimeError: the loader gave other batches to another group.
    """
    refuse.wrong_kinds(
        text=dict(method=method, pattern=pattern, allocation=allocation, backend=backend),
        numbers=dict(damp=damp, memory=memory),
        integers=dict(block_size=(block_size, 1), recomputations=(recomputations, 0), seed=(seed, None)),
        switches=dict(per_sample=per_sample),
        functions=dict(loss=loss),
    )
    chosen, shape = get_method(method), Pattern.parse(pattern)
    final = shape.target(sparsity)
    check_allocation(allocation)
    if chosen.sequential:
        check_in_turn(allocation, shape)
    if recomputations < 0 or (recomputations and shape.structured):
        raise ValueError(f"recomputations must be 0 with an N:M pattern and at least 0 without, not {recomputations}")
    if chosen.needs_curvature and loader is None:
        raise ValueError(f"method {method!r} needs a loader of (images, labels) for its curvature")
    if dtype not in (None, torch.float32, torch.float64) or type(gradients) is not int:
        raise ValueError(f"dtype must be float32 or float64 and gradients an integer, not {dtype} and {gradients!r}")
    weights = models.prunable(model, prunable)
    if backend != "auto":
        sizes = [block_size_of(weight, chosen, block_size, shape) for weight in weights.values()]
        choose_backend(backend, next(iter(weights.values())).device, max(sizes))
    if odd := [name for name, weight in weights.items() if not torch.isfinite(weight).all()]:
        raise FloatingPointError(f"weights that are not finite cannot be ranked: {', '.join(odd[:3])}")
    reasons = models.unmatched(model, prunable)
    left = sum(model.get_parameter(name).numel() for name in reasons)
    if (share := left / (left + sum(w.numel() for w in weights.values()))) > 0.1:
        log.warning("%.0f %% of the weight matrices stay dense: %s", 100 * share, ", ".join(list(reasons)[:5]))
    if chosen.layerwise and allocation == "global" and not shape.structured:
        log.warning("losses of %s are not comparable between layers: allocation='uniform' suits it better", method)
    gone = already_removed(model, weights, final, allocation, shape)
    damp = DAMP[chosen.curvature] if damp is None or not chosen.needs_damp else damp
    dtype = dtype or choose_dtype(weights, chosen, block_size, shape, memory)
    groups = split_groups(weights, chosen, block_size, shape, memory if chosen.needs_curvature else None, dtype)

    def solve_group(names: list[str]) -> tuple[Plan, list[float]]:
        """A group of weights solved, and the losses of the batches its curvature saw."""
        group, curvature = {name: weights[name] for name in names}, None
        if chosen.needs_curvature and loader is not None:
            curvature = estimate(
                model, group, loader, gradients, kind=chosen.curvature, loss=loss, block_size=block_size, damp=damp,
                dtype=dtype, per_sample=per_sample, multiple=shape.of,
            )  # fmt: skip
        plan = solve(
            group, chosen, curvature, damp=damp, pattern=shape, masks=masks.of(model), block_size=block_size,
            seed=seed, backend=backend, consume=True,
        )  # fmt: skip
        return plan, curvature.losses if curvature else []

    def solve_all(folder: str) -> Plan:
        """Every group solved on the same batches, the factors of several in files of `folder`."""
        plan, seen = Plan(chosen, shape), None
        for names in groups:
            last = loader is None or names is groups[-1]
            with nullcontext() if last else replayable(loader):
                solved, losses = solve_group(names)
            seen = _same_batches(losses, seen)
            if len(groups) > 1:
                solved.spill(folder)
            plan.join(solved)
        return plan

    def pruned(to: float) -> tuple[Point, int]:
        """The model pruned to a sparsity, and how many blocks fell back to float64."""
        if chosen.sequential and loader is not None:
            return prune_in_turn(
                model, weights, chosen, loader, gradients, to, allocation=allocation, pattern=shape, loss=loss, damp=damp,
                dtype=dtype, seed=seed, backend=backend,
            )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="ovit-") as folder:
            plan = solve_all(folder)
            point = plan.at(to, allocation)
        install(model, point)
        return point, plan.fallbacks

    fallbacks, point = 0, Point({}, {}, None)
    with masks.restored(model, list(weights | masks.of(model))):
        masks.apply(model)  # what came back in a loop without `masks.hold` must not be seen by the curvature
        for step in range(1, recomputations + 2):
            share = step / (recomputations + 1)
            point, again = pruned(final if share == 1 else gone + (final - gone) * share)
            fallbacks += again
    used = chosen.needs_curvature
    return Report(
        method=method,
        pattern=pattern,
        sparsity=masks.removed_share(point.masks),
        zeros=masks.zeros(weights),
        sparsity_model=masks.model_sparsity(model),
        masks=point.masks,
        layers=[
            dict(
                name=name,
                weights=mask.numel(),
                block_size=block_size_of(mask, chosen, block_size, shape) if used else None,
                sparsity=1 - float(mask.float().mean()),
            )
            for name, mask in point.masks.items()
        ],
        predicted_loss=point.loss,
        damp=damp if chosen.needs_damp else None,
        dtype=dtype if used else None,
        fallbacks=fallbacks,
        groups=len(weights) if chosen.sequential else len(groups),
        dense=reasons,
    )


def already_removed(
    model: nn.Module, weights: dict[str, nn.Parameter], sparsity: float, allocation: str, pattern: Pattern
) -> float:
    """The share of some weights that the model's masks already removed; if `uniform`, of the one that lost most.

    Raises:
        ValueError: `sparsity` asks for less, of all of them or, if `uniform`, of one.
    """
    removed = {n: int((~m).sum()) for n, m in masks.of(model).items() if n in weights}
    parts = [list(weights)] if allocation == "global" else [[name] for name in weights]
    shares = []
    for names in parts:
        size, gone = sum(weights[n].numel() for n in names), sum(removed.get(n, 0) for n in names)
        shares.append(gone / size)
        if round(sparsity * size) < gone and not pattern.structured:
            where = f" of {names[0]}" if allocation == "uniform" else ""
            raise ValueError(
                f"sparsity {sparsity:g} is below the {gone / size:.6g}{where} that masks already removed; ask for more, "
                "or drop the masks by masks.detach(model)"
            )
    return max(shares)


def _same_batches(losses: list[float], before: list[float] | None) -> list[float]:
    """The losses of a pass over the loader; RuntimeError where the pass before saw others."""
    if before is not None and not torch.allclose(torch.tensor(losses), torch.tensor(before), rtol=1e-3):
        raise RuntimeError(
            "the loader gave other batches to another group of layers: shuffle it with a generator of its own, or raise "
            "`memory` so that one pass is enough"
        )
    return losses


def block_size_of(weight: Tensor, method: Method, block_size: int, pattern: Pattern) -> int:
    """B of a weight: whole rows for layer inputs, else a divisor of the row; ValueError where none fits."""
    row = weight[0].numel()
    return fit_block_size(row, row if method.curvature == "inputs" else block_size, pattern.of)


def gigabytes(weight: Tensor, method: Method, block_size: int, pattern: Pattern, dtype: torch.dtype) -> float:
    """What the curvature of a weight takes: its blocks, and the gradients gathered on the way to them; of layer inputs
    one sum for all rows, and the matrix made of it. Also raises where no block fits the row.
    """
    B = block_size_of(weight, method, block_size, pattern)
    numbers = 2 * B**2 if method.curvature == "inputs" else weight.numel() * (B + chunk_size(B))
    return numbers * dtype.itemsize / 1e9


def choose_dtype(
    weights: dict[str, nn.Parameter], method: Method, block_size: int, pattern: Pattern, memory: float | None
) -> torch.dtype:
    """float64 where the curvature of all weights fits `memory` gigabytes, by default half of what their device has (not
    of what is free, or the same call would give other numbers another day); else float32.
    """
    need = sum(gigabytes(w, method, block_size, pattern, torch.float64) for w in weights.values())
    device = next(iter(weights.values())).device
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return torch.float64 if need <= (memory or total / 2e9) else torch.float32


def split_groups(
    weights: dict[str, nn.Parameter],
    method: Method,
    block_size: int,
    pattern: Pattern,
    memory: float | None,
    dtype: torch.dtype,
) -> list[list[str]]:
    """Names in the model's order, in groups whose blocks fit `memory` gigabytes; one group if that is None.

    Raises:
        ValueError: a single weight does not fit; says what it needs.
    """
    groups: list[list[str]] = [[]]
    used = 0.0
    for name, weight in weights.items():
        need = gigabytes(weight, method, block_size, pattern, dtype)
        if memory is not None and need > memory:
            raise ValueError(f"memory={memory:g} GB is too little: {name} alone needs {need:.3g} GB of curvature")
        if memory is not None and used + need > memory:
            groups.append([])
            used = 0.0
        groups[-1].append(name)
        used += need
    return groups
