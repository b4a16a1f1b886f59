"""A method solved once for a set of weights: every order and loss is there, so a threshold gives any sparsity.

Every method is an order and a non-decreasing loss inside each block, so a threshold over all blocks cuts a prefix
of every order. `solve` is the one road from curvature to a method solved: `prune`, the study and the explorer take it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ovit_core.curvature import Curvature
from ovit_core.fisher import fit_block_size
from ovit_core.inputs import InputHessian
from ovit_core.layer import Layer, Problem, solve_blocks, solve_rows
from ovit_core.masks import attach
from ovit_core.methods import Method
from ovit_core.pattern import UNSTRUCTURED, Pattern, check_allocation, check_sparsity


class Point(NamedTuple):
    """A point of a method's curve."""

    weights: dict[str, Tensor]  # zero where removed
    masks: dict[str, Tensor]  # boolean, True = kept
    loss: float | None  # oViT's prediction of the loss increase; None for methods whose score is no accumulated loss


@torch.no_grad()
def install(model: nn.Module, point: Point) -> None:
    """Writes a point of a plan's curve into the model, masks included."""
    for name, weight in point.weights.items():
        model.get_parameter(name).copy_(weight)
    attach(model, point.masks)


def solve(
    weights: Mapping[str, Tensor],
    method: Method,
    curvature: Curvature | None = None,
    *,
    damp: float | None = None,
    pattern: Pattern = UNSTRUCTURED,
    masks: dict[str, Tensor] | None = None,
    block_size: int = 192,
    seed: int = 0,
    backend: str = "auto",
    consume: bool = False,
) -> "Plan":
    """A method solved for a set of weights.

    Args:
        weights: name -> tensor.
        method: a row of METHODS.
        curvature: of these weights; None for methods that need none.
        damp: another lambda than the curvature's own.
        pattern: unstructured, or N:M.
        masks: name -> boolean tensor of weights already removed (False): they go first, and are lost to every pattern.
        block_size: B without curvature, where it only says how the order is told.
        seed: of the random score.
        backend: of `eliminate`.
        consume: the curvature's memory becomes the factor; it cannot be used again.

    Raises:
        ValueError: a method that needs curvature got none, a row is no multiple of M, or the method is sequential.
        torch.linalg.LinAlgError: a block is not positive definite; proposes a lambda.
    """
    if curvature is None and method.needs_curvature:
        raise ValueError(f"score {method.score!r} with update {method.update!r} needs curvature: give gradients")
    if method.sequential:
        raise ValueError("a sequential method is solved for one sparsity, layer by layer: use ovit_core.sequential")
    plan = Plan(method, pattern)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in weights.items():
        B = curvature.block_sizes[name] if curvature else fit_block_size(weight[0].numel(), block_size, pattern.of)
        if B % pattern.of:
            raise ValueError(f"{name}: blocks of {B} weights are no multiple of {pattern.of}, as {pattern} wants it")
        dtype = curvature.dtype if curvature else torch.promote_types(weight.dtype, torch.float32)
        w = weight.detach().to(dtype).reshape(-1, B)
        removed = (
            ~masks[name].to(w.device).reshape(w.shape)
            if masks and name in masks
            else torch.zeros_like(w, dtype=torch.bool)
        )
        problem = Problem(weight, w.masked_fill(removed, 0), removed, method, pattern, generator, backend)
        if isinstance(curvature, InputHessian):
            plan.layers[name], fallbacks = solve_rows(problem, curvature, name, damp)
        else:
            plan.layers[name], fallbacks = solve_blocks(problem, curvature, name, damp, consume)
        plan.fallbacks += fallbacks
    return plan


@dataclass
class Plan:
    """A method solved for some weights by `solve`; `at` gives any sparsity without further factorization."""

    method: Method
    pattern: Pattern = UNSTRUCTURED
    layers: dict[str, Layer] = field(default_factory=dict)
    fallbacks: int = 0  # blocks eliminated again in float64

    def spill(self, folder: str) -> None:
        """Moves the factors, of groups of weights that do not fit in memory together, to files in `folder`."""
        for name, layer in self.layers.items():
            layer.spill(Path(folder) / name)

    def join(self, other: "Plan") -> "Plan":
        """Adds another group of weights, solved by the same method: one threshold then covers both."""
        self.layers |= other.layers
        self.fallbacks += other.fallbacks
        return self

    def at(self, sparsity: float = 0.0, allocation: str = "global") -> Point:
        """The weights and masks at a sparsity: exactly round(sparsity * d) zeros (per tensor if `uniform`).

        With an N:M pattern the sparsity is implied, and `sparsity` is ignored.

        Raises:
            ValueError: sparsity outside [0, 1], or an unknown allocation.
        """
        counts = self._counts(check_sparsity(sparsity), check_allocation(allocation))
        weights, kept, total = {}, {}, 0.0
        for (name, layer), removed in zip(self.layers.items(), counts):
            step = torch.arange(layer.order.shape[1], device=layer.order.device).expand_as(layer.order)
            mask = torch.ones_like(layer.order, dtype=torch.bool)
            mask.scatter_(1, layer.order, step >= removed.unsqueeze(1))
            last = layer.loss.gather(1, (removed - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
            total += float(last[removed > 0].clamp(min=0).sum())
            weights[name] = layer.weights_at(removed, mask).reshape(layer.whole.shape).to(layer.whole.dtype)
            kept[name] = mask.reshape(layer.whole.shape)
        predicts = (self.method.score, self.method.update, self.method.layerwise) == ("greedy", "joint", False)
        return Point(weights, kept, total if predicts else None)

    def _counts(self, sparsity: float, allocation: str) -> list[Tensor]:
        """(n_blocks,) removals of every layer's blocks."""
        losses = [layer.loss for layer in self.layers.values()]
        if self.pattern.structured:
            return [torch.isfinite(l).sum(1) for l in losses]
        parts = [losses] if allocation == "global" else [[l] for l in losses]
        counts = []
        for part in parts:
            size, gone = sum(l.numel() for l in part), sum(int((l < 0).sum()) for l in part)
            if (wanted := round(sparsity * size)) < gone:
                raise ValueError(f"sparsity {sparsity:g} is below the {gone / size:.6g} that masks already removed")
            counts += count_removed(part, wanted)
        return counts


def count_removed(losses: list[Tensor], total: int) -> list[Tensor]:
    """How many weights each block loses so that exactly `total` go, cheapest first.

    Args:
        losses: one (n_blocks, B) per weight tensor, by step, non-decreasing along each row.
        total: weights to remove over all of them.

    Returns:
        One (n_blocks,) int64 per tensor. Equal losses go by step, then block, so that prefixes stay whole.
    """
    if total == 0:
        return [torch.zeros(len(l), dtype=torch.int64, device=l.device) for l in losses]
    threshold = torch.cat([l.flatten() for l in losses]).kthvalue(total).values
    counts = [(l < threshold).sum(1) for l in losses]
    missing = total - sum(int(c.sum()) for c in counts)
    ties = []  # (step, tensor, block) of weights exactly at the threshold
    for i, l in enumerate(losses):
        block, step = (l == threshold).nonzero(as_tuple=True)
        ties.append(torch.stack([step, torch.full_like(step, i), block], 1))
    ties = torch.cat(ties)
    # Already in (tensor, block, step) order: a stable sort by step leaves ties in (step, tensor, block) order.
    chosen = ties[ties[:, 0].sort(stable=True).indices[:missing]]
    for i, c in enumerate(counts):
        c += torch.bincount(chosen[chosen[:, 1] == i, 2], minlength=len(c))
    return counts
