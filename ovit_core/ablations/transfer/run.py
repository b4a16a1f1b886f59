"""Ablation B: how pruned models transfer, by linear probe and by full finetuning, beside dense and the floors."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import chain, product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from ovit_core import masks, models, training
from ovit_core.ablations.transfer.parameters import FLOORS, NOTHING, Transfer
from ovit_core.data.batches import EVAL_BATCH, InMemoryImages, Steps, batches
from ovit_core.data.files import ImageFiles
from ovit_core.data.loading import Data, load
from ovit_core.progress import progress
from ovit_core.study import dense, paths, provenance
from ovit_core.study.store import Run
from ovit_core.study.surgeon import Surgeon

# Read when this module is, so that a file edited during a long run is not taken for the code that runs.
CODE = provenance.code(*provenance.STUDY, __name__, Transfer.__module__)
Labelled = tuple[np.ndarray, np.ndarray]  # (n, k) float32 features, (n,) labels
Reader = Callable[[InMemoryImages | ImageFiles], Labelled]


def run(config: Transfer) -> Path:
    """Runs every seed, skipping what is done; returns the folder of the rows."""
    return [Seed(config, seed).run() for seed in config.seeds][-1]


class Seed:
    """One seed of the ablation: every model measured on every downstream set by the protocols asked for."""

    def __init__(self, config: Transfer, seed: int):
        self.config, self.seed = config, seed
        # What is wrong with the downstream sets should be known before anything is trained.
        preprocessing = models.input_config(dense.blank(config, 0, seed))
        self.sets = [load(name, config.data_path, preprocessing, 0.2, seed, paths.cache()) for name in config.datasets]
        self.upstream = dense.upstream(config, seed)
        fingerprints = [self.upstream.data.fingerprint, *(data.fingerprint for data in self.sets)]
        self.out = Run(config, seed, fingerprints, CODE)
        self.surgeon = Surgeon(config, self.upstream, seed)

    def run(self) -> Path:
        self.surgeon.choose_damps(self.out)
        targets = list(self.targets())
        total = len(self.sets) * sum(len(protocols) for _, _, protocols in targets)
        with progress(total=total, desc=f"ablation B, seed {self.seed}") as bar:
            for method, at, protocols in targets:
                model = cache(partial(self.model, method, at))  # made when a row is missing, once
                if method not in NOTHING and not self.upstream.headless:
                    self.upstream_top1(method, at, model)
                for protocol, data in product(protocols, self.sets):
                    self.measure(protocol, method, at, model, data)
                    bar.update()
        return self.out.folder

    def targets(self) -> Iterator[tuple[str, float, list[str]]]:
        """Method, sparsity and the protocols that measure it: dense first, the floors last, and a method's sparsities
        one after the other, for it is factorized once.
        """
        asked = self.config.sparsities
        yield "dense", 0.0, list(asked)
        for method in self.config.transfer_methods:
            for at in dict.fromkeys(chain(*asked.values())):
                yield method, at, [protocol for protocol in asked if at in asked[protocol]]
        for protocol in asked:
            yield from ((floor, 0.0, [protocol]) for floor in FLOORS[protocol])

    def model(self, method: str, at: float) -> nn.Module:
        """The model of a target: a pruned copy, or for a floor one with random weights."""
        if method in NOTHING:
            return dense.blank(self.config, len(self.upstream.data.classes), self.seed + 1000)
        return self.surgeon.pruned(method, at)

    def upstream_top1(self, method: str, at: float, model: Callable[[], nn.Module]) -> None:
        """The row of upstream top-1, unless it is there."""
        key = dict(phase="one_shot", method=method, sparsity_target=at, dataset=self.config.upstream, metric="top1")
        if not self.out.done(**key):
            correct, _ = training.evaluate(model(), batches(self.upstream.data.test, EVAL_BATCH))
            self.out.add(correct.mean(), n_test=len(correct), **key, **self.surgeon.describe(method, model()))

    def measure(self, protocol: str, method: str, at: float, model: Callable[[], nn.Module], data: Data) -> None:
        """The rows of one model by one protocol on one set, if missing; for dense and the highest sparsity by class."""
        by_class = method not in NOTHING and at in (0.0, max(self.config.sparsities[protocol], default=0.0))
        key = dict(phase=protocol, method=method, sparsity_target=at, dataset=data.name)
        missing = not self.out.done(**key, metric=data.metric, scope="all")
        if not missing and (not by_class or self.out.done(**key, scope="class")):
            return
        if protocol == "linear":
            final = model()
            reader = raw_pixels if method == "raw_pixels" else partial(extract, final)
            correct, chosen = probe(reader, data, self.config.probe_Cs)
        else:
            final, correct, chosen = finetune(model(), data, self.config, self.seed, desc=f"{method} on {data.name}")
        row, labels = key | chosen | self.surgeon.describe(method, final), data.labels("test")
        if missing:
            value = mean_per_class(correct, labels) if data.metric == "mean_per_class" else correct.mean()
            self.out.add(value, n_test=len(correct), **row, metric=data.metric, write=False)
        for c, name in enumerate(data.classes if by_class else []):
            if (labels == c).any():
                one = dict(scope="class", scope_name=name, metric="top1")
                self.out.add(correct[labels == c].mean(), **row, **one, write=False)
        self.out.write()


def mean_per_class(correct: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the fraction of their (n,) images that are correct."""
    return float(np.mean([correct[labels == c].mean() for c in np.unique(labels)]))


@torch.no_grad()
def extract(model: nn.Module, part: InMemoryImages | ImageFiles) -> Labelled:
    """(n, num_features) float32 features before the head, and (n,) labels; images as an evaluation sees them."""
    device = next(model.parameters()).device
    return _read(lambda x: models.features(model.eval(), x.to(device)).cpu(), part)


def raw_pixels(part: InMemoryImages | ImageFiles) -> Labelled:
    """(n, 3 * 16 * 16) float32 pixels, averaged down to 16 x 16, and (n,) labels."""
    return _read(lambda x: F.adaptive_avg_pool2d(x, 16).flatten(1), part)


def _read(features: Callable[[Tensor], Tensor], part: InMemoryImages | ImageFiles) -> Labelled:
    """Features and labels in the stored order and without augmentation, of a training split too."""
    still = batches(part.unaugmented() if isinstance(part, ImageFiles) else part, EVAL_BATCH)
    # A copy of the labels: a loader's own would hold a descriptor of shared memory each.
    pairs = [(features(x), y.clone()) for x, y in still]
    return torch.cat([f for f, _ in pairs]).numpy(), torch.cat([y for _, y in pairs]).numpy()


def probe(reader: Reader, data: Data, Cs: Sequence[float]) -> tuple[np.ndarray, dict]:
    """Linear probe: L2 logistic regression on frozen, standardized features of the training split, its inverse strength
    chosen from `Cs` on validation. The test split is read once.

    Returns:
        (n_test,) bool correctness, and the chosen C.
    """
    (x, y), (x_val, y_val) = reader(data.train), reader(data.val)
    scale = StandardScaler().fit(x)
    x, x_val = scale.transform(x), scale.transform(x_val)
    small = x.size * len(data.classes) < 1e9  # threads cost such fits more than they bring: twelve times as long
    # The loss is a mean: with many classes its gradient is small from the start, and a looser tolerance would end the
    # fit there. This one gives the converged accuracy to 0.1 points; where the limit ends it first, so be it.
    with warnings.catch_warnings(), threadpool_limits(1 if small else None):
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [LogisticRegression(C=C, max_iter=1000, tol=1e-5).fit(x, y) for C in Cs]
    best = max(fits, key=lambda fit: fit.score(x_val, y_val))
    x_test, y_test = reader(data.test)
    return best.predict(scale.transform(x_test)) == y_test, dict(C=best.C)


def finetune(
    model: nn.Module, data: Data, config: Transfer, seed: int, desc: str
) -> tuple[nn.Module, np.ndarray, dict]:
    """Full finetuning: a new head, all kept weights trained, masks held; the learning rate chosen on validation.

    Returns:
        The model, (n_test,) bool correctness, and the chosen learning rate.

    Raises:
        RuntimeError: a removed weight came back.  FloatingPointError: every learning rate diverged.
    """
    trained = {}  # learning rate -> validation accuracy, model
    for lr in config.full_lrs:
        candidate = copy.deepcopy(model)
        torch.manual_seed(seed)
        candidate.reset_classifier(len(data.classes))
        candidate.to(next(model.parameters()).device)
        loader = Steps(batches(data.train, config.full_batch_size, seed), config.full_steps)
        try:
            training.train(candidate, loader, 1, lr, config.weight_decay, desc=f"finetune {desc}, lr {lr:g}")
        except FloatingPointError:  # a rate that diverges is not chosen
            continue
        for name, mask in masks.of(candidate).items():
            if candidate.get_parameter(name)[~mask].any():
                raise RuntimeError(f"finetuning {desc}: removed weights of {name} are no longer zero")
        trained[lr] = training.evaluate(candidate, batches(data.val, EVAL_BATCH))[0].mean(), candidate
    if not trained:
        raise FloatingPointError(f"finetuning {desc}: every learning rate of {list(config.full_lrs)} diverged")
    lr = max(trained, key=lambda lr: trained[lr][0])
    best = trained[lr][1]
    return best, training.evaluate(best, batches(data.test, EVAL_BATCH))[0], dict(lr=lr)
