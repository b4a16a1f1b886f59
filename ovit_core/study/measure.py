"""One seed of an ablation at work: its dense model, and what every ablation measures of pruned copies."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ovit_core import disk, masks, training
from ovit_core.data.batches import EVAL_BATCH, Steps, batches
from ovit_core.data.loading import Data
from ovit_core.pattern import Pattern
from ovit_core.study import dense, identity, recovery
from ovit_core.study.calibration import expected_calibration_error
from ovit_core.study.parameters import Parameters
from ovit_core.study.store import Images, Measured
from ovit_core.study.surgeon import Surgeon
from ovit_core.study.tasks import Task, World

CHANGED = "has changed since the study began, or is another one on this machine: start anew"
NOWHERE = World()
TRAINED = ("recovered", "gradual", "full", "full_length")  # phases that wait for a learning rate


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
        for c in (task.columns, *(source.columns for source in task.sources)):
            waits = ("damp", "lambda", c["damp_rule"]), ("lr", "learning rate", c["phase"] in TRAINED)
            for column, what, wanted in waits:
                if wanted and c[column] == "":
                    raise NotFoundError(f"no {what} was found: its search is not complete")
        return [Measured(dict(task.columns) | one.row, one.images) for one in getattr(self, task.kind)(task)]

    def surgeon(self, task: Task) -> Surgeon:
        """The surgeon for a task's block size and gradients; the last one is kept."""
        columns = ("block_size", "gradients", "gradient_batch", "gradient_seed")
        key = tuple(task.columns[name] for name in columns)
        if self._surgeon is None or self._surgeon[0] != key:
            self._surgeon = None  # freed before the next
            settings = dict(zip(columns[:3], key))
            self._surgeon = key, Surgeon(self.config.model_copy(update=settings), self.upstream, key[3])
        return self._surgeon[1]

    def pruned(self, task: Task) -> nn.Module:
        """The pruned copy of the dense model that a task's columns describe."""
        c = task.columns
        regime = c["allocation"], Pattern.parse(c["pattern"])
        damp, again = c["damp"] or None, c["recomputations"] or 0
        return self.surgeon(task).pruned(c["method"], c["sparsity_target"], damp, regime, again)

    def made(self, task: Task) -> nn.Module:
        """The model that a one-shot or a recovered task describes; a recovered one is kept in the cache."""
        if task.columns["phase"] != recovery.PHASE:
            return self.pruned(task)
        model, file = self.surgeon(task).pruned("dense", 0.0), identity.kept(task)
        with disk.locked(file, f"trains {task}"):
            if not taken_up(model, file):
                model = self.trained(task)
                masks.save(model, file)
                identity.discard(task)
        return model

    def trained(self, task: Task) -> nn.Module:
        """A one-shot model trained on with its masks fixed, for the epochs and at the rate that the columns say."""
        c = task.columns
        return training.train(
            self.pruned(task), self.recovery_epoch(), c["epochs"], c["lr"], self.config.weight_decay, seed=self.seed,
            checkpoint=identity.resume(task), amp_dtype=self.config.amp_dtype, desc=str(task),
        )  # fmt: skip

    def recovery_epoch(self) -> Steps:
        """Batches of one epoch of recovery: `recovery_images` of the training images, others in every epoch."""
        c = self.config
        assert isinstance(c, recovery.Recovery)
        loader = batches(self.upstream.data.train, c.batch_size, self.seed, c.augment)
        return Steps(loader, c.recovery_images // c.batch_size)

    def recovery_rate(self, task: Task) -> Iterable[Measured]:
        """What a learning rate of recovery gives on validation. One that diverges is right on no image."""
        yield self.judged(task, self.trained)

    def judged(self, task: Task, make: Callable[[Task], nn.Module], images: int | None = None) -> Measured:
        """What a model that `make` makes of a task gives on validation: on all images, which cost little beside a training,
        or on at most so many.
        """
        try:
            value = self.surgeon(task).judge(make(task), images)
        except (FloatingPointError, torch.linalg.LinAlgError):
            value = 0.0
        return Measured(dict(metric=task.metrics[0][0], value=value))

    def recovered(self, task: Task) -> list[Measured]:
        """A recovered model on the test split."""
        return self.tested(self.made(task))

    def search(self, task: Task) -> Iterable[Measured]:
        """What a lambda gives on validation. One with which a block cannot be inverted is right on no image."""
        yield self.judged(task, self.pruned, self.config.search_images)

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


def taken_up(model: nn.Module, file: Path) -> bool:
    """Whether a file held a pruned model, which `model` then is; one that cannot be read is set aside."""
    try:
        return file.is_file() and masks.load(model, file) is model
    except Exception as error:
        disk.set_aside(file, error)
        return False
