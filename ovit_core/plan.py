"""A method solved once for a set of weights: every order and loss is there, so a threshold gives any sparsity.

Every method is an order and a non-decreasing loss inside each block, so a threshold over all blocks cuts a prefix
of every order.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovit_core.curvature import Curvature
from ovit_core.elimination import Elimination, eliminate
from ovit_core.fisher import fit_block_size

ALLOCATIONS = ("global", "uniform")
GREEDY = ("greedy", "greedy_frozen")


class Method(NamedTuple):
    """Which weights go (score), what becomes of the others (update), and the matrix both look at.

    score: greedy, greedy_frozen (elimination with the weights as corrected, or as given), static (w^2 / 2 H_ii),
        diagonal (the same with B = 1), magnitude, wanda (|w| times the norm of its input, ranked in each row), random.
    update: joint (exact OBS for the removed set), independent (the sum of single-weight updates), none.
    curvature: fisher (of the loss's gradients) or inputs (X^T X / n of each layer).
    """

    score: str
    update: str
    about: str
    curvature: str = "fisher"

    @property
    def needs_curvature(self) -> bool:
        return self.score not in ("magnitude", "random") or self.update != "none"


def check_sparsity(sparsity: float) -> float:
    """Raises ValueError unless 0 <= sparsity <= 1."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must lie in [0, 1], not {sparsity}")
    return sparsity


def parse_pattern(pattern: str) -> tuple[int, int] | None:
    """ "unstructured" -> None, "2:4" -> (2, 4): of every 4 consecutive input weights 2 are kept.

    Raises:
        ValueError: anything else.
    """
    if pattern == "unstructured":
        return None
    found = re.fullmatch(r"(\d+):(\d+)", pattern)
    if not found or not 0 < int(found[1]) < int(found[2]):
        raise ValueError(f'pattern must be "unstructured" or "N:M" with 0 < N < M, such as "2:4"; not {pattern!r}')
    return int(found[1]), int(found[2])


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


class OnDisk:
    """A tensor in a file, read when needed: the factors of groups of weights that do not fit in memory together."""

    def __init__(self, tensor: Tensor, folder: str, name: str):
        self.path, self.shape, self.device = Path(folder) / name, tensor.shape, tensor.device
        array = tensor.cpu().numpy()
        self.dtype = array.dtype
        array.tofile(self.path)

    def read(self) -> Tensor:
        return torch.from_numpy(np.fromfile(self.path, self.dtype).reshape(self.shape)).to(self.device)


@dataclass
class _Layer:
    """One weight tensor, solved: n blocks of B."""

    weights: Tensor  # (n, B)
    order: Tensor  # (n, B) weight by step
    loss: Tensor  # (n, B) by step, non-decreasing; infinite for weights N:M keeps
    elimination: Elimination | None = None  # for the joint update
    inverse: Tensor | OnDisk | None = None  # (n, B, B), for the independent update

    def spill(self, folder: str, name: str) -> None:
        """Moves what is as large as the Fisher to a file."""
        if self.elimination is not None:
            self.elimination.factor = OnDisk(self.elimination.factor, folder, name)
        if self.inverse is not None:
            self.inverse = OnDisk(self.inverse, folder, name)

    def weights_at(self, removed: Tensor, mask: Tensor, update: str) -> Tensor:
        """(n, B) weights once each block has lost `removed` (n,), those outside `mask` (n, B)."""
        if update == "joint":
            e = self.elimination
            e = replace(e, factor=e.factor.read()) if isinstance(e.factor, OnDisk) else e
            return e.weights_at(removed, update=True)
        if update == "independent":  # each removal alone moves the others by -(w_p / H_pp) H[p, :]
            H = self.inverse.read() if isinstance(self.inverse, OnDisk) else self.inverse
            gone = torch.where(mask, 0, self.weights / H.diagonal(dim1=1, dim2=2))
            return torch.where(mask, self.weights - torch.bmm(gone.unsqueeze(1), H).squeeze(1), 0)  # (n,1,B) @ (n,B,B)
        return self.weights * mask


class Pruned(NamedTuple):
    """A point of the curve: name -> weight, name -> boolean mask (True = kept), and the loss accumulated by what was
    removed: oViT's prediction of the loss increase, None for methods whose score is no such sum.
    """

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    loss: float | None


class Plan:
    """A method solved for a set of weights; `at` then gives any sparsity without further factorization.

    Args:
        weights: name -> tensor.
        method: a row of METHODS.
        curvature: their Fisher or input Hessian; None for methods that need none.
        damp: another lambda than the curvature's own.
        inverses: name -> (n, B, B), to share one inversion among methods; left unchanged.
        masks: name -> boolean tensor of weights already removed (False): they go first again.
        pattern: "unstructured", or "N:M".
        block_size: B without curvature, where it only says how the order is told.
        seed: of the random score.
        backend: of `eliminate`.
        consume: the curvature's memory becomes the factor; it cannot be used again.

    Raises:
        ValueError: a method that needs curvature got none, or a row is no multiple of M.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        method: Method,
        curvature: Curvature | None = None,
        damp: float | None = None,
        inverses: dict[str, Tensor] | None = None,
        masks: dict[str, Tensor] | None = None,
        pattern: str = "unstructured",
        block_size: int = 192,
        seed: int = 0,
        backend: str = "auto",
        consume: bool = False,
    ):
        if curvature is None and method.needs_curvature:
            raise ValueError(f"score {method.score!r} with update {method.update!r} needs curvature: give gradients")
        self.method, self.group, self.fallbacks = method, parse_pattern(pattern), 0
        self.shapes = {name: w.shape for name, w in weights.items()}
        self.dtypes = {name: w.dtype for name, w in weights.items()}
        self.layers: dict[str, _Layer] = {}
        M = self.group[1] if self.group else 1
        generator = torch.Generator().manual_seed(seed)
        for name, weight in weights.items():
            B = curvature.block_sizes[name] if curvature else fit_block_size(weight[0].numel(), block_size, M)
            w = weight.detach().to(curvature.dtype if curvature else torch.float32).reshape(-1, B)
            H = floor = None
            if method.needs_curvature and method.score not in ("diagonal", "wanda"):
                floor = curvature.diagonal(name, damp).reciprocal()
                H = inverses[name] if inverses else curvature.inverse(name, damp, consume=consume)
                if inverses and (method.score in GREEDY or method.update == "joint"):
                    H = H.clone()  # the elimination takes its memory
            if method.score in GREEDY:
                e = eliminate(w, H, method.score == "greedy", group=self.group, backend=backend, floor=floor)
                order, loss = e.order, e.loss.gather(1, e.order)
            else:
                score = self._score(name, weight, w, H, curvature, damp, generator)
                if masks and name in masks:
                    score = score.masked_fill(~masks[name].reshape(w.shape), -1)
                loss, order = self._rank(score)
                e = eliminate(w, H, order=order, backend=backend, floor=floor) if method.update == "joint" else None
            self.fallbacks += e.fallbacks if e else 0
            self.layers[name] = _Layer(
                w, order, loss, e if method.update == "joint" else None, H if method.update == "independent" else None
            )

    def _score(self, name, weight, w, H, curvature, damp, generator) -> Tensor:
        """(n, B) non-negative, lowest goes first."""
        score = self.method.score
        if score == "static":
            return w.square() / H.diagonal(dim1=1, dim2=2) / 2
        if score == "diagonal":
            return w.square() * curvature.diagonal(name, damp) / 2  # B = 1: H_ii = 1 / F_ii
        if score == "wanda":  # the fraction of its row that goes before it, so that a threshold prunes all rows alike
            product = (w.abs() * curvature.diagonal(name, damp).sqrt()).reshape(len(weight), -1)
            return product.argsort(dim=1, stable=True).argsort(dim=1).to(w.dtype).div(product.shape[1]).reshape(w.shape)
        if score == "magnitude":
            return w.abs()
        return torch.rand(w.shape, generator=generator).to(w)

    def _rank(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """(n, B) scores by step, and the order; with N:M first each group's cheapest M - N, the rest infinite."""
        if self.group:
            N, M = self.group
            place = (
                score.reshape(len(score), -1, M).argsort(dim=2, stable=True).argsort(dim=2)
            )  # (n, B / M, M) in its group
            score = score.masked_fill((place >= M - N).reshape(score.shape), torch.inf)
        return score.sort(stable=True, dim=1)

    def spill(self, folder: str) -> None:
        """Moves the factors to files in `folder`; `at` reads them back, one weight tensor at a time."""
        for name, layer in self.layers.items():
            layer.spill(folder, name)

    def join(self, other: "Plan") -> "Plan":
        """Adds another group of weights, solved by the same method: one threshold then covers both."""
        self.shapes |= other.shapes
        self.dtypes |= other.dtypes
        self.layers |= other.layers
        self.fallbacks += other.fallbacks
        return self

    def at(self, sparsity: float = 0.0, allocation: str = "global") -> Pruned:
        """The weights and masks at a sparsity: exactly round(sparsity * d) zeros (per tensor if `uniform`).

        With an N:M pattern the sparsity is implied, and `sparsity` is ignored.

        Raises:
            ValueError: sparsity outside [0, 1], or an unknown allocation.
        """
        check_sparsity(sparsity)
        if allocation not in ALLOCATIONS:
            raise ValueError(f"unknown allocation {allocation!r}; one of {', '.join(ALLOCATIONS)}")
        losses = [layer.loss for layer in self.layers.values()]
        if self.group:
            N, M = self.group
            counts = [torch.full_like(loss[:, 0], loss.shape[1] // M * (M - N), dtype=torch.int64) for loss in losses]
        elif allocation == "global":
            counts = count_removed(losses, round(sparsity * sum(loss.numel() for loss in losses)))
        else:
            counts = [count_removed([loss], round(sparsity * loss.numel()))[0] for loss in losses]
        weights, kept, total = {}, {}, 0.0
        for (name, layer), removed in zip(self.layers.items(), counts):
            step = torch.arange(layer.order.shape[1], device=layer.order.device).expand_as(layer.order)
            mask = torch.ones_like(layer.order, dtype=torch.bool)
            mask.scatter_(1, layer.order, step >= removed.unsqueeze(1))
            w = layer.weights_at(removed, mask, self.method.update)
            last = layer.loss.gather(1, (removed - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
            total += float(last[removed > 0].sum())
            weights[name] = w.reshape(self.shapes[name]).to(self.dtypes[name])
            kept[name] = mask.reshape(self.shapes[name])
        return Pruned(weights, kept, total if self.method[:2] == ("greedy", "joint") else None)
