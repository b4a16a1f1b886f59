"""Ablation B: how pruned models transfer, by linear probe and by full finetuning, beside dense and the floors."""

import copy
import sys
import warnings
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from ovit_core import config as configs
from ovit_core import data, dense, masks, models, training
from ovit_core.batches import EVAL_BATCH, Steps, batches
from ovit_core.config import Transfer
from ovit_core.no_weight_update import PRUNER
from ovit_core.pictures import Pictures
from ovit_core.progress import progress
from ovit_core.results import Run
from ovit_core.surgeon import Surgeon

CODE = PRUNER + configs.source(sys.modules[__name__])
# Balanced classes make the two metrics one; these are the sets for which the field reports the mean per class.
MEAN_PER_CLASS = {"glyph_symbols", "glyph_typefaces", "caltech101", "oxford_pets", "flowers102", "fgvc_aircraft"}
# What transfer from nothing gives: no claim is made where dense barely beats it.
FLOORS = {"linear": ("random_init", "raw_pixels"), "full": ("from_scratch",)}


def run(config: Transfer) -> Path:
    """Runs every seed, skipping what is done; returns the folder of the rows."""
    for seed in config.seeds:
        folder = _run_seed(config, seed)
    return folder


def _run_seed(config: Transfer, seed: int) -> Path:
    # What is wrong with the model's names or the downstream sets should be known before anything is trained.
    blank = dense.blank(config, 0, seed)
    models.prunable(blank, config.prunable)
    preprocessing = models.input_config(blank)
    sets = [data.load(name, config.data_path, preprocessing, val_fraction=0.2, seed=seed) for name in config.datasets]
    for d in sets:
        dense.verify(d)
    up = dense.upstream(config, seed)
    out = Run(config, seed, [up.data.fingerprint, *(d.fingerprint for d in sets)], CODE)
    s = Surgeon(config, up, seed)
    s.choose_damps(out, config.transfer_methods)

    asked = dict(linear=config.transfer_sparsities, full=config.full_sparsities)
    targets: dict[tuple[str, float], list[str]] = {("dense", 0.0): []}  # (method, sparsity) -> protocols
    for protocol in config.protocols:
        pruned = [(m, at) for m in config.transfer_methods for at in asked[protocol]]
        for target in [("dense", 0.0), *pruned, *((floor, 0.0) for floor in FLOORS[protocol])]:
            targets.setdefault(target, []).append(protocol)
    # One method after the other, whatever the protocol: each is factorized once.
    order = list(dict.fromkeys(method for method, _ in targets))
    with progress(total=len(sets) * sum(map(len, targets.values())), desc=f"ablation B, seed {seed}") as bar:
        for (method, at), protocols in sorted(targets.items(), key=lambda item: order.index(item[0][0])):
            from_nothing = method in sum(FLOORS.values(), ())

            @cache
            def model() -> nn.Module:  # made when a row is missing, once
                return dense.blank(config, len(up.data.classes), seed + 1000) if from_nothing else s.pruned(method, at)

            key = dict(phase="one_shot", method=method, sparsity_target=at, dataset=config.upstream, metric="top1")
            if not from_nothing and not out.done(**key):
                correct, _ = training.evaluate(model(), batches(up.data.test, EVAL_BATCH))
                out.add(correct.mean(), correct, **key, **s.describe(method, model()))
            for protocol in protocols:
                by_class = not from_nothing and at in (0.0, max(asked[protocol], default=0.0))
                for d in sets:
                    _measure(config, out, s, protocol, method, at, model, d, by_class)
                    bar.update()
    return out.folder


def _measure(config, out: Run, s: Surgeon, protocol: str, method: str, at: float, model, d: data.Data, by_class: bool):
    """The rows of one model by one protocol on one dataset, unless they are there."""
    metric = "mean_per_class" if d.name in MEAN_PER_CLASS else "top1"
    key = dict(phase=protocol, method=method, sparsity_target=at, dataset=d.name)
    missing = not out.done(**key, metric=metric, scope="all")
    if not missing and (not by_class or out.done(**key, scope="class")):
        return
    if protocol == "linear":
        final = model()
        correct, chosen = probe(raw_pixels if method == "raw_pixels" else partial(extract, final), d, config.probe_Cs)
    else:
        final, correct, chosen = finetune(model(), d, config, out.seed, desc=f"{method} on {d.name}")
    row, labels = key | chosen | s.describe(method, final), d.labels("test")
    if missing:
        value = mean_per_class(correct, labels) if metric == "mean_per_class" else correct.mean()
        out.add(value, correct, **row, metric=metric, write=False)
    for c, name in enumerate(d.classes if by_class else []):
        if (labels == c).any():
            out.add(correct[labels == c].mean(), **row, scope="class", scope_name=name, metric="top1", write=False)
    out.write()


def mean_per_class(correct: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the fraction of their (n,) images that are correct."""
    return float(np.mean([correct[labels == c].mean() for c in np.unique(labels)]))


@torch.no_grad()
def extract(model: nn.Module, part) -> tuple[np.ndarray, np.ndarray]:
    """(n, num_features) float32 features before the head, and (n,) labels; images as an evaluation sees them."""
    device = next(model.parameters()).device
    return _read(lambda x: models.features(model.eval(), x.to(device)).cpu(), part)


def raw_pixels(part) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3 * 16 * 16) float32 pixels, averaged down to 16 x 16, and (n,) labels."""
    return _read(lambda x: F.adaptive_avg_pool2d(x, 16).flatten(1), part)


def _read(features, part) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels in the stored order and without augmentation, of a training split too."""
    still = batches(part.unaugmented() if isinstance(part, Pictures) else part, EVAL_BATCH)
    # A copy of the labels: a loader's own would hold a descriptor of shared memory each.
    pairs = [(features(x), y.clone()) for x, y in still]
    return torch.cat([f for f, _ in pairs]).numpy(), torch.cat([y for _, y in pairs]).numpy()


def probe(reader, d: data.Data, Cs: list[float]) -> tuple[np.ndarray, dict]:
    """Linear probe: L2 logistic regression on frozen, standardized features of the training split, C chosen on
    validation.

    Args:
        reader: split -> (features (n, k), labels (n,)).
        d: the dataset; its test split is read once.
        Cs: inverse regularization strengths to choose from.

    Returns:
        (n_test,) bool correctness, and the chosen C.
    """
    (x, y), (x_val, y_val) = reader(d.train), reader(d.val)
    scale = StandardScaler().fit(x)
    x, x_val = scale.transform(x), scale.transform(x_val)
    small = x.size * len(d.classes) < 1e9  # threads cost such fits more than they bring: twelve times as long
    best, accuracy = None, -1.0
    for C in Cs:
        # The loss is a mean: with many classes its gradient is small from the start, and a looser tolerance would end
        # the fit there. This one gives the converged accuracy to 0.1 points; where the limit ends it first, so be it.
        with warnings.catch_warnings(), threadpool_limits(1 if small else None):
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(C=C, max_iter=1000, tol=1e-5).fit(x, y)
        if (now := fitted.score(x_val, y_val)) > accuracy:
            best, accuracy = fitted, now
    x_test, y_test = reader(d.test)
    return best.predict(scale.transform(x_test)) == y_test, dict(C=best.C)


def finetune(
    model: nn.Module, d: data.Data, config: Transfer, seed: int, desc: str
) -> tuple[nn.Module, np.ndarray, dict]:
    """Full finetuning: a new head, all kept weights trained, masks held; the learning rate chosen on validation.

    Returns:
        The model, (n_test,) bool correctness, and the chosen learning rate.

    Raises:
        RuntimeError: a removed weight came back.  FloatingPointError: every learning rate diverged.
    """
    best, accuracy, failed = None, -1.0, None
    for lr in config.full_lrs:
        candidate = copy.deepcopy(model)
        torch.manual_seed(seed)
        candidate.reset_classifier(len(d.classes))
        candidate.to(next(model.parameters()).device)
        loader = Steps(batches(d.train, config.full_batch_size, seed), config.full_steps)
        try:
            training.train(candidate, loader, 1, lr, config.weight_decay, desc=f"finetune {desc}, lr {lr:g}")
        except FloatingPointError as error:  # a rate that diverges is not chosen
            failed = error
            continue
        for name, mask in masks.of(candidate).items():
            if candidate.get_parameter(name)[~mask].any():
                raise RuntimeError(f"finetuning {desc}: removed weights of {name} are no longer zero")
        now = training.evaluate(candidate, batches(d.val, EVAL_BATCH))[0].mean()
        if now > accuracy:
            best, accuracy, chosen = candidate, now, lr
    if best is None:
        raise failed
    return best, training.evaluate(best, batches(d.test, EVAL_BATCH))[0], dict(lr=chosen)
