"""Greedy Optimal Brain Surgeon inside each block, as a Cholesky factorization with chosen pivots.

Removing weight p costs w_p^2 / (2 H_pp) and moves the others by -(w_p / H_pp) H[:, p]; H loses
H[:, p] H[p, :] / H_pp (oViT section 3.2, algorithm 1). With l_k = H[p, :] / sqrt(H_pp) and c_k = w_p / sqrt(H_pp)
that is one Cholesky step whose pivot the score chooses, so

    accumulated loss = sum_k c_k^2 / 2,     weights after K removals = w - sum_{k<K} c_k l_k,

and one factorization holds the whole accuracy-sparsity curve.
"""

import importlib
import importlib.util
import logging
import os
import shutil
from dataclasses import dataclass

import torch
from torch import Tensor

from ovit_core.fisher import ieee_float32

BACKENDS = ("auto", "gpu", "cpu", "reference")
GPU_MAX_BLOCK = 1024  # weights of a block that fit the registers of one Triton program
log = logging.getLogger(__name__)


@dataclass
class Elimination:
    """What `eliminate` found; n blocks of B weights each."""

    loss: Tensor  # (n, B) accumulated loss by weight, in units of the loss; infinite for weights N:M keeps for good
    order: Tensor  # (n, B) int64 weight index by step; loss is monotone along it
    weights: Tensor  # (n, B) before any removal
    coefficients: Tensor  # (n, B) by weight: c_k of the step k that removes it, 0 if none does
    factor: Tensor  # (n, B, B) row p is l_k of the step k that removes weight p, 0 if none does
    update: bool  # whether the scores saw the corrected weights; also the default of `weights_at`
    fallbacks: int = 0  # blocks eliminated again in float64

    def weights_at(self, removed: Tensor, update: bool | None = None) -> Tensor:
        """The weights once each block has lost its first `removed` weights.

        Args:
            removed: (n,) or (k, n) integer counts in 0..B.
            update: correct the kept weights (joint OBS update) or only zero the removed ones;
                None means as the elimination was run.

        Returns:
            (n, B) or (k, n, B), exactly zero at the removed weights.
        """
        n, B = self.weights.shape
        counts = removed.reshape(-1, n).T.to(self.weights.device)  # (n, k)
        step = torch.arange(B, device=self.weights.device)
        rank = torch.empty_like(self.order).scatter_(1, self.order, step.expand(n, B))  # (n, B) step by weight
        gone = rank.unsqueeze(1) < counts.unsqueeze(2)  # (n, k, B)
        w = self.weights.unsqueeze(1)
        if self.update if update is None else update:
            with ieee_float32():
                factor = self.factor.to(w.device)  # from a file, if it was moved there
                w = w - torch.bmm(self.coefficients.unsqueeze(1) * gone, factor)  # (n, k, B) @ (n, B, B)
        w = torch.where(gone, 0, w)
        return w.transpose(0, 1).reshape(*removed.shape, B)


def choose_backend(backend: str, device: torch.device, B: int) -> str:
    """The backend that runs: for `auto` the compiled one of the device, or the next that can, with a log line.

    Raises:
        ValueError: no such backend, or it cannot take tensors of this device or size; says why.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; one of {', '.join(BACKENDS)}")
    gpu = ""  # why it cannot run
    if importlib.util.find_spec("triton") is None:
        gpu = "triton is not installed"
    elif device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        gpu = f"it takes tensors on a GPU, not on {device}"
    elif device.type == "cuda" and not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
        gpu = "triton compiles with a C compiler, and there is none (CC, cc, gcc, clang)"
    elif B > GPU_MAX_BLOCK:
        gpu = f"it takes blocks of at most {GPU_MAX_BLOCK} weights, not {B}"
    if backend == "auto" and device.type != "cpu":
        if gpu:
            log.warning("elimination falls back to the plain torch backend: %s", gpu)
        return "reference" if gpu else "gpu"
    cpu = "" if device.type == "cpu" else f"it takes tensors on the CPU, not on {device}"
    backend = "cpu" if backend == "auto" else backend
    if why_not := dict(gpu=gpu, cpu=cpu).get(backend):
        raise ValueError(f"backend {backend!r} cannot run here: {why_not}")
    return backend


def eliminate(
    weights: Tensor,
    H: Tensor,
    update: bool = True,
    order: Tensor | None = None,
    group: tuple[int, int] | None = None,
    backend: str = "auto",
    floor: Tensor | None = None,
) -> Elimination:
    """Eliminates all weights of every block, cheapest first.

    Args:
        weights: (n_blocks, B) float32 or float64.
        H: (n_blocks, B, B) inverse Fisher, same dtype. Consumed: its memory may become the factor.
        update: score with the weights corrected after every removal (greedy) or as given (greedy_frozen).
            The factor and coefficients describe the joint update either way.
        order: (n_blocks, B) a given elimination order: applies the joint update to another method's mask.
        group: (N, M) stops once every M consecutive weights keep N.
        backend: `gpu` (Triton), `cpu` (numba), `reference` (torch, any device), or `auto`.
        floor: (n_blocks, B) the pivots' lower bound 1 / F_pp, against rounding in ill-conditioned blocks.

    Raises:
        ValueError: shapes, dtypes, group or backend do not fit; says which.
        FloatingPointError: a block holds numbers that are not finite.
    """
    n, B = weights.shape
    if H.shape != (n, B, B):
        raise ValueError(f"H must be {(n, B, B)} for weights {(n, B)}, not {tuple(H.shape)}")
    if weights.dtype != H.dtype or weights.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"weights and H must both be float32 or both float64, not {weights.dtype} and {H.dtype}")
    if order is not None and not torch.equal(order.sort(1).values, torch.arange(B, device=order.device).expand(n, B)):
        raise ValueError(f"order must hold a permutation of 0..{B - 1} in each of its {n} rows")
    if group is not None:
        N, M = group
        if not 0 < N < M or B % M:
            raise ValueError(f"group ({N}, {M}) must keep 0 < N < M and M must divide the block size {B}")
        if order is not None:
            raise ValueError("give an order or a group, not both: a group chooses its own order")
    # Imported here: compiling a backend takes seconds that only its users should spend.
    kernel = importlib.import_module(f"ovit_core.kernels.{choose_backend(backend, weights.device, B)}")
    with torch.no_grad(), ieee_float32():
        # H is symmetric, and torch's solvers return it column by column: either way of reading it saves a copy.
        H = H.mT if H.mT.is_contiguous() else H.contiguous()
        found = kernel.eliminate_blocks(weights, H, update, order, group, floor)
    loss, sequence, coefficients, factor, fallbacks = found
    return Elimination(loss, sequence, weights, coefficients, factor, update, fallbacks)
