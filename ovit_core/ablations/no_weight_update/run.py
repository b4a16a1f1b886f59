"""Ablation A: top-1 with and without the weight update: one-shot, after recovery, and pruned gradually."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ovit_core import training
from ovit_core.ablations.no_weight_update.parameters import PAIR, NoWeightUpdate, cubic, regime_of
from ovit_core.data.batches import EVAL_BATCH, batches
from ovit_core.progress import progress
from ovit_core.study import dense, provenance
from ovit_core.study.store import Run
from ovit_core.study.surgeon import Surgeon

# Read when this module is, so that a file edited during a long run is not taken for the code that runs.
CODE = provenance.code(*provenance.STUDY, __name__, NoWeightUpdate.__module__)


def run(config: NoWeightUpdate) -> Path:
    """Runs every seed, skipping what is done; returns the folder of the rows."""
    return [Seed(config, seed).run() for seed in config.seeds][-1]


class Seed:
    """One seed of the ablation: a list of jobs, each a row or a few, done if its rows are not there."""

    def __init__(self, config: NoWeightUpdate, seed: int):
        self.config, self.seed = config, seed
        self.upstream = dense.upstream(config, seed)
        if self.upstream.headless:
            raise ValueError(
                f"{config.model} has no classifier head here, and so no top-1: run ablation B alone (--only transfer)"
            )
        self.out = Run(config, seed, [self.upstream.data.fingerprint], CODE)
        self.surgeon = Surgeon(config, self.upstream, seed)
        self.test = batches(self.upstream.data.test, EVAL_BATCH)

    def run(self) -> Path:
        self.surgeon.choose_damps(self.out)
        jobs = list(self.jobs())
        for job in progress(jobs, desc=f"ablation A, seed {self.seed}"):
            job()
        return self.out.folder

    def jobs(self) -> Iterator[Callable[[], None]]:
        """All there is to measure; the dense control of trained models once, for it has no sparsity."""
        c = self.config
        yield partial(self.measure, "one_shot", "dense", 0.0, lambda: self.upstream.model)
        for method in c.methods:
            for regime in c.regimes:
                allocation, pattern = regime_of(regime)
                sparsities = c.sparsities if pattern.sparsity is None else (pattern.sparsity,)
                for at in sparsities:
                    make = partial(self.surgeon.pruned, method, at, (allocation, pattern))
                    columns = dict(allocation=allocation, pattern=str(pattern))
                    yield partial(self.measure, "one_shot", method, at, make, **columns)
                if method == "ovit" and regime == "global":
                    yield from (partial(self.where_it_acts, at) for at in sparsities)
        for phase, make in dict(recovered=self.recovered, gradual=self.gradual).items():
            methods, sparsities = c.points[phase]
            points = [(method, at) for method in methods for at in sparsities]
            for method, at in [("dense", 0.0)] * bool(points) + points:
                yield partial(self.measure, phase, method, at, partial(make, method, at))
        for column, values in c.sweeps.items():
            yield from (partial(self.sensitivity, column, value) for value in values)

    def measure(self, phase: str, method: str, at: float, make: Callable[[], nn.Module], **columns: Any) -> None:
        """Top-1 and cross-entropy on the test split, unless the rows are there."""
        key = dict(phase=phase, method=method, sparsity_target=at, dataset=self.config.upstream)
        key |= dict(experiment=self.config.experiment, allocation="global", pattern="unstructured") | columns
        missing = [metric for metric in ("top1", "cross_entropy") if not self.out.done(**key, metric=metric)]
        if missing:
            model = make()
            correct, loss = training.evaluate(model, self.test)
            row = self.surgeon.describe(method, model) | key
            if "top1" in missing:
                self.out.add(correct.mean(), **row, metric="top1", n_test=len(correct))
            if "cross_entropy" in missing:
                self.out.add(loss, **row, metric="cross_entropy")

    def where_it_acts(self, at: float) -> None:
        """Per layer: oViT's sparsity and its share of the correction's squared norm; and the loss it predicts."""
        key = dict(phase="one_shot", method="ovit", sparsity_target=at, dataset=self.config.upstream)
        if self.out.done(**key, metric="predicted_loss_increase"):
            return
        point = self.surgeon.point("ovit", at)
        assert point.loss is not None  # oViT's score is a predicted loss
        moved = {
            name: float(((point.weights[name] - w.detach()) * point.masks[name]).square().sum())
            for name, w in self.surgeon.weights.items()
        }
        row = key | dict(score="greedy", update="joint", damp=self.surgeon.damp("ovit"))
        for name, mask in point.masks.items():
            layer = row | dict(scope="layer", scope_name=name)
            self.out.add(1 - float(mask.float().mean()), **layer, metric="sparsity", write=False)
            self.out.add(moved[name] / sum(moved.values()), **layer, metric="correction_share", write=False)
        self.out.add(point.loss, **row, metric="predicted_loss_increase")

    def recovered(self, method: str, at: float) -> nn.Module:
        """One-shot, then finetuning with the masks fixed."""
        c = self.config
        model, loader = self.surgeon.pruned(method, at), self.part(c.recovery_images)
        desc = f"recovery of {method} at {at:g}"
        return training.train(model, loader, c.recovery_epochs, c.recovery_lr, c.weight_decay, desc=desc)

    def gradual(self, method: str, at: float) -> nn.Module:
        """Cycles of pruning and training, with a learning rate that falls linearly and starts anew at every pruning
        step, as oViT section 4 does it; the dense control trains through the same cycles.
        """
        c = self.config
        model, loader = self.surgeon.pruned("dense", 0.0), self.part(c.gradual_images)
        steps = cubic(c.gradual_start, at, c.gradual_cycles) if method != "dense" else [0.0] * c.gradual_cycles
        for sparsity in steps:
            if method != "dense":
                self.surgeon.prune_again(model, method, sparsity)
            training.train(
                model, loader, c.gradual_epochs, c.gradual_lr, c.weight_decay, final_lr=c.gradual_final_lr,
                decay="linear", warmup=0.0, desc=f"gradual {method} to {at:g}",
            )  # fmt: skip
        return model

    def sensitivity(self, column: str, value: float) -> None:
        """oViT with and without its update as one setting varies; lambda is chosen anew, unless it is what varies."""
        at, other = self.config.sensitivity_sparsity, copy.copy(self)  # the same seed with another surgeon
        if column != "damp":
            other.surgeon = Surgeon(self.config.replace(**{column: value}), self.upstream, self.seed)
        damp = value if column == "damp" else None
        for method in PAIR:
            make = partial(other.surgeon.pruned, method, at, damp=damp)
            columns = dict(experiment="sensitivity", scope_name=column) | {column: value}
            other.measure("one_shot", method, at, make, **columns)

    def part(self, count: int):
        """Batches of a seeded part of the training images."""
        c, images = self.config, self.upstream.data.train
        images = images.take(np.random.default_rng(self.seed).permutation(len(images))[:count])
        return batches(images, c.batch_size, self.seed, c.augment)
