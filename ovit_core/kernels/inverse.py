"""Inverses of many small positive definite matrices on the CPU: numba, matrices spread over the cores.

LAPACK called once a matrix, as torch does it, opens a parallel region inside each call. Matrices of a block's size are
too small for that: it costs several times the arithmetic on idle cores, and where another process holds a core every
region waits for a time slice. Here all matrices are one region, and a thread has each of its matrices to itself.

F = U^T U with U upper, V = U^-T lower, F^-1 = V^T V. Each step subtracts multiples of rows from a row, eight rows a
pass, over a width rounded up to whole vectors, where the numbers beyond a row's end are zeros.
"""

import numba
import numpy as np
from torch import Tensor

from ovit_core.kernels.compiled import FAST, compiled, torch_threads

LANES = 8  # float64 numbers in the widest vector register of a CPU
BATCH = 16  # matrices that share one work area


@numba.njit(fastmath=FAST, boundscheck=False)
def _subtract(row, C, q, L, first, last, start, stop):
    """row[start:stop] -= sum over first <= j < last of C[j, q] * L[j, start:stop]."""
    j = first
    while j + 8 <= last:
        a0, a1, a2, a3 = C[j, q], C[j + 1, q], C[j + 2, q], C[j + 3, q]
        a4, a5, a6, a7 = C[j + 4, q], C[j + 5, q], C[j + 6, q], C[j + 7, q]
        for i in range(start, stop):
            row[i] -= (
                (a0 * L[j, i] + a1 * L[j + 1, i])
                + (a2 * L[j + 2, i] + a3 * L[j + 3, i])
                + (a4 * L[j + 4, i] + a5 * L[j + 5, i])
                + (a6 * L[j + 6, i] + a7 * L[j + 7, i])
            )
        j += 8
    while j < last:
        a0 = C[j, q]
        for i in range(start, stop):
            row[i] -= a0 * L[j, i]
        j += 1


@numba.njit(fastmath=FAST, boundscheck=False)
def _invert(F, count, damp, out, U, V, row):
    """One matrix, inverted into `out`; False if it is not positive definite. U, V (B, width) and row are work areas."""
    B, width = len(F), len(row)
    for k in range(B):
        start, stop = k // LANES * LANES, k // LANES * LANES + LANES  # of row k of U, and of V
        u, v = U[k], V[k]
        for i in range(start, width):
            u[i] = F[k, i] / count if i < B else 0.0
        u[k] += damp
        _subtract(u, U, k, U, 0, k, start, width)
        if not u[k] > 0:  # also NaN
            return False
        inverse_root = 1 / np.sqrt(u[k])
        for i in range(start, width):
            u[i] *= inverse_root
        v[:] = 0
        _subtract(v, U, k, V, 0, k, 0, stop)
        for i in range(stop):
            v[i] *= inverse_root
        v[k] = inverse_root
    for p in range(B):
        row[:] = 0
        _subtract(row, V, p, V, p, B, 0, p // LANES * LANES + LANES)
        for i in range(p + 1):
            out[p, i] = out[i, p] = -row[i]
    return True


@compiled
def _invert_blocks(F, count, damp, out, done):
    n, B = F.shape[:2]
    width = (B + LANES - 1) // LANES * LANES
    for batch in numba.prange((n + BATCH - 1) // BATCH):
        U, V, row = np.zeros((B, width)), np.zeros((B, width)), np.zeros(width)
        for b in range(batch * BATCH, min(n, batch * BATCH + BATCH)):
            done[b] = _invert(F[b], count, damp, out[b], U, V, row)


def invert_blocks(F: Tensor, count: int, damp: float, out: Tensor) -> int | None:
    """Inverts damp * I + F / count matrix by matrix into `out`, in float64 whatever the dtypes.

    Args:
        F: (n, B, B) float32 or float64, on the CPU.
        count, damp: as of `fisher.invert`.
        out: (n, B, B) contiguous; may be F.

    Returns:
        The first matrix that is not positive definite; None if all are.
    """
    done = np.zeros(len(F), np.bool_)
    with torch_threads():
        _invert_blocks(F.contiguous().numpy(), float(count), float(damp), out.numpy(), done)
    return None if done.all() else int(done.argmin())
