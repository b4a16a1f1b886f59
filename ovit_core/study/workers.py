"""Calls spread by joblib over the processes of this machine, or over those of a Ray or Dask cluster.

A call catches its own errors and returns them: to joblib an exception is the end of all calls.
"""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from joblib import Parallel, delayed, parallel_config

from ovit_core.study import checks, machine
from ovit_core.study.parameters import Parameters

Call = tuple[Callable, tuple]  # a function that can be pickled, and its arguments


def count(config: Parameters, calls: int) -> int:
    """Processes for some calls on this machine."""
    import torch  # noqa: F401 (it says how many GPUs there are)

    return max(1, min(machine.workers(config.workers, config.device, config.threads), calls))


def local(calls: Sequence[Call], workers: int, threads: int) -> Iterator[Any]:
    """What calls return, as it comes, from processes of this machine that end when this one does."""
    warnings.filterwarnings("ignore", "A worker stopped while some jobs")  # it was given another one
    begin = dict(initializer=_begin, initargs=(os.getpid(),))
    with parallel_config("loky", inner_max_num_threads=threads, **begin):
        parallel = Parallel(workers, return_as="generator_unordered", batch_size=1, pre_dispatch=workers)
        yield from parallel(delayed(function)(*arguments) for function, arguments in calls)


def dismiss() -> None:
    """Ends the processes that wait for more calls, and gives back their memory."""
    if "joblib.externals.loky.reusable_executor" in sys.modules:
        executor = sys.modules["joblib.externals.loky.reusable_executor"]._executor
        if executor is not None:
            executor.shutdown(wait=True)


def _begin(parent: int) -> None:
    """First thing in a process: it does not outlive its parent, and leaves Ctrl-C to it."""
    machine.WORKER = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def cluster(config: Parameters) -> Iterator[Callable[[Sequence[Call]], Iterator[Any]]]:
    """A function that spreads calls over a cluster and returns what they return, as it comes. That the engine's package
    is installed is one of the `checks`.

    The cluster is the one that a variable of `checks.CLUSTER` names; without, one is started on this machine.
    """
    if config.engine == "ray":
        import ray
        from ray.util.joblib import register_ray

        register_ray()
        own = not ray.is_initialized()
        here = {} if checks.CLUSTER["ray"] in os.environ else dict(num_cpus=config.workers or machine.cores())
        if own:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **here)
        there = ray.cluster_resources()
        gpus = int(there.get("GPU", 0)) if config.device != "cpu" else 0
        workers = config.workers or gpus or int(there["CPU"])
        one = dict(ray_remote_args=dict(num_gpus=1)) if gpus else {}

        def run(calls: Sequence[Call]) -> Iterator[Any]:
            # Its backend gives results in whole lists: rounds of one call a worker lose no more than is in progress.
            with parallel_config("ray", n_jobs=workers, **one), Parallel(batch_size=1) as parallel:
                for start in range(0, len(calls), workers):
                    yield from parallel(delayed(f)(*arguments) for f, arguments in calls[start : start + workers])

        try:
            yield run
        finally:
            if own:
                ray.shutdown()
    else:
        from distributed import Client

        there = os.environ.get(checks.CLUSTER["dask"])
        here = dict(n_workers=config.workers or machine.cores(), threads_per_worker=1, dashboard_address=None)
        with Client(there) if there else Client(**here) as client:
            workers = config.workers or sum(client.nthreads().values())

            def run(calls: Sequence[Call]) -> Iterator[Any]:
                with parallel_config("dask", n_jobs=workers, client=client):
                    parallel = Parallel(batch_size=1, pre_dispatch=workers, return_as="generator_unordered")
                    yield from parallel(delayed(f)(*arguments) for f, arguments in calls)

            yield run
