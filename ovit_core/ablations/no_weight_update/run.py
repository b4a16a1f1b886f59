"""Ablation A: top-1 with and without the weight update: one-shot, after recovery, and pruned gradually."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ovit_core import training
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate, cubic, regime_of
from ovit_core.data.batches import EVAL_BATCH, batches
from ovit_core.progress import progress
from ovit_core.study import dense, provenance
from ovit_core.study.store import Run
from ovit_core.study.surgeon import Surgeon

# Read when this module is, so that a file edited during a long run is not taken for the code that runs.
CODE = provenance.code(*provenance.STUDY, __name__, NoWeightUpdate.__module__)
# What the sensitivity of the update's gain is measured by: the same mask with and without it.
PAIR = ("ovit", "ovit_mask_only")
Jobs = Iterator[Callable[[], None]]


def run(config: NoWeightUpdate) -> Path:
    """Runs every seed, skipping what is done; returns the folder of the rows."""
    return [Seed(config, seed).run() for seed in config.seeds][-1]


class Seed:
    """One seed of the ablation: a list of jobs, each a row or a few, done if its rows are not there."""

    def __init__(self, config: NoWeightUpdate, seed: int):
        self.config, self.seed = config, seed
        self.upstream = dense.upstream(config, seed)
        self.out = Run(config, seed, [self.upstream.data.fingerprint], CODE)
        self.surgeon = Surgeon(config, self.upstream, seed)
        self.test = batches(self.upstream.data.test, EVAL_BATCH)

    def run(self) -> Path:
        c, s = self.config, self.surgeon
        everything = dict.fromkeys((*c.methods, *c.recovery_methods, *c.gradual_methods))
        s.choose_damps(self.out, list(everything))
        self.measure("one_shot", "dense", 0.0, lambda: self.upstream.model)
        jobs = [
            *self.one_shot_jobs(),
            *self.trained_jobs("recovered", c.recovery_methods, c.recovery_sparsities, self.recovered),
            *self.trained_jobs("gradual", c.gradual_methods, c.gradual_sparsities, self.gradual),
            *self.sensitivity_jobs(),
        ]
        with progress(total=len(jobs), desc=f"ablation A, seed {self.seed}") as bar:
            for job in jobs:
                job()
                bar.update()
        return self.out.folder

    def measure(
        self,
        phase: str,
        method: str,
        sparsity: float,
        make: Callable[[], nn.Module],
        surgeon: Surgeon | None = None,
        **columns: Any,
    ) -> None:
        """Top-1 and cross-entropy on the test split, unless the rows are there."""
        key = dict(phase=phase, method=method, sparsity_target=sparsity, dataset=self.config.upstream)
        key |= dict(experiment=self.config.experiment, allocation="global", pattern="unstructured") | columns
        missing = [metric for metric in ("top1", "cross_entropy") if not self.out.done(**key, metric=metric)]
        if missing:
            model = make()
            correct, loss = training.evaluate(model, self.test)
            row = (surgeon or self.surgeon).describe(method, model) | key
            if "top1" in missing:
                self.out.add(correct.mean(), correct, **row, metric="top1", write=missing == ["top1"])
            if "cross_entropy" in missing:
                self.out.add(loss, **row, metric="cross_entropy")

    def one_shot_jobs(self) -> Jobs:
        c, s = self.config, self.surgeon
        for method in c.methods:
            for regime in c.regimes:
                allocation, pattern = regime_of(regime)
                columns = dict(allocation=allocation, pattern=str(pattern))
                sparsities = c.sparsities if pattern.sparsity is None else (pattern.sparsity,)
                for at in sparsities:
                    make = partial(s.pruned, method, at, allocation, pattern)
                    yield partial(self.measure, "one_shot", method, at, make, **columns)
                if method == "ovit" and regime == "global":
                    yield from (partial(self.where_it_acts, at) for at in sparsities)

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

    def trained_jobs(
        self,
        phase: str,
        methods: Iterable[str],
        sparsities: Iterable[float],
        make: Callable[[str, float], nn.Module],
    ) -> Jobs:
        """Each method at each sparsity by `make`, and the dense control: the same images and steps, and as it has no
        sparsity, once is enough.
        """
        pairs = [(method, at) for method in methods for at in sparsities]
        for method, at in [("dense", 0.0)] * bool(pairs) + pairs:
            yield partial(self.measure, phase, method, at, partial(make, method, at))

    def recovered(self, method: str, at: float) -> nn.Module:
        """One-shot, then finetuning with the masks fixed."""
        c = self.config
        desc = f"recovery of {method} at {at:g}"
        loader = self.part(c.recovery_images)
        model = self.surgeon.pruned(method, at)
        return training.train(model, loader, c.recovery_epochs, c.recovery_lr, c.weight_decay, desc=desc)

    def gradual(self, method: str, at: float) -> nn.Module:
        """Cycles of pruning and training, with a learning rate that falls linearly and starts anew at every pruning
        step, as oViT section 4 does it; the dense control trains through the same cycles.
        """
        c, model = self.config, self.surgeon.pruned("dense", 0.0)
        loader = self.part(c.gradual_images)
        for sparsity in cubic(c.gradual_start, at, c.gradual_cycles) if method != "dense" else [0.0] * c.gradual_cycles:
            if method != "dense":
                self.surgeon.prune_again(model, method, sparsity)
            training.train(
                model, loader, c.gradual_epochs, c.gradual_lr, c.weight_decay, final_lr=c.gradual_final_lr,
                decay="linear", warmup=0.0, desc=f"gradual {method} to {at:g}",
            )  # fmt: skip
        return model

    def sensitivity_jobs(self) -> Jobs:
        """The update's gain as one of block size, gradients, gradient batch and lambda varies."""
        c = self.config
        at = c.sensitivity_sparsity
        for name, values in c.sweeps.items():
            if name != "damp":
                yield from (partial(self.sensitive, name, value) for value in values)
        for damp in c.sweeps["damp"]:
            for method in PAIR:
                make = partial(self.surgeon.pruned, method, at, damp=damp)
                where = dict(experiment="sensitivity", scope_name="damp", damp=damp)
                yield partial(self.measure, "one_shot", method, at, make, **where)

    def sensitive(self, name: str, value: int) -> None:
        """Both methods with one setting changed, lambda chosen anew for it."""
        other = Surgeon(self.config.replace(**{name: value}), self.upstream, self.seed)
        at = self.config.sensitivity_sparsity
        for method in PAIR:
            key = dict(experiment="sensitivity", scope_name=name, **{name: value})
            self.measure("one_shot", method, at, partial(other.pruned, method, at), other, **key)

    def part(self, count: int):
        """Batches of a seeded part of the training images."""
        c, images = self.config, self.upstream.data.train
        images = images.take(np.random.default_rng(self.seed).permutation(len(images))[:count])
        return batches(images, c.batch_size, self.seed, c.augment)
