"""Ablation A: top-1 against sparsity with and without the weight update, one-shot and after recovery."""

import sys
from pathlib import Path

import numpy as np

from ovit_core import config as configs
from ovit_core import curvature, dense, elimination, fisher, inputs, masks, models, plan, pruning, surgeon, training
from ovit_core.batches import Images, batches
from ovit_core.config import NoWeightUpdate
from ovit_core.kernels import cpu, reference
from ovit_core.progress import progress
from ovit_core.results import Run
from ovit_core.surgeon import Surgeon

# Read when this module is, so that a file edited during a long run is not taken for the code that runs.
PRUNER = dense.CODE + configs.source(
    models, fisher, inputs, curvature, elimination, cpu, reference, plan, pruning, masks, surgeon, training
)
CODE = PRUNER + configs.source(sys.modules[__name__])


def run(config: NoWeightUpdate) -> Path:
    """Runs every seed, skipping what is done; returns the folder of the rows."""
    for seed in config.seeds:
        folder = _run_seed(config, seed)
    return folder


def _run_seed(config: NoWeightUpdate, seed: int) -> Path:
    up = dense.upstream(config, seed)
    out = Run(config, seed, [up.data.fingerprint], CODE)
    s = Surgeon(config, up, seed)
    test = batches(up.data.test, 500)

    def measure(phase: str, method: str, sparsity: float, make) -> None:
        key = dict(phase=phase, method=method, sparsity_target=sparsity, dataset=config.upstream, metric="top1")
        if not out.done(**key):
            model = make()
            correct, _ = training.evaluate(model, test)
            out.add(correct.mean(), correct, **key, **s.describe(method, model))

    s.choose_damps(out, config.methods)
    measure("one_shot", "dense", 0.0, lambda: up.model)
    steps = len(config.methods) * (len(config.sparsities) + len(config.recovery_sparsities)) + len(
        config.recovery_sparsities
    )
    with progress(total=steps, desc=f"ablation A, seed {seed}") as bar:
        for method in config.methods:
            for sparsity in config.sparsities:
                measure("one_shot", method, sparsity, lambda: s.pruned(method, sparsity))
                bar.update()
        for method in ["dense", *config.methods]:
            for sparsity in config.recovery_sparsities:
                # The dense control gets the same images and steps; it has no sparsity, so once is enough.
                target = 0.0 if method == "dense" else sparsity
                measure("recovered", method, target, lambda: _recovered(config, s, method, sparsity))
                bar.update()
    return out.folder


def _recovered(config: NoWeightUpdate, s: Surgeon, method: str, sparsity: float):
    """One-shot, then finetuning with the masks fixed, on a seeded part of the training images."""
    model, images = s.pruned(method, sparsity), s.upstream.data.train
    if isinstance(images, Images):
        images = images.take(np.random.default_rng(s.seed).permutation(len(images))[: config.recovery_images])
    loader = batches(images, config.batch_size, s.seed, tuple(config.augment))
    return training.train(
        model,
        loader,
        config.recovery_epochs,
        config.recovery_lr,
        config.weight_decay,
        desc=f"recovery of {method} at {sparsity:g}",
    )
