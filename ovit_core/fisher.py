"""Block-diagonal empirical Fisher: accumulate gradients by batched matrix products, then invert block by block.

    F = damp * I + (1/m) * sum_i g_i g_i^T        (oViT section 3; WoodFisher, Singh & Alistarh 2020)

A block is B consecutive weights of one output row. The sum is kept as it is and factorized once, instead of one
rank-one update of F^-1 per gradient: the same matrix, m times less memory traffic.
"""

import math
from collections.abc import Collection
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numbers of float64 in each of the three work areas while blocks are factorized. Above 32 MiB, so that malloc gives
# them back to the system each time: smaller ones would be taken from the heap, and pinned there by what outlives them.
WORK = 2**23
COMPILED = 512  # the largest block that the compiled inverse takes: beyond, LAPACK's blocked form is as fast


def chunk_size(block_size: int) -> int:
    """Gradients gathered before one matrix product: 32, fewer for large blocks (at B = 192, where the Fisher itself is
    192 times the weights, 16 times the weights)."""
    return max(1, min(32, 3072 // block_size))


@contextmanager
def ieee_float32():
    """Keeps float32 matrix products in float32: TF32 rounds gradients to 10 bits and reorders the scores."""
    backends = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    new = [b for b in backends if hasattr(b, "fp32_precision")]
    # A library that was told by one of torch's two interfaces may raise when it is asked by the other: the new one first.
    before, old = [b.fp32_precision for b in new], "" if new else torch.get_float32_matmul_precision()
    try:
        for backend in new:
            backend.fp32_precision = "ieee"
        if not new:
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        for backend, precision in zip(new, before):
            backend.fp32_precision = precision
        if not new:
            torch.set_float32_matmul_precision(old)


def fit_block_size(row_length: int, block_size: int, multiple: int = 1) -> int:
    """The largest divisor of `row_length` that is at most `block_size` and a multiple of `multiple` (N:M's M): blocks
    never straddle a row. ValueError if there is none.
    """
    for b in range(min(block_size, row_length), 0, -1):
        if row_length % b == 0 and b % multiple == 0:
            return b
    raise ValueError(
        f"rows of {row_length} weights have no block size of at most {block_size} that is a multiple of {multiple}"
    )


def invert(F: Tensor, count: int, damp: float, name: str, out: Tensor, unit: float = 1.0) -> Tensor:
    """Inverts damp * I + F / count block by block into `out` (which may be F), factorized in float64.

    Args:
        F: (n, B, B) sums of outer products.
        count: of how many.
        damp: lambda.
        name: of the weight, for the error.
        unit: of the lambda that the user gave, for the error.

    Raises:
        torch.linalg.LinAlgError: a block is not positive definite; names it and a lambda that would work.
    """
    trace = float(F.diagonal(dim1=1, dim2=2).sum(1).max()) / count  # before `out` overwrites it
    if F.device.type == "cpu" and F.shape[1] <= COMPILED:
        from ovit_core.kernels.inverse import invert_blocks  # seconds that only who inverts on a CPU should spend
    else:
        invert_blocks = _invert_in_chunks
    if (bad := invert_blocks(F, count, damp, out)) is not None:
        # Rounding of the sum moves eigenvalues by about eps * trace: a lambda above that works.
        work = max(trace * torch.finfo(F.dtype).eps, 10 * damp)
        raise torch.linalg.LinAlgError(
            f"the curvature of {name}, block {bad} of {len(F)}, is not positive definite with "
            f"damp={damp / unit:g}; damp={work / unit:.0e} would work"
        )
    return out


def _invert_in_chunks(F: Tensor, count: int, damp: float, out: Tensor) -> int | None:
    """As `kernels.inverse.invert_blocks`, by LAPACK or on a GPU, some blocks at a time; stops at the first bad one."""
    parts = -(-F.numel() // WORK)  # of nearly equal size
    step = -(-len(F) // parts)
    for i in range(0, len(F), step):
        A = F[i : i + step].double() / count
        A.diagonal(dim1=1, dim2=2).add_(damp)
        C, info = torch.linalg.cholesky_ex(A)  # (step, B, B) -> lower (step, B, B)
        if info.any():
            return i + int(info.nonzero()[0])
        out[i : i + step] = torch.cholesky_inverse(C)  # (step, B, B)
    return None


def _copy_and_sum(gradient: Tensor, row: Tensor) -> Any:
    """Copies a gradient into a contiguous row of as many numbers; returns their sum, which tells whether all are finite.

    On a CPU by numpy, in this thread: torch would open a parallel region for each operation, and where another process
    holds one of the cores every region waits for a time slice, longer than the copy takes.
    """
    if row.device.type != "cpu":
        return row.copy_(gradient.reshape(row.shape)).sum()
    if gradient.dtype not in (torch.float16, torch.float32, torch.float64):  # bfloat16: numpy does not know it
        gradient = gradient.to(row.dtype)
    into = row.view(gradient.shape).numpy()
    with np.errstate(all="ignore"):
        np.copyto(into, gradient.numpy(force=True))
        return into.sum()


def _all_finite(sums: Collection[Any]) -> bool:
    """Whether all are finite; of sums on a GPU with one wait for it."""
    if any(torch.is_tensor(s) for s in sums):
        return bool(torch.stack(list(sums)).isfinite().all())
    return all(map(math.isfinite, sums))


class BlockFisher:
    """The empirical Fisher of several weights, one (B, B) block per B consecutive weights of a row.

    Args:
        shapes: name -> shape of a weight; everything after the first dimension is one row.
        block_size: B wanted; each weight gets its row length's divisor nearest below or at it (`block_sizes`).
        damp: lambda, added to the diagonal. Absolute, so it depends on the gradients' scale: per-sample
            gradients need another value than gradients of a mini-batch mean.
        device: where the blocks live.
        dtype: of the sum and of its inverse. float32 for size; float64 where it fits, so that a small lambda is
            not lost in the rounding of a large sum.
        multiple: B is a multiple of it, for N:M patterns.

    Raises:
        ValueError: block_size < 1, damp <= 0, no shapes, or no block size that fits a row.
    """

    def __init__(
        self,
        shapes: dict[str, torch.Size],
        block_size: int = 192,
        damp: float = 1e-8,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        multiple: int = 1,
    ):
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, not {block_size}")
        if not damp > 0:
            raise ValueError(f"damp must be positive, not {damp}: it is what makes the Fisher invertible")
        if not shapes:
            raise ValueError("no weights given: a Fisher needs at least one")
        self.damp, self.device, self.dtype = damp, device, dtype
        self.chunk = chunk_size(block_size)
        self.shapes = {name: torch.Size(shape) for name, shape in shapes.items()}
        self.block_sizes = {n: fit_block_size(s[1:].numel(), block_size, multiple) for n, s in self.shapes.items()}
        self.count = 0  # gradients added
        self.losses: list[float] = []  # of their mini-batches, if known: tells whether another pass saw the same ones
        self._pending = 0  # of them, not yet in _sum
        self._sum: dict[str, Tensor] = {}
        self._chunk: dict[str, Tensor] = {}
        # One buffer for all chunks: small tensors would leave holes in the heap when they go, a large one does not.
        sizes = [shape.numel() * self.chunk for shape in self.shapes.values()]
        buffer = torch.empty(sum(sizes), device=device, dtype=dtype)
        for (name, B), part in zip(self.block_sizes.items(), buffer.split(sizes)):
            n = self.shapes[name].numel() // B
            self._sum[name] = torch.zeros(n, B, B, device=device, dtype=dtype)
            self._chunk[name] = part.view(self.chunk, n, B)  # a gradient is a row: one copy, from front to back

    def add(self, gradients: dict[str, Tensor]) -> None:
        """Adds one gradient of the loss: name -> tensor of that weight's shape.

        Raises:
            KeyError: a weight has no gradient.  ValueError: a shape differs.
            FloatingPointError: a gradient is not finite; names the weight and its block.
        """
        for name, shape in self.shapes.items():
            if (given := gradients[name].shape) != shape:
                raise ValueError(f"gradient of {name} has shape {tuple(given)}, its weight {tuple(shape)}")
        rows = {name: self._chunk[name][self._pending] for name in self.shapes}  # (n, B)
        if not _all_finite([_copy_and_sum(gradients[name].detach(), row) for name, row in rows.items()]):
            for name, row in rows.items():  # a sum may also overflow: only the numbers themselves tell
                if (odd := ~torch.isfinite(row).all(1)).any():
                    raise FloatingPointError(
                        f"gradient {self.count} of {name} is not finite in block {int(odd.nonzero()[0])}"
                    )
        self.count, self._pending = self.count + 1, self._pending + 1
        if self._pending == self.chunk:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            with ieee_float32():
                for name, F in self._sum.items():
                    G = self._chunk[name][: self._pending].transpose(0, 1)  # (n, chunk, B)
                    F.baddbmm_(G.transpose(1, 2), G)  # (n, B, B) += (n, B, chunk) @ (n, chunk, B)
        self._pending = 0

    def diagonal(self, name: str, damp: float | None = None) -> Tensor:
        """(n_blocks, B) diagonal of F, damping included."""
        self._flush()
        return self._sum[name].diagonal(dim1=1, dim2=2) / max(self.count, 1) + (damp or self.damp)

    def inverse(self, name: str, damp: float | None = None, consume: bool = False) -> Tensor:
        """(n_blocks, B, B) inverse of F in the Fisher's dtype, factorized in float64 chunk by chunk.

        Args:
            name: which weight.
            damp: another lambda than the Fisher's own; the accumulated sum serves all of them.
            consume: overwrite the accumulated sum, so that no second tensor of its size is needed. No gradient can
                be added after that.

        Raises:
            torch.linalg.LinAlgError: a block is not positive definite; names it and a lambda that would work.
        """
        self._flush()
        F = self._sum[name]
        if consume:
            self._chunk.clear()  # no gradient can be added any more
        H = invert(F, max(self.count, 1), damp or self.damp, name, F if consume else torch.empty_like(F))
        if consume:
            del self._sum[name]
        return H
