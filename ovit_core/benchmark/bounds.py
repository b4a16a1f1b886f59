"""What a device can do, measured in the same run as what is held against it; and the four bounds of an elimination.

A block of B weights asks of its device, however the loop is written:

    copy        each row of H is read once and a row of the factor takes its place: 2 * B^2 numbers
    on chip     step k reads the k rows before it: B^2 (B - 1) / 2 numbers, at the speed of the last cache
    arithmetic  a multiply-add on each of them
    latency     B steps that wait for each other
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ovit_core.benchmark.agreement import problem_of_condition
from ovit_core.benchmark.measuring import fastest
from ovit_core.fisher import ieee_float32
from ovit_core.kernels import LOST
from ovit_core.kernels.gpu import ROWS, _eliminate, warps

FLOAT = 4  # bytes


class Rates(NamedTuple):
    """Of a device, in units a second."""

    copy: float  # bytes, read and written counted both
    single: float  # float32 operations of a matrix product, without TF32
    double: float  # float64 operations of a matrix product


def rates(numbers: int, side: int, device: torch.device, repeat: int) -> Rates:
    """Measured on a copy of `numbers` float32 numbers and on products of matrices of `side` rows."""
    source = torch.zeros(numbers, device=device)
    target = torch.empty_like(source)
    seconds = [fastest(lambda: target.copy_(source), device, repeat=repeat)[0].seconds]
    for dtype in (torch.float32, torch.float64):
        A = torch.randn(side, side, device=device, dtype=dtype)
        with ieee_float32():
            cost, _ = fastest(lambda: A @ A, device, repeat=repeat)  # (side, side) @ (side, side)
        seconds.append(cost.seconds)
    return Rates(2 * FLOAT * numbers / seconds[0], 2 * side**3 / seconds[1], 2 * side**3 / seconds[2])


@triton.jit
def _reread(buffer, out, B, rows, reads, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Reads rows of B numbers, ROWS at a time as the elimination does, round and round and waiting for nothing; each
    program starts elsewhere, so that what one multiprocessor's own cache holds is soon gone.
    """
    b, i = tl.program_id(0), tl.arange(0, WIDTH)
    inside = i < B
    total = tl.zeros([WIDTH], tl.float32)
    for j in range(0, reads, ROWS):
        step = (b * ROWS + j + tl.arange(0, ROWS)) % rows
        l = tl.load(buffer + step[:, None] * B + i[None, :], mask=inside[None, :], other=0.0)
        total += tl.sum(l, 0)  # (ROWS, WIDTH) -> (WIDTH,)
    tl.store(out + b * B + i, total, mask=inside)


def reread(B: int, reads: int, device: torch.device, repeat: int) -> float:
    """Bytes a second of rows that are read again and again, a buffer of half the device's last cache, by as many
    programs as its threads allow. A time below this bound has been helped by the multiprocessors' own caches.
    """
    programs, cache = 4, 2**14  # of the interpreter
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        programs = about.multi_processor_count * (about.max_threads_per_multi_processor // (32 * warps(B)))
        cache = getattr(about, "L2_cache_size", 2**25)
    rows = max(ROWS, cache // 2 // (FLOAT * B))
    buffer, out = torch.ones(rows, B, device=device), torch.empty(programs, B, device=device)
    launch = lambda: _reread[(programs,)](
        buffer, out, B, rows, reads, WIDTH=triton.next_power_of_2(B), ROWS=ROWS, num_warps=warps(B),
    )  # fmt: skip
    launch()  # compiles
    cost, _ = fastest(launch, device, repeat=repeat)
    if not torch.equal(out, torch.full_like(out, reads)):
        raise RuntimeError(f"the kernel that rereads rows of {B} does not see all of their numbers")
    return FLOAT * programs * reads * B / cost.seconds


def one_block(B: int, device: torch.device, repeat: int) -> tuple[float, int]:
    """Seconds of B dependent steps: the elimination's kernel on a single block. And how many such programs the device
    has in flight at a time, by its threads and registers; the interpreter has one.
    """
    w, H, floor = problem_of_condition(1, B, 1e3, device)
    order, failed = (
        torch.zeros(1, B, dtype=torch.int64, device=device),
        torch.zeros(1, dtype=torch.int32, device=device),
    )
    loss, coefficients = torch.zeros_like(w), torch.zeros_like(w)
    launch = lambda h: _eliminate[(1,)](
        w, h, floor, order, loss, order, coefficients, failed, B, B, 0, 0, LOST, GIVEN=False, UPDATE=True, GUARD=False,
        WIDTH=triton.next_power_of_2(B), ROWS=ROWS, num_warps=warps(B),
    )  # fmt: skip
    launch(H.clone())  # compiles
    cost, kernel = fastest(launch, device, lambda: (H.clone(),), repeat)
    if device.type != "cuda":
        return cost.seconds, 1
    about, threads = torch.cuda.get_device_properties(device), 32 * warps(B)
    fit = about.max_threads_per_multi_processor // threads
    registers = getattr(kernel, "n_regs", None)  # of a thread; Triton has not always told
    if registers:
        fit = min(fit, getattr(about, "regs_per_multiprocessor", 65536) // (registers * threads))
    return cost.seconds, about.multi_processor_count * max(1, fit)


def elimination_bounds(n: int, B: int, rate: Rates, onchip: float, block: float, at_once: int) -> dict[str, float]:
    """Seconds that n blocks of B take at the least, by each bound."""
    reread = n * B**2 * (B - 1) / 2  # numbers
    return dict(
        copy=2 * FLOAT * n * B**2 / rate.copy,
        onchip=FLOAT * reread / onchip,
        arithmetic=2 * reread / rate.single,
        latency=block * max(1.0, n / at_once),
    )


def fisher_bounds(d: int, B: int, m: int, chunk: int, rate: Rates) -> dict[str, dict[str, float]]:
    """Seconds that the two stages of a Fisher of d weights and m gradients take at the least, by each bound.

    A gradient is read and written, then read by the check and by the product; the sum is read and written once a chunk.
    Inverses read and write d * B numbers, and take B^3 operations a block in float64.
    """
    moved = FLOAT * (4 * d * m + 2 * d * B * math.ceil(m / chunk))
    return {
        "accumulation": dict(copy=moved / rate.copy, arithmetic=2 * d * B * m / rate.single),
        "inversion": dict(copy=2 * FLOAT * d * B / rate.copy, arithmetic=d * B**2 / rate.double),
    }


def columns(seconds: float, bounds: dict[str, float]) -> dict:
    """Of a table's row: each bound in seconds, as a share of the seconds measured, and the largest by name."""
    largest = max(bounds, key=lambda name: bounds[name])
    each = {f"{name}_s": value for name, value in bounds.items()}
    shares = {f"{name}_share": value / seconds for name, value in bounds.items()}
    return dict(seconds=seconds) | each | shares | dict(bound=largest, bound_share=bounds[largest] / seconds)
