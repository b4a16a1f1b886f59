"""Threads, GPUs and helpers of a process: as many threads as the parameters say, for numbers repeat only at that count."""

import getpass
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock
from joblib import cpu_count

from ovit_core import disk


def cores() -> int:
    """Cores that this process may use: those of its container and affinity, which torch does not ask for."""
    return cpu_count()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch, the compiled kernels (which follow torch) and BLAS use `count` threads."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    if before != count:  # needless calls are not harmless: see kernels/compiled.py
        torch.set_num_threads(count)
    try:
        with threadpool_limits(count, user_api="blas"):
            yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def gpus(device: str) -> int:
    """GPUs that a study with a `device` uses, as far as can be told without importing torch for it."""
    if device == "cpu":
        return 0
    if "torch" in sys.modules:
        there = sys.modules["torch"].cuda.device_count()
    elif (seen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        named = [one.strip() for one in seen.split(",")]
        there = next((i for i, one in enumerate(named) if one in ("", "-1")), len(named))  # as CUDA reads it
    else:
        there = len([file for file in Path("/dev").glob("nvidia*") if file.name.removeprefix("nvidia").isdigit()])
    return 1 if device.startswith("cuda:") else there


def workers(workers: int, device: str, threads: int) -> int:
    """Processes at once: so many, else one a GPU, or as many as the cores give threads."""
    return workers or gpus(device) or max(1, cores() // threads)


WORKER = False  # whether this process is one of several that share the machine


def loaders(device: str, threads: int) -> int:
    """Processes that open images for one worker: what is left of its cores, none where it may not have any."""
    import torch

    if multiprocessing.current_process().daemon:
        return 0
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    return min(16, cores() // gpus - 1) if gpus else threads - 1


@cache
def claim(gpus: int) -> int:
    """A GPU of this process's own, as far as there are enough: the first that no other has claimed. Kept to its end."""
    for number in range(gpus):
        lock = disk.lock(Path(gettempdir()) / f"ovit-gpu-{getpass.getuser()}-{number}.lock")
        try:
            lock.acquire(blocking=False)
        except TimeoutError:
            continue
        _claims.append(lock)
        return number
    return os.getpid() % gpus


_claims: list[FileLock] = []
