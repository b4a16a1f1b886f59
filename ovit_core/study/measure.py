"""One seed of an ablation at work: its dense model, and what every ablation measures of pruned copies."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from ovit_core import masks, training
from ovit_core.data.batches import EVAL_BATCH, batches
from ovit_core.data.loading import Data
from ovit_core.pattern import Pattern
from ovit_core.study import dense
from ovit_core.study.calibration import expected_calibration_error
from ovit_core.study.parameters import Parameters
from ovit_core.study.store import Images, Measured
from ovit_core.study.surgeon import Surgeon
from ovit_core.study.tasks import Task, World

CHANGED = "has changed since the study began, or is another one on this machine: start anew"
NOWHERE = World()


class NotFoundError(RuntimeError):
    """A task that waits for what no search has found."""


class Seed:
    """One seed. `measure` does a task by the method that the task names; an ablation adds methods of its own."""

    def __init__(self, config: Parameters, seed: int, world: World = NOWHERE):
        self.config, self.seed, self.world = config, seed, world
        self.upstream = dense.upstream(config, seed)
        self.expect(self.upstream.data)
        if world.dense.get(self.upstream.seed, self.upstream.identity) != self.upstream.identity:
            raise RuntimeError(f"the dense model of seed {self.upstream.seed} {CHANGED}")
        self._surgeon: tuple[tuple, Surgeon] | None = None

    def expect(self, data: Data) -> Data:
        """The data itself. Raises RuntimeError if it is not that which the tasks were listed for."""
        if self.world.fingerprints.get(data.name, data.fingerprint) != data.fingerprint:
            raise RuntimeError(f"{data.name} {CHANGED}")
        return data

    def measure(self, task: Task) -> list[Measured]:
        """The rows of a task: its columns, and what was measured.

        Raises:
            RuntimeError: what it is to be measured at was to be found by a search, and that failed.
        """
        c = task.columns
        for column, what, wanted in (("damp", "lambda", c["damp_rule"]), ("lr", "learning rate", c["phase"] == "full")):
            if wanted and c[column] == "":
                raise NotFoundError(f"no {what} was found: its search failed")
        return [Measured(dict(task.columns) | one.row, one.images) for one in getattr(self, task.kind)(task)]

    def surgeon(self, task: Task) -> Surgeon:
        """The surgeon for a task's block size and gradients; the last one is kept."""
        settings = {name: task.columns[name] for name in ("block_size", "gradients", "gradient_batch")}
        key = tuple(settings.values())
        if self._surgeon is None or self._surgeon[0] != key:
            self._surgeon = None  # freed before the next
            self._surgeon = key, Surgeon(self.config.replace(**settings), self.upstream, self.seed)
        return self._surgeon[1]

    def pruned(self, task: Task) -> nn.Module:
        """The pruned copy of the dense model that a task's columns describe."""
        c = task.columns
        regime = c["allocation"], Pattern.parse(c["pattern"])
        return self.surgeon(task).pruned(c["method"], c["sparsity_target"], c["damp"] or None, regime)

    def search(self, task: Task) -> Iterable[Measured]:
        """What a lambda gives on validation."""
        yield Measured(dict(metric=task.metrics[0][0], value=self.surgeon(task).judge(self.pruned(task))))

    def one_shot(self, task: Task) -> list[Measured]:
        """A pruned copy on the test split, with nothing trained afterwards."""
        return self.tested(self.pruned(task))

    def tested(self, model: nn.Module) -> list[Measured]:
        """What TESTED names, of a model on the upstream test split."""
        found = training.evaluate(model, batches(self.upstream.data.test, EVAL_BATCH))
        what = sparsities(model) | dict(n_test=len(found.correct))
        calibrated = expected_calibration_error(found.correct, found.top)
        return [
            Measured(
                what | dict(metric="top1", value=found.accuracy), Images(*found, self.upstream.data.labels("test"))
            ),
            Measured(what | dict(metric="cross_entropy", value=float(found.loss.mean(dtype="float64")))),
            Measured(what | dict(metric="expected_calibration_error", value=calibrated)),
        ]


def sparsities(model: nn.Module) -> dict[str, Any]:
    """The columns that say how sparse a model is, counted."""
    return dict(sparsity=masks.sparsity(model), sparsity_model=masks.model_sparsity(model))
