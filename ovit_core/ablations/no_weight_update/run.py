"""Ablation A at work: where oViT acts, and what training makes of pruned models, after one step and between several."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import nn

from ovit_core import disk, masks, training
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate, cubic
from ovit_core.data.batches import batches
from ovit_core.study import identity, measure
from ovit_core.study.store import Measured
from ovit_core.study.tasks import Task


class Seed(measure.Seed):
    """One seed of ablation A."""

    config: NoWeightUpdate

    def where_it_acts(self, task: Task) -> Iterable[Measured]:
        """Per layer: oViT's sparsity and its share of the correction's squared norm; and the loss it predicts."""
        c, surgeon = task.columns, self.surgeon(task)
        point = surgeon.point(c["method"], c["sparsity_target"], c["damp"])
        assert point.loss is not None  # oViT's score is a predicted loss
        moved = {
            name: float(((point.weights[name] - w.detach()) * point.masks[name]).square().sum())
            for name, w in surgeon.weights.items()
        }
        yield Measured(dict(metric="predicted_loss_increase", value=point.loss))
        for name, mask in point.masks.items():
            layer = dict(scope="layer", scope_name=name)
            yield Measured(layer | dict(metric="sparsity", value=1 - float(mask.float().mean())))
            yield Measured(layer | dict(metric="correction_share", value=moved[name] / sum(moved.values())))

    def recovered(self, task: Task) -> list[Measured]:
        """One-shot, then finetuning with the masks fixed."""
        c = self.config
        model = training.train(
            self.pruned(task), self.part(c.recovery_images), c.recovery_epochs, c.recovery_lr, c.weight_decay,
            seed=self.seed, checkpoint=identity.resume(task), desc=str(task),
        )  # fmt: skip
        return self.tested(model)

    def gradual(self, task: Task) -> list[Measured]:
        """Cycles of pruning and training, with a learning rate that falls linearly and starts anew at every pruning
        step, as oViT section 4 does it; the dense control trains through the same cycles.

        What a pruning step made is kept beside the resume file of the training after it, so that neither is lost.
        """
        c, method, at, damp = self.config, *(task.columns[name] for name in ("method", "sparsity_target", "damp"))
        surgeon, model, loader = (
            self.surgeon(task),
            self.surgeon(task).pruned("dense", 0.0),
            self.part(c.gradual_images),
        )
        dense = method == "dense"
        steps = [0.0] * c.gradual_cycles if dense else cubic(c.gradual_start, at, c.gradual_cycles)
        resumes = [identity.resume(task, i) for i in range(len(steps))]
        kept = [resume.with_suffix(".safetensors") for resume in resumes]
        begun = next((i for i in reversed(range(len(steps))) if _taken_up(model, kept[i])), -1)
        for i, sparsity in enumerate(steps):
            if i < begun:
                continue
            if i > begun:
                if not dense:
                    surgeon.prune_again(model, method, sparsity, damp or None)
                masks.save(model, kept[i])
            loader.epoch = i * c.gradual_epochs
            training.train(
                model, loader, c.gradual_epochs, c.gradual_lr, c.weight_decay, final_lr=c.gradual_final_lr, decay="linear",
                warmup=0.0, seed=self.seed * 1009 + i, checkpoint=resumes[i], desc=f"{task}, step {i + 1}",
            )  # fmt: skip
        return self.tested(model)

    def part(self, count: int):
        """Batches of a seeded part of the training images."""
        c, images = self.config, self.upstream.data.train
        images = images.take(np.random.default_rng(self.seed).permutation(len(images))[:count])
        return batches(images, c.batch_size, self.seed, c.augment)


def _taken_up(model: nn.Module, file: Path) -> bool:
    """Whether a file held a pruned model, which `model` then is; one that cannot be read is set aside."""
    try:
        return file.is_file() and masks.load(model, file) is model
    except Exception as error:
        disk.set_aside(file, error)
        return False
