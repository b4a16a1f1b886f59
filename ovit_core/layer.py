"""One weight tensor solved by a method: an order and a non-decreasing loss in each of its blocks or rows, and what the
kept weights need to be corrected.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ovit_core.curvature import SharedInverse
from ovit_core.elimination import Elimination, eliminate
from ovit_core.fisher import BlockFisher
from ovit_core.inputs import InputHessian
from ovit_core.methods import Method
from ovit_core.pattern import Pattern
from ovit_core.rows import Rows, eliminate_rows

GREEDY = ("greedy", "greedy_frozen")  # scores that an elimination gives
TINY = 1e-15  # far below what rounding leaves of a weight


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
    elimination: Elimination | None = None  # for the joint update,
    rows: Rows | None = None  # and of layer inputs
    inverse: Tensor | None = None  # (n, B, B), for the independent update

    def spill(self, path: Path) -> None:
        """Moves what is as large as the Fisher to a file."""
        if self.elimination is not None:
            self.elimination.factor = mapped(self.elimination.factor, path)
        if self.rows is not None:
            self.rows.matrix = mapped(self.rows.matrix, path)
        if self.inverse is not None:
            self.inverse = mapped(self.inverse, path)

    def weights_at(self, removed: Tensor, mask: Tensor) -> Tensor:
        """(n, B) weights once each block has lost `removed` (n,), those outside `mask` (n, B)."""
        if self.elimination is not None:
            return self.elimination.weights_at(removed, update=True)
        if self.rows is not None:
            return self.rows.weights_at(removed)
        if self.inverse is not None:  # each removal alone moves the others by -(w_p / H_pp) H[p, :]
            H = self.inverse.to(self.weights.device)
            gone = torch.where(mask, 0, self.weights / H.diagonal(dim1=1, dim2=2))  # (n, B)
            moved = torch.bmm(gone.unsqueeze(1), H).squeeze(1)  # (n, B) = (n, 1, B) @ (n, B, B)
            return torch.where(mask, self.weights - moved, 0)
        return self.weights * mask


class Problem(NamedTuple):
    """One weight tensor to be solved."""

    whole: Tensor
    w: Tensor  # (n, B), zero where removed
    removed: Tensor  # (n, B) boolean
    method: Method
    pattern: Pattern
    generator: torch.Generator
    backend: str

    @property
    def start(self) -> Tensor:
        """(n, B) weights to eliminate: with N:M a kept weight that is zero by chance must not take the place of a
        removed one in its group of M.
        """
        apart = self.pattern.structured and self.removed.any()
        return self.w.masked_fill((self.w == 0) & ~self.removed, TINY) if apart else self.w

    def along(self, loss: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """(n, B) losses by step, of those by weight, and the order: the weights that were removed before go first.
        They are zero and, in the curvature, without influence on the others, so nothing changes along the order.
        """
        gone = (~self.removed).gather(1, order).to(torch.int8).argsort(dim=1, stable=True)
        order = order.gather(1, gone)
        return loss.masked_fill(self.removed, -1).gather(1, order), order

    def ranked(self, H: Tensor | None, diagonal: Tensor | None) -> tuple[Tensor, Tensor]:
        """(n, B) scores by step, and the order, of a method that scores all weights at once."""
        score = _score(self.method.score, self.w, len(self.whole), H, diagonal, self.generator)
        return _rank(score.masked_fill(self.removed, -1), self.pattern)


def solve_blocks(
    problem: Problem, curvature: BlockFisher | SharedInverse | None, name: str, damp: float | None, consume: bool
) -> tuple[Layer, int]:
    """A weight solved block by block, by the Fisher or by none, and how many blocks fell back to float64."""
    whole, w, _, method, pattern, _, backend = problem
    diagonal = curvature.diagonal(name, damp) if curvature else None
    H = curvature.inverse(name, damp, consume) if curvature and method.needs_inverse else None
    floor = diagonal.reciprocal() if diagonal is not None else None
    e = None
    if H is not None and method.score in GREEDY:
        e = eliminate(problem.start, H, method.score == "greedy", group=pattern.group, backend=backend, floor=floor)
        loss, e.order = problem.along(e.loss, e.order)
        order = e.order
    else:
        loss, order = problem.ranked(H, diagonal)
        if H is not None and method.update == "joint":
            e = eliminate(w, H, order=order, backend=backend, floor=floor)
    joint, alone = (e if method.update == "joint" else None), (H if method.update == "independent" else None)
    return Layer(whole, w, order, loss, joint, inverse=alone), e.fallbacks if e else 0


def solve_rows(problem: Problem, inputs: InputHessian, name: str, damp: float | None) -> tuple[Layer, int]:
    """A weight solved row by row, by its inputs, and how many rows fell back to float64."""
    whole, w, _, method, pattern, _, backend = problem
    if method.score == "static" or method.update == "independent":
        raise ValueError("the score static and the update independent are there for the Fisher, not for layer inputs")
    F, fallbacks = inputs.matrix(name, damp), 0
    if method.score in GREEDY:
        found = eliminate_rows(
            problem.start, lambda rows: inputs.inverse(name, damp, rows), method.score == "greedy", pattern.group, backend,
            F.diagonal().reciprocal().expand_as(w),
        )  # fmt: skip
        (loss, order), fallbacks = problem.along(found.loss, found.order), found.fallbacks
    else:
        diagonal = inputs.squares(name) if method.score == "wanda" else F.diagonal()
        loss, order = problem.ranked(None, diagonal.expand_as(w))
    return Layer(whole, w, order, loss, rows=Rows(F, w, order) if method.update == "joint" else None), fallbacks


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


def _rank(score: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """(n, B) scores by step, and the order; with N:M first each group's cheapest M - N, the rest infinite."""
    if pattern.structured:
        groups = score.reshape(len(score), -1, pattern.of)  # (n, B / M, M)
        place = groups.argsort(dim=2, stable=True).argsort(dim=2)
        kept = (place >= pattern.removals(pattern.of)).reshape(score.shape) & (score >= 0)  # below 0: gone already
        score = score.masked_fill(kept, torch.inf)
    return score.sort(stable=True, dim=1)
