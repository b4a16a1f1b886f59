"""Where the grid's calls are made: here, in one process or in several that write to the store themselves; or on a
cluster, whose machines hand back what they measured.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple
from uuid import uuid4

from ovit_core import disk
from ovit_core.progress import drawn_every
from ovit_core.study import identity, released, unit, workers
from ovit_core.study.ablation import Ablation, Asked
from ovit_core.study.cost import makespan
from ovit_core.study.course import Course
from ovit_core.study.parameters import Parameters
from ovit_core.study.store import Store
from ovit_core.study.tasks import Task, World
from ovit_core.study.unit import Outcome

Call = tuple[Callable[..., Outcome], tuple]
KILLED = "one was killed twice, by the system if memory ran out (fewer workers need less); what it measured is kept"
Fail = Callable[[Ablation, int | None, str, str], None]  # what failed, of which seed, and why


class Batch(NamedTuple):
    """Tasks of one seed of one ablation."""

    ablation: Ablation
    config: Parameters
    seed: int
    world: World
    tasks: list[Task]


class Engine:
    """Processes of this machine. With one worker everything happens in this very process."""

    def __init__(self, config: Parameters, store: Store, course: Course):
        self.config, self.store, self.course, self.grid = config, store, course, uuid4().hex
        self.told = self.grid  # under which workers say what they are doing

    def spread(self, calls: Sequence[Call]) -> Iterator[tuple[int, Outcome]]:
        """The number of each call and what came of it, as it comes. A process that is killed costs the calls that were
        not done a second try, for most of them were others' calls, and then a failure.
        """
        left = dict(enumerate(calls))
        if (count := workers.count(self.config, len(calls))) == 1:
            yield from (unit.numbered(i, *call) for i, call in left.items())
            return
        for _ in range(2):
            if not left:
                return  # and no processes are asked for nothing
            try:
                numbered = [(unit.numbered, (i, *call)) for i, call in left.items()]
                for number, outcome in workers.local(numbered, count, self.config.threads):
                    del left[number]
                    yield number, outcome
            except BrokenExecutor:
                continue
        yield from ((number, Outcome(failures=((f"{count} processes", KILLED),))) for number in left)

    def datasets(self, asked: Sequence[Asked], names: Sequence[str]) -> dict[str, Outcome]:
        """name -> the fingerprint of a dataset that was read and checked, or why there is none."""
        owners = [next(a for a in asked if name in a[1].every_dataset) for name in names]
        calls = [(unit.dataset, (self._of(*owner), name, self.told)) for name, owner in zip(names, owners)]
        return {names[i]: outcome for i, outcome in self._shown(calls, "datasets", counts=False)}

    def dense_models(self, ablation: Ablation, config: Parameters, seeds: Sequence[int], _: str) -> dict[int, Outcome]:
        """seed -> what identifies its dense model, and whether that has no head; or why there is none."""
        calls = [(unit.dense_model, (self._of(ablation, config), seed, self.told)) for seed in seeds]
        return {seeds[i]: outcome for i, outcome in self._shown(calls, "dense models", self.course.plan.dense)}

    def measure(self, batches: Sequence[Batch], fail: Fail) -> None:
        """Does the tasks of some seeds; each process writes what it measures."""
        if not batches:
            return
        total = sum(len(b.tasks) for b in batches)
        count = workers.count(self.config, total)
        parts = -(-2 * count // len(batches)) if len(batches) % count else 1  # so that no process is left without
        split = [(batch, part) for batch in batches for part in unit.split(batch.tasks, parts)]
        calls = [(unit.tasks, (self._of(b.ablation, b.config), b.seed, part, b.world, self.grid)) for b, part in split]
        for i, outcome in self._shown(calls, phases(batches), self._seconds(batches), total):
            for what, reason in outcome.failures:
                fail(split[i][0].ablation, split[i][0].seed, what, reason)

    @staticmethod
    def _of(ablation: Ablation, config: Parameters) -> unit.Given:
        return unit.Given(ablation.name, config.model_dump())

    def _seconds(self, batches: Sequence[Batch]) -> list[float]:
        """What each batch will take on one worker."""
        costs = self.course.plan.costs
        return [sum(costs[b.ablation.name].of(task).seconds for task in b.tasks) for b in batches]

    def _shown(
        self, calls: Sequence[Call], what: str, units: Sequence[float] = (), tasks: int = 0, counts: bool = True
    ) -> Iterator[tuple[int, Outcome]]:
        """`spread`, as a stage of the course: of tasks, else of calls. Workers tell the store what they are doing.

        Args:
            calls: to be made.
            what: is done in them.
            units: seconds on one worker, by which the time left is told.
            tasks: in the calls, where workers count them.
            counts: whether the bar of the course counts them.
        """
        if not calls:
            return
        over, ended = Event(), 0
        with self.course.stage(what, tasks or len(calls), makespan(units, self.course.plan.workers), counts) as tell:

            def follow() -> None:
                while not over.wait(drawn_every()):
                    with suppress(OSError, ValueError):
                        done, doing = self.store.told(self.grid)
                        tell(done if tasks else ended, doing)

            thread = Thread(target=follow, daemon=True)
            thread.start()
            try:
                for found in self.spread(calls):
                    ended += 1
                    yield found
            finally:
                over.set()
                thread.join()
                self.store.end(self.grid)


class Cluster(Engine):
    """Machines that may share no disk with this one: they hand back rows and states, and this process writes."""

    def __init__(
        self, config: Parameters, store: Store, course: Course, run: Callable[[Sequence[workers.Call]], Iterator]
    ):
        super().__init__(config, store, course)
        self.run, self.told = run, ""  # its machines tell nothing on the way: the store is none of theirs

    def spread(self, calls: Sequence[Call]) -> Iterator[tuple[int, Outcome]]:
        yield from self.run([(unit.away, (i, *call)) for i, call in enumerate(calls)])

    def dense_models(
        self, ablation: Ablation, config: Parameters, seeds: Sequence[int], fingerprint: str
    ) -> dict[int, Outcome]:
        """As above: a call is an epoch of one seed. What is given, not trained, is opened here."""
        if config.pretrained or config.checkpoint:
            return super().dense_models(ablation, config, seeds, fingerprint)
        paths = {seed: identity.dense_path(config, seed, fingerprint) for seed in seeds}
        for path in paths.values():
            if not identity.is_sound(path):  # which sets a damaged one aside
                released.take(path, config.profile)
        failed: dict[int, Outcome] = {}
        while left := [seed for seed in seeds if not identity.is_sound(paths[seed]) and seed not in failed]:
            given = self._of(ablation, config)
            calls = [(unit.dense_epoch, (given, seed, *map(_content, _beside(paths[seed])))) for seed in left]
            for i, outcome in self._shown(calls, "dense models, an epoch", counts=False):
                if outcome.failures:
                    failed[left[i]] = outcome
                    continue
                path = paths[left[i]]
                for suffix, content in sorted(outcome.value.items(), key=lambda of: of[0] == path.suffix):
                    disk.write(path.with_suffix(suffix), content)  # the model last: with it the training is over
                if path.suffix in outcome.value:
                    path.with_suffix(unit.RESUME).unlink(missing_ok=True)
        known = {s: Outcome((identity.of_dense(config, s, fingerprint), False)) for s in seeds if s not in failed}
        return known | failed

    def measure(self, batches: Sequence[Batch], fail: Fail) -> None:
        """Does tasks one by one; a machine that lacks a dense model is sent it with its task."""
        weights: dict[Path, bytes] = {}
        todo = [(batch, task, None) for batch in batches for task in sorted(batch.tasks, key=unit.order)]
        while todo:
            calls = [(unit.one, (self._of(b.ablation, b.config), b.seed, t, b.world, w)) for b, t, w in todo]
            again = []
            for i, outcome in self._shown(calls, phases(batches), self._seconds(batches)):
                batch, task, _ = todo[i]
                for what, reason in outcome.failures:
                    fail(batch.ablation, batch.seed, what, reason)
                try:
                    self.store.add(outcome.value or ())
                except (OSError, ValueError) as error:  # the store cannot be written to, or the value is none to keep
                    fail(batch.ablation, batch.seed, str(task), str(error))
                if outcome.value is None and not outcome.failures:
                    config, seed = batch.config, batch.config.dense_seed(batch.seed)
                    path = identity.dense_path(config, seed, batch.world.fingerprints[config.upstream])
                    if path not in weights:
                        weights[path] = path.read_bytes()
                    again.append((batch, task, weights[path]))
            todo = again


def _beside(path: Path) -> tuple[Path, Path]:
    """What lies beside a dense model that is being trained."""
    return path.with_suffix(unit.RESUME), released.curve_path(path)


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def phases(batches: Sequence[Batch]) -> str:
    """What some batches measure, in a word or two."""
    names = list(dict.fromkeys(task.columns["phase"] for batch in batches for task in batch.tasks))
    return ", ".join(names[:2]) + ", ..." * (len(names) > 2)


@contextmanager
def of(config: Parameters, store: Store, course: Course) -> Iterator[Engine]:
    """The engine that the parameters name."""
    if config.engine == "local":
        try:
            yield Engine(config, store, course)
        finally:
            workers.dismiss()
    else:
        with workers.cluster(config) as run:
            yield Cluster(config, store, course, run)
