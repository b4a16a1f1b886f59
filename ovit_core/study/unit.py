"""What is done in a process of its own: a dataset or a dense model made ready, the tasks of a seed, or a single one.

Plain values go in and come out, and errors come out as text: all of it may happen on another machine.
"""

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ovit_core import disk
from ovit_core.progress import told_to
from ovit_core.study import identity, machine, provenance, registry, released
from ovit_core.study.parameters import Parameters
from ovit_core.study.store import Measured, Store
from ovit_core.study.tasks import Found, Task, World

GIVE_UP = 3  # failures of one method in one phase, one after the other: then others are no better
RESUME = ".resume.pt"  # beside a dense model: what its training goes on from
TELL = 1.0  # seconds between two words of a worker on what it is doing
_one_at_a_time = threading.RLock()  # threads of a Dask worker share torch's settings
_seeds: dict[tuple, Any] = {}  # the last seed of this process: stages ask for it again
_data: dict[str, Any] = {}  # the last upstream dataset: epochs ask for it again


class Given(NamedTuple):
    """An ablation and its parameters' values."""

    ablation: str
    values: Mapping[str, Any]

    @property
    def config(self) -> Parameters:
        return registry.get(self.ablation).parameters(**self.values)


class Outcome(NamedTuple):
    """What came of a call."""

    value: Any = None
    failures: tuple[tuple[str, str], ...] = ()  # what failed, and why


def numbered(number: int, function: Callable[..., Outcome], arguments: tuple) -> tuple[int, Outcome]:
    """A call with its number, for results come in no order."""
    return number, function(*arguments)


def away(number: int, function: Callable[..., Outcome], arguments: tuple) -> tuple[int, Outcome]:
    """`numbered` on a cluster: in a process that may have no helpers, and whose resume files nobody asks for again."""
    machine.WORKER = True
    outcome = function(*arguments)
    if function is one and outcome.value is not None:
        identity.discard(arguments[2])
    return number, outcome


def dataset(given: Given, name: str, grid: str) -> Outcome:
    """Reads and checks a dataset; its fingerprint."""
    from ovit_core.study import checks

    return _caught(name, given, lambda config: checks.read(config, name), grid)


def dense_model(given: Given, seed: int, grid: str) -> Outcome:
    """Makes a dense model ready in the cache; what identifies it, and whether it has no head."""
    from ovit_core.study import dense

    def make(config: Parameters) -> tuple[str, bool]:
        upstream = dense.upstream(config, seed)
        return upstream.identity, upstream.headless

    return _caught(f"dense model of seed {seed}", given, make, grid)


def dense_epoch(given: Given, seed: int, state: bytes | None, curve: bytes | None) -> Outcome:
    """One epoch of a dense model's training away from its cache: what then lies there, by what follows the model's name."""
    from ovit_core.study import dense

    key = provenance.digest(dict(given.values))

    def train(config: Parameters) -> dict[str, bytes]:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "dense.safetensors"
            for file, content in ((path.with_suffix(RESUME), state), (released.curve_path(path), curve)):
                if content is not None:
                    file.write_bytes(content)
            if key not in _data:
                _data.clear()
                _data[key] = dense.read(config, config.upstream)
            dense.train(config, _data[key], seed, path, at_most=1)
            return {file.name.removeprefix("dense"): file.read_bytes() for file in Path(folder).glob("dense.*")}

    return _caught(f"dense model of seed {seed}", given, train)


def tasks(given: Given, seed: int, todo: Sequence[Task], world: World, grid: str) -> Outcome:
    """Does the tasks of a seed and writes their rows to the profile's store, where it also says how far it is."""
    profile = given.values["profile"]
    store, failures, in_a_row = Store(profile), [], Counter()
    who = f"{given.ablation}, seed {seed}, from {todo[0]} on"  # a seed may be in several parts
    skipped: Counter[str] = Counter()
    queue = _in_any_order(todo)  # behind it, once more, what another study is at: it may fail there
    for number, task in enumerate(queue):
        kind = f"{task.columns['phase']} of {task.columns['method']}"
        if in_a_row[kind] >= GIVE_UP:
            skipped[kind] += 1
            continue
        tell = _Teller(store, grid, who, number - (len(queue) - len(todo)))
        try:
            with _claim(profile, task, number >= len(todo), tell) as mine:
                if not mine:
                    queue.append(task)
                    continue
                found = _done(given, seed, task, world, store, tell)
        except (OSError, ValueError) as error:  # the store cannot be written to, or the value is none to keep
            found = Outcome(failures=((str(task), _reason(error)),))
        in_a_row[kind] = in_a_row[kind] + 1 if found.failures else 0
        failures += found.failures
    failures += [
        (f"{n} more, {kind}", f"not tried after {GIVE_UP} failures one after the other") for kind, n in skipped.items()
    ]
    _Teller(store, grid, who, len(todo))("")
    return Outcome(failures=tuple(failures))


def _done(given: Given, seed: int, task: Task, world: World, store: Store, tell: "_Teller") -> Outcome:
    """Does a task and writes its rows, unless another study was faster."""
    found = Outcome()
    if not Found(store.rows(task.columns["run_id"])).of(task):
        found = one(given, seed, task, world, tell=tell)
        if found.value is None and not found.failures:
            found = Outcome(failures=((str(task), f"the dense model of seed {seed} is gone: start anew"),))
        store.add(found.value or ())
    if not found.failures:
        identity.discard(task)
    return found


def one(
    given: Given, seed: int, task: Task, world: World, weights: bytes | None = None, tell: "_Teller | None" = None
) -> Outcome:
    """Does a single task; its rows, or None where this machine has not got the dense model, and needs its `weights`."""

    def measure(config: Parameters) -> list[Measured] | None:
        if provenance.guard(*task.modules) != task.code:
            raise RuntimeError(
                f"the code of {task.modules[-1]}, or below it, is not that which listed the tasks: start anew"
            )
        if not _has_dense(config, seed, world, weights):
            return None
        key = (given.ablation, seed, provenance.digest(config.values(), dict(world.dense), dict(world.fingerprints)))
        if key not in _seeds:
            _seeds.clear()  # freed before the next
            _seeds[key] = registry.get(given.ablation).seed(config, seed, world)
        begun = time.perf_counter()
        try:
            rows = [one for one in _seeds[key].measure(task) if task.asks(one.row)]
        except KeyboardInterrupt:  # it may have stopped between any two steps
            _seeds.clear()
            raise
        seconds = round(time.perf_counter() - begun, 3)  # of the task, on the first of its rows
        about = dict(commit=provenance.commit(), versions=provenance.versions())
        about |= dict(device=provenance.device_name(config.device))
        return [replace(m, row=m.row | about | dict(seconds=0.0 if i else seconds)) for i, m in enumerate(rows)]

    return _caught(str(task), given, measure, tell=tell)


def order(task: Task) -> tuple:
    """Sorts tasks that share a factorization one after the other."""
    c = task.columns
    return *_curvature(task), c["method"], c["pattern"], str(c["damp"])


def _curvature(task: Task) -> tuple:
    """The settings by which curvature is estimated, once for all tasks that share them."""
    c = task.columns
    settings = c["block_size"], c["gradients"], c["gradient_batch"], c["gradient_seed"], c["passes"]
    return c["experiment"] == "sensitivity", *settings


def split(tasks: Sequence[Task], parts: int) -> list[list[Task]]:
    """Tasks in parts of about equal length, at most so many; those that share a factorization stay together."""
    made: list[list[Task]] = [[]]
    for group in _groups(tasks):
        if len(made[-1]) >= len(tasks) / parts and len(made) < parts:
            made.append([])
        made[-1] += group
    return made


def _groups(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks by factorization."""
    return [list(group) for _, group in groupby(sorted(tasks, key=order), order)]


def _in_any_order(tasks: Sequence[Task]) -> list[Task]:
    """Tasks by settings of the curvature, and by factorization, but neither in an order of its own: two studies of one
    profile that came to the same factorization would go on from one to the next together, and each would make them all.
    """
    draw = random.SystemRandom().random
    luck: defaultdict[tuple, float] = defaultdict(draw)
    groups = sorted(_groups(tasks), key=lambda group: (luck[_curvature(group[0])], draw()))
    return [task for group in groups for task in group]


@contextmanager
def _claim(profile: str, task: Task, wait: bool, tell: "_Teller") -> Iterator[bool]:
    """Whether a task is this process's to do, until the end of the block; `wait` until it is, and no other study is at it."""
    path = identity.claim(profile, task)
    if wait:
        with told_to(tell.bar), disk.locked(path, f"measures {task}"):
            yield True
    else:
        with disk.claimed(path) as mine:
            yield mine


def _has_dense(config: Parameters, seed: int, world: World, weights: bytes | None) -> bool:
    """Whether the dense model that the grid means is at hand; writes `weights` to the cache if that helps."""
    seed = config.dense_seed(seed)
    wanted, fingerprint = world.dense.get(seed, ""), world.fingerprints.get(config.upstream, "")
    if not wanted or config.pretrained or config.checkpoint or identity.of_dense(config, seed, fingerprint) == wanted:
        return True
    if weights is None:
        return False
    disk.write(identity.dense_path(config, seed, fingerprint), weights)
    return True


def _caught(
    what: str, given: Given, call: Callable[[Parameters], Any], grid: str = "", tell: "_Teller | None" = None
) -> Outcome:
    """What a call returns, or why it failed, in a line. Its bars are told to the store, where there is one."""
    try:
        config = given.config
        if grid:
            tell = _Teller(Store(config.profile), grid, what, 0)
        with _at_work(config) as config, told_to(tell.bar if tell else lambda *_: None):
            if tell:
                tell(what)
            return Outcome(call(config))
    except Exception as error:
        return Outcome(failures=((what, _reason(error).removeprefix(f"{what}: ")),))
    finally:
        if grid and tell:
            tell("")


def _reason(error: Exception) -> str:
    """An error in a line; its kind too where it is none that the study expects."""
    text = " ".join(str(error).split()) or type(error).__name__
    expected = isinstance(error, ValueError | OSError | FloatingPointError | RuntimeError)
    return (text if expected else f"{type(error).__name__}: {text}")[:500]


@contextmanager
def _at_work(config: Parameters) -> Iterator[Parameters]:
    """The process as the parameters want it, one call at a time; the parameters with the GPU that is its own."""
    import torch

    from ovit_core.data import batches

    with _one_at_a_time, machine.threads(config.threads):
        before = batches.WORKERS
        if machine.WORKER:
            batches.WORKERS = machine.loaders(config.device, config.threads)
        gpus = torch.cuda.device_count() if config.device in ("auto", "cuda") else 0
        try:
            yield config.replace(device=f"cuda:{machine.claim(gpus)}") if gpus > 1 else config
        finally:
            batches.WORKERS = before


class _Teller:
    """Tells the store what a worker is doing, not too often."""

    def __init__(self, store: Store, grid: str, who: str, done: int):
        self.store, self.grid, self.who, self.done, self.last = store, grid, who, done, -TELL

    def __call__(self, doing: str) -> None:
        self.last = time.monotonic()
        with suppress(OSError):  # it is a word on the way, no more
            self.store.tell(self.grid, self.who, self.done, doing)

    def bar(self, what: str, n: int, total: int, _: float | None) -> None:
        """A step of a bar, as `progress.told_to` gives it."""
        if time.monotonic() - self.last > TELL:
            self(f"{what}: {n}/{total}")
