"""Greedy elimination compiled for the CPU: numba, blocks of weights spread over the cores.

A block works on a compact copy of its factor: every PERIOD removals the columns of the weights that are gone are
squeezed out, so the loops shrink as the block empties; between two squeezes they run over a fixed width, a multiple
of LANES, without a branch, and what they compute for weights already gone is multiplied by zero. Measured, this is
worth several times the arithmetic it wastes: a tail loop of any length k+1..B spends most of its time in its remainder.

Each block is copied aside (it stays in the core's cache) and l_k then goes to row p_k of H; from the copy a block
whose float32 arithmetic lost its pivots starts again in float64.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from ovit_core.kernels import LOST
from ovit_core.kernels.compiled import FAST, compiled, torch_threads

LANES = 16  # float32 numbers in the widest vector register of a CPU
PERIOD = 32  # removals between two squeezes
BATCH = 32  # blocks that share one work area, at most


@numba.njit(fastmath=FAST | {"nnan"}, boundscheck=False)  # without nnan a minimum does not vectorize
def _cheapest(score, width):
    """The first position of the least score; width if there is none, which means NaN."""
    a = b = c = d = score.dtype.type(np.inf)
    for i in range(0, width, 4):
        a, b, c, d = min(a, score[i]), min(b, score[i + 1]), min(c, score[i + 2]), min(d, score[i + 3])
    least, i = min(min(a, b), min(c, d)), 0
    while i < width and score[i] != least:
        i += 1
    return i


@numba.njit(fastmath=FAST, boundscheck=False)
def _downdate(row, L, q, k, width):
    """row[:width] -= sum over the first k rows l of L of l[q] * l[:width], eight of them a pass."""
    for j in range(0, k // 8 * 8, 8):
        a0, a1, a2, a3 = L[j, q], L[j + 1, q], L[j + 2, q], L[j + 3, q]
        a4, a5, a6, a7 = L[j + 4, q], L[j + 5, q], L[j + 6, q], L[j + 7, q]
        for i in range(width):
            row[i] -= (
                (a0 * L[j, i] + a1 * L[j + 1, i])
                + (a2 * L[j + 2, i] + a3 * L[j + 3, i])
                + (a4 * L[j + 4, i] + a5 * L[j + 5, i])
                + (a6 * L[j + 6, i] + a7 * L[j + 7, i])
            )
    for j in range(k // 8 * 8, k):
        a0 = L[j, q]
        for i in range(width):
            row[i] -= a0 * L[j, i]


@numba.njit(fastmath=FAST, boundscheck=False)
def _remove(row, w, diag, floor, score, barred, alive, start, c, inverse_root, update, width):
    """row becomes l; the weights, the diagonal of H and the scores follow."""
    for i in range(width):
        l = row[i] * inverse_root * alive[i]
        v, d = w[i] - c * l, diag[i] - l * l
        row[i], w[i], diag[i] = l, v, d
        if update:  # hoisted by the compiler: two loops without a branch
            score[i] = v * v / max(d, floor[i]) + barred[i]
        else:
            score[i] = start[i] * start[i] / max(d, floor[i]) + barred[i]


@numba.njit(fastmath=FAST, boundscheck=False)
def _squeeze(state, weight, place, L, live, k):
    """Drops the positions of weights that are gone, in `state` and in the first k rows of L; returns how many stay."""
    keep, t = np.empty(live, np.int64), 0
    for i in range(live):
        if place[weight[i]] >= 0:
            keep[t] = i
            t += 1
    for i in range(t):
        weight[i] = weight[keep[i]]
        place[weight[i]] = i
    for r in range(state.shape[0]):
        for i in range(t):
            state[r, i] = state[r, keep[i]]
    for j in range(k):
        for i in range(t):
            L[j, i] = L[j, keep[i]]
        for i in range(t, live):
            L[j, i] = 0
    return t


@numba.njit(fastmath=FAST, boundscheck=False)
def _eliminate_block(
    H, weights, least_pivot, given, N, M, update, lost, loss, order, coefficients, factor, L, state, index
):
    """One block; returns how many weights were removed, fewer than asked if a pivot fell under `lost` times its
    original value or something is not finite.

    H is only read; L (B, width), state (7, width) and index (2, B) are work areas; width is a multiple of LANES.
    """
    B, width = weights.size, L.shape[1]
    steps = B if M == 0 else B // M * (M - N)
    w, start, diag, floor = state[0], state[1], state[2], state[3]
    score, barred, alive = state[4], state[5], state[6]
    weight, place = index[0], index[1]  # weight by compact position; position by weight, -1 once it is gone
    removed, original = np.zeros(B // M if M else 1, np.int64), np.empty_like(weights)
    one, zero, inf = w.dtype.type(1), w.dtype.type(0), w.dtype.type(np.inf)
    state[:, B:] = one
    for i in range(B):
        w[i] = start[i] = weights[i]
        diag[i] = original[i] = H[i, i]
        floor[i] = least_pivot[i]
        barred[i], alive[i] = zero, one  # barred: infinite once the weight is gone, or N:M keeps it
        score[i] = w[i] * w[i] / max(diag[i], floor[i])
        weight[i] = place[i] = i
    for i in range(B, width):  # beyond the weights: never the cheapest
        score[i] = barred[i] = inf
    live, total, guard = B, 0.0, lost < 0

    for k in range(steps):
        # 1. The pivot: the cheapest weight, the lowest index among equals, or the given one.
        q = 0
        if given.size:
            q = place[given[k]]
        else:
            q = _cheapest(score, width)
            if q >= live or barred[q] != zero:  # NaN scores: nothing compares equal
                return k
        p = weight[q]
        # 2. Its row of the downdated H: H[p, :] - sum_j l_j[p] l_j.
        row = L[k]
        for i in range(live):
            row[i] = H[p, weight[i]]
        for i in range(live, width):
            row[i] = zero
        _downdate(row, L, q, k, width)
        # 3. Remove it.
        pivot = diag[q]
        if not pivot > lost * original[p]:
            return k
        pivot = max(pivot, floor[q])
        root = np.sqrt(pivot)
        c, v = w[q] / root, w[q] if update else start[q]
        total += 0.5 * float(v) * float(v) / float(pivot)
        if not total < np.inf:
            return k
        loss[p], order[k], coefficients[p] = total, p, c
        if guard:  # a positive definite H has l_i^2 <= H_ii; rounding that breaks this would grow without bound
            for i in range(live):
                bound = np.sqrt(max(diag[i] - floor[i], zero)) * root
                row[i] = min(max(row[i], -bound), bound)
        barred[q], alive[q], place[p] = inf, zero, -1
        if M:
            removed[p // M] += 1
            if removed[p // M] == M - N:
                for m in range(p // M * M, p // M * M + M):
                    if place[m] >= 0:
                        barred[place[m]] = inf
        _remove(row, w, diag, floor, score, barred, alive, start, c, one / root, update, width)
        for i in range(B):
            factor[p, i] = zero
        for i in range(live):
            factor[p, weight[i]] = row[i]
        factor[p, p] = root
        # 4. Every so often, squeeze out the columns of the weights that are gone.
        if (k + 1) % PERIOD == 0 and k + 1 < steps:
            live = _squeeze(state, weight, place, L, live, k + 1)
            width = (live + LANES - 1) // LANES * LANES
            for i in range(live, width):
                w[i], diag[i], floor[i], score[i], barred[i] = zero, one, one, inf, inf
                start[i] = alive[i] = zero
    return steps


@compiled
def _eliminate_blocks(weights, H, floor, given, N, M, update, lost, loss, order, coefficients, fallback, size):
    n, B = weights.shape
    steps = B if M == 0 else B // M * (M - N)
    width = (B + LANES - 1) // LANES * LANES
    for batch in numba.prange((n + size - 1) // size):
        aside, L, state = np.empty((B, B), H.dtype), np.empty((B, width), H.dtype), np.empty((7, width), H.dtype)
        index = np.empty((2, B), np.int64)
        for b in range(batch * size, min(n, batch * size + size)):
            none = given[b] if given.shape[0] else given[0:0].reshape(0)
            aside[:] = H[b]
            done = _eliminate_block(
                aside, weights[b], floor[b], none, N, M, update, lost,
                loss[b], order[b], coefficients[b], H[b], L, state, index,
            )  # fmt: skip
            if done < steps:
                fallback[b] = 1
                loss64, c64, factor64 = np.full(B, np.inf), np.zeros(B), np.empty((B, B))
                done = _eliminate_block(
                    aside.astype(np.float64), weights[b].astype(np.float64), floor[b].astype(np.float64), none,
                    N, M, update, -np.inf, loss64, order[b], c64, factor64,
                    np.empty((B, width)), np.empty((7, width)), index,
                )  # fmt: skip
                if done < steps:
                    fallback[b] = 2
                loss[b], coefficients[b], H[b] = loss64, c64, factor64
            if M:
                for p in range(B):
                    if loss[b, p] == np.inf:
                        H[b, p] = 0  # a weight that N:M keeps has no row in the factor


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
    with torch_threads():
        # Few large blocks are spread over all threads.
        size = max(1, min(BATCH, n // numba.get_num_threads()))
        _eliminate_blocks(
            w, H.numpy(), bound.numpy(), given, N, M, update, lost, loss, sequence, coefficients, fallback, size
        )
    if (fallback == 2).any():
        bad = int((fallback == 2).argmax())
        raise FloatingPointError(f"block {bad} of {n}: weights or inverse Fisher are not finite")
    if group is not None:  # the survivors, in their own order, complete the permutation
        steps = B // M * (M - N)
        sequence[:, steps:] = np.argsort(np.isinf(loss), axis=1, kind="stable")[:, steps:]
    found = torch.from_numpy(loss), torch.from_numpy(sequence), torch.from_numpy(coefficients)
    return *found, H, int((fallback > 0).sum())
