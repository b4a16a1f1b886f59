"""How far a run of the grid is, all its stages together, and how long it will still take: one bar, or lines in a log.

The time left comes from the seconds of earlier rows. Before each stage they are asked anew, those just measured among
them; within a stage it is corrected by how the stage itself goes, which speaks for what comes after it by its share alone: a
first search of a minute that waits for its images would otherwise make days of the hours that follow.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ovit_core.progress import progress
from ovit_core.study import earlier, plan
from ovit_core.study.ablation import Asked
from ovit_core.study.store import Store
from ovit_core.study.tasks import Row

SHAPE = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
Tell = Callable[[int, Sequence[str]], None]  # how many calls or tasks of a stage are done, and what workers are doing


class Course:
    """The bar of a run, and what is ahead.

    Args:
        asked: ablations with their parameters.
        store: of the profile.
        bar: a bar of `progress`.
    """

    def __init__(self, asked: Sequence[Asked], store: Store, bar: Any):
        self.asked, self.bar, self.done = asked, bar, 0
        self.published = earlier.published(asked[0][1].profile, [config for _, config in asked])
        every = {ablation.name: len(ablation.stages) for ablation, _ in asked}
        self.ahead(store.rows(), every)

    def ahead(self, there: Sequence[Row], stages: Mapping[str, int]) -> None:
        """Plans anew.

        Args:
            there: the rows so far.
            stages: ablation -> how many of its stages come after the next one; all, before the first.
        """
        self.plan = plan.made(self.asked, there, self.published)
        self.rest = self.plan.last(stages)
        self.bar.total = max(self.done + self.plan.left, 1)

    @contextmanager
    def stage(self, what: str, total: int, seconds: float = 0.0, counts: bool = True) -> Iterator[Tell]:
        """A stage of so many calls or tasks; yields what it tells of itself.

        Args:
            what: is done in it.
            total: calls or tasks.
            seconds: that they will take by what earlier rows say.
            counts: whether they are among those that the bar counts.
        """
        begin, share = time.monotonic(), 1 if counts else 0
        self.bar.set_description_str(what, refresh=False)

        def tell(done: int, doing: Sequence[str]) -> None:
            self.bar.n = min(self.done + share * done, self.bar.total)
            words = [f"about {self._after(seconds, time.monotonic() - begin, done / total)} left", *doing]
            self.bar.set_postfix_str(" | ".join(words))

        tell(0, ())
        yield tell
        self.done += share * total
        taken = time.monotonic() - begin
        if counts and taken >= 1 and hasattr(self.bar, "say"):  # a log, where the bar's last state would be lost
            left = self._after(seconds, taken, 1.0)
            done = f"{self.done}/{max(self.done, self.bar.total)}"
            self.bar.say(f"{done}, about {left} left; {what}: {total} in {plan.time_of(taken)}")

    def _after(self, seconds: float, taken: float, done: float) -> str:
        """The time until the last page, from a stage as `_left` takes it."""
        return plan.time_of(sum(_left(seconds, taken, done, self.rest)) + self.plan.pages)


def _left(seconds: float, taken: float, done: float, rest: float) -> tuple[float, float]:
    """Seconds left of a stage, and of what comes after it.

    Args:
        seconds: expected of the stage.
        taken: so far.
        done: share of it.
        rest: seconds expected of what comes after it.
    """
    trust = min(1.0, 3 * done)  # in what the stage itself tells; tasks are not of one length
    whole = (1 - trust) * max(seconds, taken) + trust * taken / done if done else max(seconds, taken)
    pace = (whole + rest) / (seconds + rest) if seconds > 1 else 1.0
    return max(whole - taken, 0.1 * whole * (1 - done)), pace * rest


@contextmanager
def of(asked: Sequence[Asked], store: Store) -> Iterator[Course]:
    """The course of a run, its bar drawn until the end of the block."""
    with progress(total=1, desc="starting", bar_format=SHAPE) as bar:
        yield Course(asked, store, bar)
