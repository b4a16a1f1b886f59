"""A method solved once for a set of weights: every order and loss is there, so a threshold gives any sparsity.

Every method is an order and a non-decreasing loss inside each block, so a threshold over all blocks cuts a prefix
of every order. `solve` is the one road from curvature to a method solved: `prune`, the study and the explorer take it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ovit_core.curvature import Curvature
from ovit_core.elimination import Elimination, eliminate
from ovit_core.fisher import fit_block_size
from ovit_core.methods import Method
from ovit_core.pattern import UNSTRUCTURED, Pattern, check_allocation, check_sparsity

TINY = 1e-15  # far below what rounding leaves of a weight


class Point(NamedTuple):
    """A point of a method's curve."""

    weights: dict[str, Tensor]  # zero where removed
    masks: dict[str, Tensor]  # boolean, True = kept
    loss: float | None  # oViT's prediction of the loss increase; None for methods whose score is no accumulated loss


def mapped(tensor: Tensor, path: Path) -> Tensor:
    """A tensor moved to a file, of which the system keeps in memory what it has room for."""
    on_disk = torch.from_file(str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
    return on_disk.copy_(tensor)


@dataclass
class Layer:
    """One weight tensor, solved: n blocks of B."""

    whole: Tensor  # the tensor itself, for its shape and dtype
    weights: Tensor  # (n, B) before any removal
    order: Tensor  # (n, B) weight by step
    loss: Tensor  # (n, B) by step, non-decreasing; infinite for weights N:M keeps
    elimination: Elimination | None = None  # for the joint update
    inverse: Tensor | None = None  # (n, B, B), for the independent update

    def spill(self, path: Path) -> None:
        """Moves what is as large as the Fisher to a file."""
        if self.elimination is not None:
            self.elimination.factor = mapped(self.elimination.factor, path)
        if self.inverse is not None:
            self.inverse = mapped(self.inverse, path)

    def weights_at(self, removed: Tensor, mask: Tensor) -> Tensor:
        """(n, B) weights once each block has lost `removed` (n,), those outside `mask` (n, B)."""
        if self.elimination is not None:
            return self.elimination.weights_at(removed, update=True)
        if self.inverse is not None:  # each removal alone moves the others by -(w_p / H_pp) H[p, :]
            H = self.inverse.to(self.weights.device)
            gone = torch.where(mask, 0, self.weights / H.diagonal(dim1=1, dim2=2))  # (n, B)
            moved = torch.bmm(gone.unsqueeze(1), H).squeeze(1)  # (n, B) = (n, 1, B) @ (n, B, B)
            return torch.where(mask, self.weights - moved, 0)
        return self.weights * mask


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
        ValueError: a method that needs curvature got none, or a row is no multiple of M.
        torch.linalg.LinAlgError: a block is not positive definite; proposes a lambda.
    """
    if curvature is None and method.needs_curvature:
        raise ValueError(f"score {method.score!r} with update {method.update!r} needs curvature: give gradients")
    plan = Plan(method, pattern)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in weights.items():
        B = curvature.block_sizes[name] if curvature else fit_block_size(weight[0].numel(), block_size, pattern.of)
        dtype = curvature.dtype if curvature else torch.promote_types(weight.dtype, torch.float32)
        w = weight.detach().to(dtype).reshape(-1, B)
        removed = (
            ~masks[name].to(w.device).reshape(w.shape)
            if masks and name in masks
            else torch.zeros_like(w, dtype=torch.bool)
        )
        w = w.masked_fill(removed, 0)
        diagonal = curvature.diagonal(name, damp) if curvature else None
        H = curvature.inverse(name, damp, consume) if curvature and method.needs_inverse else None
        floor = diagonal.reciprocal() if diagonal is not None else None
        e = None
        if H is not None and method.score in ("greedy", "greedy_frozen"):
            # A kept weight that is zero by chance must not take the place of a removed one in its group of M.
            start = w.masked_fill((w == 0) & ~removed, TINY) if pattern.structured and removed.any() else w
            e = eliminate(start, H, method.score == "greedy", group=pattern.group, backend=backend, floor=floor)
            e.order = _first(removed, e.order)
            order, loss = e.order, e.loss.masked_fill(removed, -1).gather(1, e.order)
        else:
            score = _score(method.score, w, len(weight), H, diagonal, generator)
            loss, order = _rank(score.masked_fill(removed, -1), pattern)
            if H is not None and method.update == "joint":
                e = eliminate(w, H, order=order, backend=backend, floor=floor)
        plan.fallbacks += e.fallbacks if e else 0
        plan.layers[name] = Layer(
            weight,
            w,
            order,
            loss,
            e if method.update == "joint" else None,
            H if method.update == "independent" else None,
        )
    return plan


def _score(
    score: str, w: Tensor, rows: int, H: Tensor | None, diagonal: Tensor | None, generator: torch.Generator
) -> Tensor:
    """(n, B) non-negative, lowest goes first; of (n, B) weights in `rows` rows, with H (n, B, B) and F's diagonal."""
    if score == "static" and H is not None:
        return w.square() / H.diagonal(dim1=1, dim2=2) / 2
    if score == "diagonal" and diagonal is not None:
        return w.square() * diagonal / 2  # B = 1: H_ii = 1 / F_ii
    if score == "wanda" and diagonal is not None:
        # The fraction of its row that goes before it, so that one threshold prunes all rows alike.
        product = (w.abs() * diagonal.sqrt()).reshape(rows, -1)
        return product.argsort(dim=1, stable=True).argsort(dim=1).to(w.dtype).div(product.shape[1]).reshape(w.shape)
    if score == "magnitude":
        return w.abs()
    return torch.rand(w.shape, generator=generator).to(w)


def _first(removed: Tensor, order: Tensor) -> Tensor:
    """(n, B) an order with the weights of `removed` (n, B) before all others. They are zero and, in the curvature,
    without influence on the others, so nothing that was computed along the order changes.
    """
    return order.gather(1, (~removed).gather(1, order).to(torch.int8).argsort(dim=1, stable=True))


def _rank(score: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """(n, B) scores by step, and the order; with N:M first each group's cheapest M - N, the rest infinite."""
    if pattern.structured:
        groups = score.reshape(len(score), -1, pattern.of)  # (n, B / M, M)
        place = groups.argsort(dim=2, stable=True).argsort(dim=2)
        kept = (place >= pattern.removals(pattern.of)).reshape(score.shape) & (score >= 0)  # below 0: gone already
        score = score.masked_fill(kept, torch.inf)
    return score.sort(stable=True, dim=1)


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
        predicts = (self.method.score, self.method.update) == ("greedy", "joint")
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
