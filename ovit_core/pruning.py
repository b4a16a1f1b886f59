"""Pruning a model: the table of methods, and `prune`, from a loader of images to masks in place.

A method is a score and an update; an ablation is a row of the table.
"""

import tempfile
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ovit_core import masks, models
from ovit_core.curvature import Curvature, estimate_fisher, estimate_inputs, replayable
from ovit_core.fisher import chunk_size, fit_block_size
from ovit_core.plan import ALLOCATIONS, Method, Plan, Pruned, check_sparsity, parse_pattern

METHODS = {
    "ovit": Method("greedy", "joint", "oViT: greedy elimination, every removal corrected by the others"),
    "ovit_mask_only": Method("greedy", "none", "oViT's mask, the kept weights left alone"),
    "ovit_no_update": Method("greedy_frozen", "none", "elimination that never touches the weights, not even to score"),
    "ovit_no_update_joint": Method("greedy_frozen", "joint", "that mask, kept weights corrected"),
    "obert": Method("static", "independent", "oBERT / WoodFisher: all weights scored once, single updates summed"),
    "obert_mask_only": Method("static", "none", "oBERT's mask, the kept weights left alone"),
    "obert_joint": Method("static", "joint", "oBERT's mask, kept weights corrected together"),
    "magnitude": Method("magnitude", "none", "smallest absolute weights go"),
    "magnitude_joint": Method("magnitude", "joint", "magnitude's mask, kept weights corrected"),
    "diag_fisher": Method("diagonal", "none", "diagonal Fisher: blocks of one weight"),
    "random": Method("random", "none", "a floor"),
    "obc": Method("greedy", "joint", "OBC / SparseGPT: the same elimination on the layer inputs' Hessian", "inputs"),
    "obc_mask_only": Method("greedy", "none", "OBC's mask, the kept weights left alone", "inputs"),
    "wanda": Method("wanda", "none", "|w| times the norm of its input, compared within each row", "inputs"),
}
DAMP = {"fisher": 1e-8, "inputs": 0.01}  # oViT's and SparseGPT's; the second is relative to the mean diagonal


def get_method(name: str) -> Method:
    """Raises ValueError with the table's names if there is no such method."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; one of {', '.join(METHODS)}")
    return METHODS[name]


@dataclass
class Report:
    """What `prune` did.

    Attributes:
        method, pattern: as asked for.
        sparsity: zeros over prunable weights.
        sparsity_model: zeros over all parameters.
        masks: name -> boolean tensor, True = kept.
        layers: one dict per weight: name, weights, block_size (None without curvature), sparsity.
        predicted_loss: the increase oViT's accumulated loss predicts; None for other methods.
        damp: lambda used, None without curvature.
        fallbacks: blocks that had to be eliminated in float64.
        groups: how many parts the model was split into to keep to `memory`.
        dense: every weight matrix that was not pruned, with the reason.
    """

    method: str
    pattern: str
    sparsity: float
    sparsity_model: float
    masks: dict[str, Tensor]
    layers: list[dict]
    predicted_loss: float | None
    damp: float | None
    fallbacks: int
    groups: int
    dense: dict[str, str]


def prune(
    model: nn.Module,
    method: str = "ovit",
    sparsity: float = 0.9,
    loader: Iterable | None = None,
    gradients: int = 512,
    block_size: int = 192,
    damp: float | None = None,
    allocation: str = "global",
    pattern: str = "unstructured",
    prunable: str = models.PRUNABLE,
    recomputations: int = 0,
    per_sample: bool = False,
    memory: float | None = None,
    seed: int = 0,
    backend: str = "auto",
) -> Report:
    """Prunes a model in place and attaches its masks. Weights that masks already removed stay removed.

    Args:
        model: any model; timm's ViT families match the default `prunable`.
        method: a name of METHODS.
        sparsity: zeros over prunable weights, in [0, 1]; implied by an N:M pattern.
        loader: (images, labels) batches; each gives one gradient. Not needed by magnitude and random.
        gradients: of the Fisher; batches, for methods that look at layer inputs.
        block_size: B; each weight gets its row length's nearest divisor below or at it.
        damp: lambda; None for the paper's 1e-8 (0.01 of the mean diagonal for layer inputs). Absolute for the Fisher:
            the best value depends on model, data and gradient batch.
        allocation: one `global` threshold, or `uniform` sparsity per weight.
        pattern: "unstructured", or "N:M" to keep N of every M consecutive input weights.
        prunable: regular expression of the prunable weights' names.
        recomputations: how often curvature is estimated anew on the way, at evenly spaced sparsities.
        per_sample: gradients of single images instead of mini-batches.
        memory: gigabytes for curvature; the model is split into groups of layers that fit, and goes through the
            loader once for each. The loader must then give the same batches every time.
        seed: of the random score.
        backend: of the elimination.

    Raises:
        ValueError: an argument is out of range or unknown, or no name matches `prunable`. Before any work.
        RuntimeError: the loader gave other batches to another group.
    """
    chosen = get_method(method)
    group = parse_pattern(pattern)
    sparsity = 1 - group[0] / group[1] if group else check_sparsity(sparsity)
    if allocation not in ALLOCATIONS:
        raise ValueError(f"unknown allocation {allocation!r}; one of {', '.join(ALLOCATIONS)}")
    if recomputations < 0 or (recomputations and group):
        raise ValueError(f"recomputations must be 0 with an N:M pattern and at least 0 without, not {recomputations}")
    if chosen.needs_curvature and loader is None:
        raise ValueError(f"method {method!r} needs a loader of (images, labels) for its curvature")
    weights = models.prunable(model, prunable)
    multiple = group[1] if group else 1
    groups = split_groups(weights, block_size, multiple, memory if chosen.needs_curvature else None)
    damp = DAMP[chosen.curvature] if damp is None else damp

    def solve(names: list[str]) -> tuple[Plan, list[float]]:
        part = {name: weights[name] for name in names}
        options = dict(masks=masks.of(model), pattern=pattern, seed=seed, backend=backend)
        if not chosen.needs_curvature:
            return Plan(part, chosen, **options), []
        curvature: Curvature
        common = dict(block_size=block_size, damp=damp, prunable=prunable, names=names, multiple=multiple)
        if chosen.curvature == "inputs":
            curvature = estimate_inputs(model, loader, gradients, **common)
        else:
            curvature = estimate_fisher(model, loader, gradients, per_sample=per_sample, **common)
        return Plan(part, chosen, curvature, **options, consume=True), curvature.losses

    fallbacks = 0
    for step in range(1, recomputations + 2):
        with tempfile.TemporaryDirectory(prefix="ovit-") as folder:
            plan, seen = None, None
            for i, names in enumerate(groups):
                with replayable(loader) if i + 1 < len(groups) else nullcontext():
                    part, losses = solve(names)
                if seen is not None and not torch.allclose(torch.tensor(losses), torch.tensor(seen), rtol=1e-3):
                    raise RuntimeError(
                        "the loader gave other batches to another group of layers: shuffle it with a generator of its "
                        "own, or raise `memory` so that one pass is enough"
                    )
                seen = losses
                if len(groups) > 1:
                    part.spill(folder)
                plan = plan.join(part) if plan else part
            pruned = plan.at(sparsity * step / (recomputations + 1), allocation)
        install(model, pruned)
        fallbacks += plan.fallbacks
    sizes = {n: layer.weights.shape[1] if chosen.needs_curvature else None for n, layer in plan.layers.items()}
    return Report(
        method,
        pattern,
        masks.sparsity(model),
        masks.model_sparsity(model),
        pruned.masks,
        [
            dict(name=n, weights=m.numel(), block_size=sizes[n], sparsity=1 - float(m.float().mean()))
            for n, m in pruned.masks.items()
        ],
        pruned.loss,
        damp if chosen.needs_curvature else None,
        fallbacks,
        len(groups),
        models.unmatched(model, prunable),
    )


def split_groups(
    weights: dict[str, Tensor], block_size: int, multiple: int = 1, memory: float | None = None
) -> list[list[str]]:
    """Names in the model's order, in groups whose float32 blocks fit `memory` gigabytes; one group if that is None.

    Raises:
        ValueError: a single weight does not fit; says what it needs.
    """
    groups, used = [[]], 0.0
    for name, weight in weights.items():
        B = fit_block_size(weight[0].numel(), block_size, multiple)  # also raises where no block fits the row
        need = weight.numel() * (B + chunk_size(B)) * 4 / 1e9
        if memory is not None and need > memory:
            raise ValueError(f"memory={memory:g} GB is too little: {name} alone needs {need:.3g} GB of Fisher")
        if memory is not None and used + need > memory:
            groups.append([])
            used = 0.0
        groups[-1].append(name)
        used += need
    return groups


@torch.no_grad()
def install(model: nn.Module, pruned: Pruned) -> None:
    """Writes a point of a plan's curve into the model, masks included."""
    for name, weight in pruned.weights.items():
        model.get_parameter(name).copy_(weight)
    masks.attach(model, pruned.masks)
