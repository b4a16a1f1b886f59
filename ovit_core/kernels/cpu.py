"""Greedy elimination compiled for the CPU: numba, one block of weights per task, in place in H.

The block is held in elimination order: step k swaps its pivot to position k, so what is left to update is the
contiguous tail k+1..B, the loops shrink as the block empties (B^3/6 multiply-adds in all) and carry no branch.
Only the upper triangle is written. The lower one keeps the original H, from which a block whose float32
arithmetic lost its pivots is eliminated again in float64.
"""

import numba
import numpy as np
import torch
from torch import Tensor

# A float32 pivot this small against its undowndated value has lost about half of its digits.
LOST = 1e-4
# "contract" allows fused multiply-add and the rest lets loops vectorize; NaN and infinity keep their meaning.
FAST = {"contract", "reassoc", "nsz"}


@numba.njit(fastmath=FAST, cache=True, boundscheck=False)
def _eliminate_block(H, w, start, floor, order, given, N, M, update, lost, loss, coefficients):
    """One block in place; returns False as soon as a pivot falls under `lost` times its original value."""
    B = w.size
    steps = B if M == 0 else B // M * (M - N)
    diag, original = np.empty_like(w), np.empty_like(w)
    score, locked = np.empty_like(w), np.zeros_like(w)  # locked: 0, or infinity once N:M keeps the weight
    position = np.empty(B, np.int64)  # of a weight in the permuted block; `order` is its inverse
    removed = np.zeros(B // M if M else 1, np.int64)
    for i in range(B):
        diag[i] = H[i, i]
        original[i] = H[i, i]
        position[i] = i
        score[i] = start[i] * start[i] / max(diag[i], floor[i])
    total, guard = 0.0, lost < 0
    zero, one = w.dtype.type(0), w.dtype.type(1)

    for k in range(steps):
        # 1. The pivot: the cheapest weight, the lowest index among equals, or the given one.
        if given.size:
            q = position[given[k]]
        else:
            least = np.inf
            for i in range(k, B):
                least = min(least, score[i])
            q, p = -1, B
            for i in range(k, B):
                if score[i] == least and locked[i] == 0 and order[i] < p:
                    q, p = i, order[i]
            if q < 0:  # NaN scores: nothing compares equal
                return False
        # 2. Swap it to position k, in the upper triangle alone.
        if q != k:
            for i in range(k):
                H[i, k], H[i, q] = H[i, q], H[i, k]
            for i in range(k + 1, q):
                H[k, i], H[i, q] = H[i, q], H[k, i]
            for i in range(q + 1, B):
                H[k, i], H[q, i] = H[q, i], H[k, i]
            H[k, k], H[q, q] = H[q, q], H[k, k]
            for a in (w, start, floor, diag, original, locked):
                a[k], a[q] = a[q], a[k]
            order[k], order[q] = order[q], order[k]
            position[order[k]], position[order[q]] = k, q
        # 3. Its row of the downdated H: H[k, :] - sum_j l_j[k] l_j, eight earlier rows a pass.
        row = H[k]
        j = 0
        while j + 8 <= k:
            r0, r1, r2, r3 = H[j], H[j + 1], H[j + 2], H[j + 3]
            r4, r5, r6, r7 = H[j + 4], H[j + 5], H[j + 6], H[j + 7]
            a0, a1, a2, a3, a4, a5, a6, a7 = r0[k], r1[k], r2[k], r3[k], r4[k], r5[k], r6[k], r7[k]
            for i in range(k + 1, B):
                row[i] -= (
                    (a0 * r0[i] + a1 * r1[i])
                    + (a2 * r2[i] + a3 * r3[i])
                    + (a4 * r4[i] + a5 * r5[i])
                    + (a6 * r6[i] + a7 * r7[i])
                )
            j += 8
        while j < k:
            r0, a0 = H[j], H[j, k]
            for i in range(k + 1, B):
                row[i] -= a0 * r0[i]
            j += 1
        # 4. Remove it: the tail's weights, diagonal and scores follow.
        pivot = diag[k]
        if not pivot > lost * original[k]:
            return False
        pivot = max(pivot, floor[k])
        root = np.sqrt(pivot)
        inverse_root = one / root
        c = w[k] * inverse_root
        v = w[k] if update else start[k]
        total += 0.5 * float(v) * float(v) / float(pivot)
        loss[order[k]] = total
        coefficients[k] = c
        row[k] = root
        for i in range(k + 1, B):
            l = row[i] * inverse_root
            if guard:
                # A positive definite H has l_i^2 <= H_ii; rounding that breaks this would grow without bound.
                bound = np.sqrt(max(diag[i] - floor[i], zero))
                l = min(max(l, -bound), bound)
            row[i] = l
            w[i] -= c * l
            diag[i] -= l * l
        if update:
            for i in range(k + 1, B):
                score[i] = w[i] * w[i] / max(diag[i], floor[i])
        else:
            for i in range(k + 1, B):
                score[i] = start[i] * start[i] / max(diag[i], floor[i])
        if M:
            g = order[k] // M
            removed[g] += 1
            if removed[g] == M - N:
                for m in range(g * M, g * M + M):
                    locked[position[m]] = np.inf
            for i in range(k + 1, B):
                score[i] += locked[i]
    return True


@numba.njit(cache=True)
def _unpermute(H, order, steps):
    """Rewrites rows l_k from elimination order to the weights' own order, zero where they are not defined."""
    B = order.size
    row = np.empty(B, H.dtype)
    for k in range(B):
        row[:] = 0
        if k < steps:
            for i in range(k, B):
                row[order[i]] = H[k, i]
        H[k] = row


@numba.njit(parallel=True, cache=True)
def _eliminate_blocks(weights, H, floor, given, N, M, update, lost, loss, order, coefficients, fallback):
    n, B = weights.shape
    steps = B if M == 0 else B // M * (M - N)
    for b in numba.prange(n):
        none = given[b] if given.shape[0] else given[0:0].reshape(0)
        w, start, bound = weights[b].copy(), weights[b].copy(), floor[b].copy()
        corner = np.diag(H[b]).copy()
        order[b] = np.arange(B)
        ok = _eliminate_block(H[b], w, start, bound, order[b], none, N, M, update, lost, loss[b], coefficients[b])
        if not ok:
            # Start again in float64 from the lower triangle, which the attempt left alone; the clamp still holds.
            fallback[b] = 1
            D = np.empty((B, B), np.float64)
            for i in range(B):
                D[i, i] = corner[i]
                for j in range(i):
                    D[i, j] = D[j, i] = H[b, i, j]
            order[b], loss[b], coefficients[b] = np.arange(B), np.inf, 0
            w64, loss64, c64 = weights[b].astype(np.float64), np.full(B, np.inf), np.zeros(B)
            bound64 = floor[b].astype(np.float64)
            if not _eliminate_block(D, w64, w64.copy(), bound64, order[b], none, N, M, update, -np.inf, loss64, c64):
                fallback[b] = 2
            loss[b], coefficients[b] = loss64, c64
            H[b] = D
        _unpermute(H[b], order[b], steps)


def eliminate_blocks(
    weights: Tensor, H: Tensor, update: bool, order: Tensor | None, group: tuple[int, int] | None, floor: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """The compiled form of `reference.eliminate_blocks`: same arguments and results, H becomes the factor."""
    n, B = weights.shape
    w = weights.contiguous().numpy()
    bound = (H.diagonal(dim1=1, dim2=2) * torch.finfo(H.dtype).eps if floor is None else floor.to(H.dtype)).contiguous()
    loss, coefficients = np.full((n, B), np.inf, w.dtype), np.zeros((n, B), w.dtype)
    sequence, fallback = np.zeros((n, B), np.int64), np.zeros(n, np.int64)
    given = np.zeros((0, B), np.int64) if order is None else order.contiguous().numpy()
    N, M = group or (0, 0)
    # In float64 there is no wider type to fall back to: a lost pivot is clamped at once.
    lost = w.dtype.type(LOST if w.dtype == np.float32 else -np.inf)
    # numba and torch may share one OpenMP runtime: use torch's number of threads, and give it back as it was.
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    _eliminate_blocks(w, H.numpy(), bound.numpy(), given, N, M, update, lost, loss, sequence, coefficients, fallback)
    torch.set_num_threads(threads)
    if (fallback == 2).any():
        bad = int((fallback == 2).argmax())
        raise FloatingPointError(f"block {bad} of {n}: weights or inverse Fisher are not finite")
    if group is not None:  # the survivors, in their own order, complete the permutation
        steps = B // M * (M - N)
        sequence[:, steps:].sort(axis=1)
    return *map(torch.from_numpy, (loss, sequence, coefficients)), H, int((fallback > 0).sum())
