"""Ablation B at work: pruned models on other datasets, by linear probe and by full finetuning, beside the floors."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from ovit_core import masks, models, training
from ovit_core.ablations.transfer.parameters import NOTHING, Transfer
from ovit_core.data.batches import EVAL_BATCH, InMemoryImages, Steps, batches
from ovit_core.data.files import ImageFiles
from ovit_core.data.loading import Data
from ovit_core.study import dense, measure
from ovit_core.study.store import Images, Measured
from ovit_core.study.tasks import VALIDATION, Task, World

HELD = 0.2  # of a downstream training split, to choose by
Labelled = tuple[np.ndarray, np.ndarray]  # (n, k) float32 features, (n,) labels
Reader = Callable[[InMemoryImages | ImageFiles], Labelled]


class Seed(measure.Seed):
    """One seed of ablation B; the seed is of each set's validation split too."""

    config: Transfer

    def __init__(self, config: Transfer, seed: int, world: World = measure.NOWHERE):
        super().__init__(config, seed, world)
        self._sets: dict[str, Data] = {}

    def data(self, task: Task) -> Data:
        """A task's downstream set."""
        name = task.columns["dataset"]
        if name not in self._sets:
            self._sets[name] = self.expect(dense.read(self.config, name, HELD, self.seed))
        return self._sets[name]

    def model(self, task: Task) -> nn.Module:
        """The model of a task: a pruned copy, or for a floor one with random weights."""
        if task.columns["method"] in NOTHING:
            return dense.blank(self.config, len(self.upstream.data.classes), self.seed + 1000)
        return self.pruned(task)

    def linear(self, task: Task) -> Iterable[Measured]:
        """A linear probe; what every C gave on validation, too."""
        model, data = self.model(task), self.data(task)
        reader = raw_pixels if task.columns["method"] == "raw_pixels" else partial(extract, model)
        tried, C, found = probe(reader, data, self.config.probe_Cs)
        for value, accuracy in tried.items():
            yield Measured(dict(metric=VALIDATION, C=value, value=accuracy))
        yield from self.told(task, model, data, found, dict(C=C))

    def rate(self, task: Task) -> Iterable[Measured]:
        """What a learning rate gives on validation after half the steps, with a whole schedule of their own. One that
        diverges is right on no image.
        """
        data, steps = self.data(task), max(1, self.config.full_steps // 2)
        try:
            model = finetune(self.model(task), data, self.config, task.columns["lr"], steps, self.seed, str(task))
            value = training.evaluate(model, batches(data.val, EVAL_BATCH)).accuracy
        except FloatingPointError:
            value = 0.0
        yield Measured(dict(metric=VALIDATION, value=value))

    def full(self, task: Task) -> Iterable[Measured]:
        """Full finetuning at the learning rate that was chosen."""
        data, c = self.data(task), self.config
        model = finetune(self.model(task), data, c, task.columns["lr"], c.full_steps, self.seed, str(task))
        yield from self.told(task, model, data, Images(*training.evaluate(model, batches(data.test, EVAL_BATCH))), {})

    def told(self, task: Task, model: nn.Module, data: Data, found: Images, chosen: dict) -> Iterator[Measured]:
        """The rows of a model on a test split, for those asked for by class too."""
        labels, right = data.labels("test"), found.correct
        row = measure.sparsities(model) | chosen
        value = mean_per_class(right, labels) if data.metric == "mean_per_class" else right.mean()
        yield Measured(
            row | dict(metric=data.metric, value=float(value), n_test=len(right)), replace(found, labels=labels)
        )
        for c, name in enumerate(data.classes if ("top1", "class") in task.metrics else []):
            if (labels == c).any():
                one = dict(scope="class", scope_name=name, metric="top1", value=float(right[labels == c].mean()))
                yield Measured(row | one)


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


def probe(reader: Reader, data: Data, Cs: Sequence[float]) -> tuple[dict[float, float], float, Images]:
    """Linear probe: L2 logistic regression on frozen, standardized features of the training split, its inverse strength
    chosen from `Cs` on validation. The test split is read once.

    Returns:
        The validation accuracy of each C, the first with the best, and what that one makes of the test images.
    """
    (x, y), (x_val, y_val) = reader(data.train), reader(data.val)
    scale = StandardScaler().fit(x)
    x, x_val = scale.transform(x), scale.transform(x_val)
    small = x.size * len(data.classes) < 1e9  # threads cost such fits more than they bring: twelve times as long
    # The loss is a mean: with many classes its gradient is small from the start, and a looser tolerance would end the
    # fit there. This one gives the converged accuracy to 0.1 points; where the limit ends it first, so be it.
    with warnings.catch_warnings(), threadpool_limits(1 if small else None):
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = {C: LogisticRegression(C=C, max_iter=1000, tol=1e-5).fit(x, y) for C in Cs}
    tried = {C: float(fit.score(x_val, y_val)) for C, fit in fits.items()}
    best = max(tried, key=lambda C: tried[C])
    x_test, y_test = reader(data.test)
    odds = fits[best].predict_proba(scale.transform(x_test))  # (n, classes that train has)
    place = {label: i for i, label in enumerate(fits[best].classes_)}
    own = np.array([odds[i, place[y]] if y in place else 0.0 for i, y in enumerate(y_test)])
    right = fits[best].classes_[odds.argmax(1)] == y_test
    return tried, best, Images(right, -np.log(np.maximum(own, np.finfo(float).tiny)), odds.max(1))


def finetune(model: nn.Module, data: Data, config: Transfer, lr: float, steps: int, seed: int, desc: str) -> nn.Module:
    """Full finetuning: a new head, all kept weights trained, masks held.

    Raises:
        RuntimeError: a removed weight came back.  FloatingPointError: it diverged.
    """
    model, device = copy.deepcopy(model), next(model.parameters()).device
    torch.manual_seed(seed)
    model.reset_classifier(len(data.classes))
    model.to(device)
    loader = Steps(batches(data.train, config.full_batch_size, seed), steps)
    training.train(model, loader, 1, lr, config.weight_decay, seed=seed, desc=f"{desc}, lr {lr:g}")
    for name, mask in masks.of(model).items():
        if model.get_parameter(name)[~mask].any():
            raise RuntimeError(f"{desc}: removed weights of {name} are no longer zero")
    return model
