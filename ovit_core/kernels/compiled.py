"""What the functions that numba compiles share: how they are compiled, and that they take torch's number of threads."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numba
import torch
from numba.core.config import NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]

log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()  # not all of numba's threading layers take two callers
# "contract" allows fused multiply-add and the rest lets loops vectorize; NaN and infinity keep their meaning.
FAST = {"contract", "reassoc", "nsz"}


def compiled(function: Callable) -> Callable:
    """The function compiled on its first call, and kept on disk where there is a place for it."""
    try:
        return numba.njit(parallel=True, cache=True, boundscheck=False)(function)
    except RuntimeError:  # neither the package's folder nor the home can be written to
        log.warning("compiled code cannot be kept on disk here: it is compiled anew in each process, in seconds")
        return numba.njit(parallel=True, boundscheck=False)(function)


@contextmanager
def torch_threads() -> Iterator[None]:
    """Compiled functions inside run on as many threads as torch's do, one caller at a time.

    numba and torch may share one OpenMP runtime, so torch's number is put back. (Not by a needless
    torch.set_num_threads: it makes MKL run threads inside torch's, which breaks torch's batched LU.)
    """
    threads = torch.get_num_threads()
    try:
        with _one_at_a_time:
            numba.set_num_threads(min(threads, NUMBA_NUM_THREADS))
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
