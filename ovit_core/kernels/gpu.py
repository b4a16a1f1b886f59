"""Greedy elimination on a GPU: a Triton kernel, one program per block of weights.

l_k takes the place of row p_k of H, the only row that step k frees, so the factor needs no memory of its own and
what a program reads again and again (k rows of B numbers) stays in the caches of its multiprocessor.
`TRITON_INTERPRET=1` runs the same kernel on the CPU, slowly: that is how it is tested without a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ovit_core.kernels import LOST
from ovit_core.kernels.reference import eliminate_blocks as in_float64

ROWS = 16  # earlier rows subtracted at a time
COPY = 2**26  # numbers of H kept aside at a time, for blocks to start again from


def warps(B: int) -> int:
    """Warps of 32 threads in the program of a block."""
    return 4 if B <= 256 else 8


@triton.jit
def _eliminate(
    weights, H, floor, given, loss, order, coefficients, failed, B, steps, N, M, lost,
    GIVEN: tl.constexpr, UPDATE: tl.constexpr, GUARD: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    inside = i < B
    weights, floor, given, loss, order, coefficients = (
        weights + b * B, floor + b * B, given + b * B, loss + b * B, order + b * B, coefficients + b * B,
    )  # fmt: skip
    H += b * B * B
    w = tl.load(weights + i, mask=inside, other=0.0)
    start = w
    diag = tl.load(H + i * (B + 1), mask=inside, other=1.0)
    original = diag
    least = tl.load(floor + i, mask=inside, other=1.0)
    barred = tl.where(inside, 0.0, float("inf"))  # infinite once a weight is gone, or N:M keeps it
    gone = i >= B
    total = tl.sum(tl.zeros_like(w), 0).to(tl.float64)
    bad = 0

    for k in range(steps):
        v = w if UPDATE else start
        if GIVEN:
            p = tl.load(given + k).to(tl.int32)
        else:
            p = tl.argmin(v * v / tl.maximum(diag, least) + barred, 0, tie_break_left=True)
        here = i == p
        # Row p of the downdated H: H[p, :] - sum_j l_j[p] l_j, ROWS earlier steps at a time.
        row = tl.load(H + p * B + i, mask=inside, other=0.0)
        for j in range(0, k, ROWS):
            step = j + tl.arange(0, ROWS)
            earlier = tl.load(order + step, mask=step < k, other=0).to(tl.int32)
            a = tl.load(H + earlier * B + p, mask=step < k, other=0.0)
            l = tl.load(
                H + earlier[:, None] * B + i[None, :], mask=(step < k)[:, None] & inside[None, :], other=0.0
            )  # (ROWS, WIDTH)
            row -= tl.sum(a[:, None] * l, 0)
        row = tl.where(gone, 0.0, row)
        pivot = tl.sum(tl.where(here, diag, 0.0), 0)
        bad += (pivot > lost * tl.sum(tl.where(here, original, 0.0), 0)).to(tl.int32) == 0
        pivot = tl.maximum(pivot, tl.sum(tl.where(here, least, 0.0), 0))
        root = tl.sqrt(pivot)
        removed = tl.sum(tl.where(here, v, 0.0), 0)
        total += 0.5 * removed.to(tl.float64) * removed.to(tl.float64) / pivot.to(tl.float64)
        c = tl.sum(tl.where(here, w, 0.0), 0) / root
        l = row / root
        if GUARD:  # a positive definite H has l_i^2 <= H_ii; rounding that breaks this would grow without bound
            bound = tl.sqrt(tl.maximum(diag - least, 0.0))
            l = tl.minimum(tl.maximum(l, -bound), bound)
        l = tl.where(here, root, l)
        w -= c * l
        diag -= l * l
        gone = gone | here
        barred = tl.where(here, float("inf"), barred)
        if M > 0:
            mates = (i // M) == (p // M)
            lost_mates = tl.sum(tl.where(mates & gone, 1, 0), 0)
            barred = tl.where(mates & (lost_mates == M - N), float("inf"), barred)
        tl.store(H + p * B + i, l, mask=inside)
        tl.store(order + k, p.to(tl.int64))
        tl.store(loss + p, total.to(w.dtype))
        tl.store(coefficients + p, c)
        tl.debug_barrier()  # the next step's threads read what other threads have just written
    bad += (total < float("inf")).to(tl.int32) == 0
    tl.store(failed + b, bad)


def eliminate_blocks(
    weights: Tensor, H: Tensor, update: bool, order: Tensor | None, group: tuple[int, int] | None, floor: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """The Triton form of `reference.eliminate_blocks`: same arguments and results, H becomes the factor."""
    n, B = weights.shape
    N, M = group or (0, 0)
    steps = B // M * (M - N) if M else B
    weights, device = weights.contiguous(), weights.device
    if floor is None:
        floor = H.diagonal(dim1=1, dim2=2) * torch.finfo(H.dtype).eps
    floor = floor.to(H.dtype).contiguous()
    loss, coefficients = torch.full_like(weights, torch.inf), torch.zeros_like(weights)
    sequence = torch.zeros(n, B, dtype=torch.int64, device=device)
    given = sequence if order is None else order.to(device).contiguous()
    single = weights.dtype == torch.float32
    fallbacks, batch = 0, max(1, COPY // (B * B))
    for i in range(0, n, batch):
        part = slice(i, i + batch)
        aside = H[part].clone() if single else H[:0]
        failed = torch.zeros(len(H[part]), dtype=torch.int32, device=device)
        _eliminate[(len(failed),)](
            weights[part], H[part], floor[part], given[part], loss[part], sequence[part], coefficients[part], failed,
            B, steps, N, M, LOST if single else -float("inf"),
            GIVEN=order is not None, UPDATE=update, GUARD=not single, WIDTH=triton.next_power_of_2(B), ROWS=ROWS,
            num_warps=warps(B),  # pyright: ignore[reportCallIssue]
        )  # fmt: skip
        if single and failed.any():
            again = failed.nonzero().squeeze(1)
            found = in_float64(
                weights[part][again].double(), aside[again].double(), update,
                None if order is None else given[part][again], group, floor[part][again].double(),
            )  # fmt: skip
            for whole, blocks in zip((loss, sequence, coefficients, H), found[:4]):
                whole[part][again] = blocks.to(whole.dtype)
            fallbacks += len(again)
    if not torch.isfinite(coefficients).all():
        bad = int((~torch.isfinite(coefficients)).any(1).nonzero()[0])
        raise FloatingPointError(f"block {bad} of {n}: weights or inverse Fisher are not finite")
    if steps < B:
        for p in torch.isinf(loss).nonzero().split(2**20):  # rows of kept weights hold no factor
            H[p[:, 0], p[:, 1]] = 0
        sequence[:, steps:] = torch.isinf(loss).to(torch.int8).argsort(stable=True, dim=1)[:, steps:]
    return loss, sequence, coefficients, H, fallbacks
