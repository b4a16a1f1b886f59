"""What every benchmark shares: time and memory of a run, seeded tensors, a table with where it was taken."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ovit_core.study import export, provenance


def resident() -> float:
    """Gigabytes of memory this process holds, files that are mapped aside."""
    pages = Path("/proc/self/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") / 1e9


class Cost(NamedTuple):
    """Seconds, and gigabytes in use at the peak beyond what was there before."""

    seconds: float
    gigabytes: float


def measure(run: Callable[[], Any], device: torch.device) -> tuple[Cost, Any]:
    """The cost of one run, and its result."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before, start = torch.cuda.memory_allocated(device), time.perf_counter()
        out = run()
        torch.cuda.synchronize(device)
        return Cost(time.perf_counter() - start, (torch.cuda.max_memory_allocated(device) - before) / 1e9), out
    done, held = threading.Event(), [resident()]

    def watch() -> None:
        while not done.wait(0.005):
            held.append(resident())

    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    try:
        out, seconds = run(), time.perf_counter() - start
        held.append(resident())  # of a run that was over before anybody looked
        return Cost(seconds, max(held) - held[0]), out
    finally:
        done.set()


def fastest(run: Callable, device: torch.device, prepare: Callable = tuple, repeat: int = 5) -> tuple[Cost, Any]:
    """The time of the fastest of some runs on arguments that `prepare` makes anew, the memory of that which took most (a
    later one may use again what an earlier one left); and a result.
    """
    costs = []
    for _ in range(repeat):
        arguments, out = prepare(), None  # the last result must not count as this run's memory
        cost, out = measure(lambda: run(*arguments), device)
        costs.append(cost)
    return Cost(min(cost.seconds for cost in costs), max(cost.gigabytes for cost in costs)), out


def problem(d: int, B: int, m: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights (n, B) and gradients (m, n, B), seeded; correlated inside a block, as real gradients are."""
    g = torch.Generator(device).manual_seed(0)
    n = d // B
    common = torch.randn(m, n, 1, generator=g, device=device)
    gradients = torch.randn(m, n, B, generator=g, device=device) + common
    return torch.randn(n, B, generator=g, device=device), gradients


def write(rows: list[dict], name: str, device: torch.device, where: str = "") -> pd.DataFrame:
    """Prints a table and writes it to runs/benchmark/NAME.csv, with the device's name, after `where`."""
    table = pd.DataFrame(rows)
    with pd.option_context("display.width", 200, "display.max_columns", None):
        print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""), flush=True)
    table = table.assign(
        profile="benchmark", device=where + provenance.device_name(str(device)), commit=provenance.commit(), seed=0,
        versions=provenance.versions(), experiment="benchmark", run_id="",
    )  # fmt: skip
    export.export_table(table, "benchmark", name)
    return table
