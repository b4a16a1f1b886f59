"""Whole rows that share one matrix: elimination on the Hessian of a layer's inputs, in a stream of rows.

All rows of a layer have the same X^T X / n (OBC, Frantar & Alistarh 2022), but each has an order of its own, and so a
factor of its own as large as the matrix. No factor outlives its chunk of rows: the elimination keeps orders and losses,
and weights at a sparsity are read from the matrix by the closed form of the joint update,

    w_K <- w_K + F_KK^-1 F_KS w_S,

which takes only the part of the matrix that a row keeps: K^3 / 3 operations against B^3 / 3 of a factorization.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ovit_core.elimination import choose_backend, eliminate
from ovit_core.fisher import WORK, ieee_float32

GPU = 16  # times as many numbers in the work area there: a GPU wants many rows at once


class Ranked(NamedTuple):
    """What an elimination of n rows of B weights leaves of itself."""

    loss: Tensor  # (n, B) accumulated loss by weight, infinite for weights N:M keeps for good
    order: Tensor  # (n, B) int64 weight index by step
    fallbacks: int  # rows eliminated again in float64


def work_area(device: torch.device) -> int:
    """Numbers of a chunk's matrices."""
    return WORK * (1 if device.type == "cpu" else GPU)


def eliminate_rows(
    weights: Tensor,
    inverse: Callable[[slice], Tensor],
    update: bool = True,
    group: tuple[int, int] | None = None,
    backend: str = "auto",
    floor: Tensor | None = None,
    chunk: int | None = None,
) -> Ranked:
    """`eliminate` for rows whose inverses are made a chunk at a time.

    Args:
        weights: (n, B).
        inverse: of a slice of k rows, (k, B, B) in the weights' dtype; copied, so one matrix may stand for all.
        update, group, backend, floor: as of `eliminate`.
        chunk: rows at a time; None for as many as fit a work area.
    """
    n, B = weights.shape
    backend, chunk = choose_backend(backend, weights.device, B), chunk or max(1, work_area(weights.device) // B**2)
    loss, order, fallbacks = torch.empty_like(weights), torch.empty_like(weights, dtype=torch.int64), 0
    for i in range(0, n, chunk):
        part = slice(i, min(n, i + chunk))
        H = inverse(part).clone(memory_format=torch.contiguous_format)  # (k, B, B)
        bound = None if floor is None else floor[part]
        e = eliminate(weights[part], H, update, group=group, backend=backend, floor=bound)
        loss[part], order[part], fallbacks = e.loss, e.order, fallbacks + e.fallbacks
    return Ranked(loss, order, fallbacks)


@dataclass
class Rows:
    """The joint update of rows that share a matrix; rows that a mask has touched too, for what it removed is zero."""

    matrix: Tensor  # (B, B) F, lambda included
    weights: Tensor  # (n, B) before any removal
    order: Tensor  # (n, B) weight by step

    @torch.no_grad()
    def weights_at(self, removed: Tensor, chunk: int | None = None) -> Tensor:
        """The weights once each row has lost its first `removed` weights and the others were corrected together.

        Args:
            removed: (n,) integer counts in 0..B.
            chunk: rows at a time; None for as many as fit a work area.

        Returns:
            (n, B), exactly zero at the removed weights.
        """
        B = self.weights.shape[1]
        F = self.matrix.to(self.weights.device)  # from a file, if it was moved there
        left = B - removed.to(F.device)
        gone = torch.zeros_like(self.order, dtype=torch.bool)
        gone.scatter_(1, self.order, torch.arange(B, device=F.device) < removed.unsqueeze(1).to(F.device))
        with ieee_float32():
            pull = (self.weights * gone) @ F  # (n, B) @ (B, B): F_KS w_S at what is kept
        out = self.weights.masked_fill(gone, 0)
        rows = ((left > 0) & (left < B)).nonzero().squeeze(1)
        rows = rows[left[rows].argsort()]  # rows of a chunk keep about as many
        while len(rows):
            # The last row of a chunk keeps the most, K, and says how large its matrices are.
            numbers = left[rows].square() * torch.arange(1, len(rows) + 1, device=F.device)
            size = chunk or max(1, int((numbers <= work_area(F.device)).sum()))
            part, rows = rows[:size], rows[size:]
            K = int(left[part[-1]])
            index = self.order[part, B - K :]  # (k, K): of a row that keeps fewer, removed ones come first
            inside = torch.arange(K, device=F.device) >= K - left[part].unsqueeze(1)  # (k, K)
            A = F[index.unsqueeze(2), index.unsqueeze(1)].double() * inside.unsqueeze(1) * inside.unsqueeze(2)
            A.diagonal(dim1=1, dim2=2).add_(~inside)  # (k, K, K), the identity for what is not kept
            b = (pull[part].gather(1, index) * inside).double().unsqueeze(2)  # (k, K, 1)
            moved = torch.cholesky_solve(b, torch.linalg.cholesky(A)).squeeze(2)  # (k, K)
            out[part] = out[part].scatter_add(1, index, (moved * inside).to(out.dtype))
        return out
