"""Ablation B at work: pruned models on other datasets, their features read or all of them finetuned, beside the floors."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovit_core import masks, models, training
from ovit_core.ablations.transfer import readout
from ovit_core.ablations.transfer.parameters import NOTHING, Transfer
from ovit_core.ablations.transfer.readout import Labelled
from ovit_core.ablations.transfer.similarity import FEWEST, cka
from ovit_core.data.batches import EVAL_BATCH, InMemoryImages, Steps, batches
from ovit_core.data.files import ImageFiles
from ovit_core.data.loading import Data
from ovit_core.study import dense, measure
from ovit_core.study.store import Images, Measured
from ovit_core.study.tasks import HELD_OUT, VALIDATION, Task, World, identity_of

HELD, SPLIT = 0.2, 0  # of a downstream training split, to choose by: the same images for every seed
ALIKE = 2000  # images on which features are compared, at most
Split = InMemoryImages | ImageFiles


class Seed(measure.Seed):
    """One seed of ablation B."""

    config: Transfer

    def __init__(self, config: Transfer, seed: int, world: World = measure.NOWHERE):
        super().__init__(config, seed, world)
        self._sets: dict[str, Data] = {}
        self._model: tuple[object, nn.Module] | None = None  # the last one: it is taken from set to set
        self._read: tuple[tuple, dict[str, Labelled]] = (), {}  # its features of the last set, which protocols share
        self._dense: dict[str, np.ndarray] = {}  # set -> the dense model's, which all others are compared with

    def data(self, task: Task) -> Data:
        """A task's downstream set."""
        name = task.columns["dataset"]
        if name not in self._sets:
            self._sets[name] = self.expect(dense.read(self.config, name, HELD, SPLIT))
        return self._sets[name]

    def model(self, task: Task) -> nn.Module:
        """The model of a task: that of its source, or for a floor one with random weights. Not to be changed."""
        method = task.columns["method"]
        key = method if method in NOTHING else identity_of(task.source)
        if self._model is None or self._model[0] != key:
            self._model = None  # freed before the next
            floor = method in NOTHING
            classes = len(self.upstream.data.classes)
            self._model = key, dense.blank(self.config, classes, self.seed + 1000) if floor else self.made(task.source)
        return self._model[1]

    def features(self, task: Task, part: str) -> Labelled:
        """What a task's classifier reads of `train`, `val` or `test`."""
        model = self.model(task)
        assert self._model is not None
        place = self._model[0], task.columns["dataset"]
        if self._read[0] != place:
            self._read = place, {}
        kept = self._read[1]
        if part not in kept:
            images = getattr(self.data(task), part)
            kept[part] = raw_pixels(images) if task.columns["method"] == "raw_pixels" else extract(model, images)
        return kept[part]

    def linear(self, task: Task) -> Iterable[Measured]:
        """A linear probe on all images, or on a few of each class; what every C gave on validation, too.

        C is chosen on the validation images, or on as many of them as there are images to learn from. All images are
        then learnt from, those of validation too; a few stay a few.
        """
        shots = task.columns["shots"]
        train, val, test = (self.features(task, part) for part in ("train", "val", "test"))
        seen = val
        if shots:
            train = taken(train, readout.few(train[1], shots, self.seed))
            seen = taken(val, readout.some(len(val[1]), len(train[1]), self.seed))
        tried, C, fit = readout.choose(train, seen, self.config.probe_Cs)
        for value, accuracy in tried.items():
            yield Measured(dict(metric=VALIDATION, C=value, value=accuracy))
        yield from self.held_out(task, lambda: readout.told(fit, val), dict(C=C))
        final = fit if shots else readout.probe(readout.together(train, val), C)
        yield from self.told(task, self.model(task), readout.told(final, test), dict(C=C))

    def knn(self, task: Task) -> Iterable[Measured]:
        """The nearest neighbours of each test image among all others."""
        train, val, test = (self.features(task, part) for part in ("train", "val", "test"))
        yield from self.held_out(task, lambda: readout.told(readout.neighbours(train), val), {})
        final = readout.neighbours(readout.together(train, val))
        yield from self.told(task, self.model(task), readout.told(final, test), {})

    def rate(self, task: Task) -> Iterable[Measured]:
        """What a learning rate gives on validation after half the steps, with a whole schedule of their own. One that
        diverges is right on no image.
        """
        try:
            value = self.finetuned(task, self.steps(task) // 2).accuracy
        except FloatingPointError:
            value = 0.0
        yield Measured(dict(metric=VALIDATION, value=value))

    def full_length(self, task: Task) -> Iterable[Measured]:
        """Full finetuning without the validation images, on those."""
        yield from self.held_out(task, lambda: Images(*self.finetuned(task, self.steps(task))), {})

    def full(self, task: Task) -> Iterable[Measured]:
        """Full finetuning on all images, those of validation too, at the learning rate that was chosen."""
        model = self.trained_on(task, self.steps(task), whole(self.data(task)))
        found = training.evaluate(model, batches(self.data(task).test, EVAL_BATCH))
        yield from self.told(task, model, Images(*found), {})

    def steps(self, task: Task) -> int:
        """How long a task's model is trained: one that starts from scratch has a length of its own."""
        return self.config.steps(task.columns["method"])

    def finetuned(self, task: Task, steps: int) -> training.Evaluation:
        """What a model finetuned on the training images makes of those of validation."""
        data = self.data(task)
        return training.evaluate(self.trained_on(task, steps, data.train), batches(data.val, EVAL_BATCH))

    def trained_on(self, task: Task, steps: int, images: Split) -> nn.Module:
        """A finetuned copy of a task's model."""
        lr, classes = task.columns["lr"], len(self.data(task).classes)
        return finetune(self.model(task), images, classes, self.config, lr, steps, self.seed, str(task))

    def similarity(self, task: Task) -> Iterable[Measured]:
        """How alike a model's features are to the dense model's: of validation images, or where those are too few to
        tell, of the images to train on.
        """
        name, data = task.columns["dataset"], self.data(task)
        part = "val" if len(data.val) >= FEWEST else "train"
        images = getattr(data, part)
        few = np.random.default_rng(SPLIT).permutation(len(images))[:ALIKE]
        if name not in self._dense:
            self._dense[name] = extract(self.upstream.model, images)[0][few]
        mine = self.features(task, part)[0][few]
        about = measure.sparsities(self.model(task)) | dict(n_test=len(few))
        yield Measured(about | dict(metric="cka", value=cka(mine, self._dense[name])))

    def held_out(self, task: Task, found: Callable[[], Images], chosen: dict) -> Iterator[Measured]:
        """The row by which a set tells something or not, of the models that decide it."""
        if (HELD_OUT, "all") in task.metrics:
            images = found()
            about = dict(metric=HELD_OUT, value=float(images.correct.mean()), n_test=len(images.correct))
            yield Measured(about | chosen, images)

    def told(self, task: Task, model: nn.Module, found: Images, chosen: dict) -> Iterator[Measured]:
        """The row of a model on a test split."""
        labels, right, metric = self.data(task).labels("test"), found.correct, task.metrics[0][0]
        value = mean_per_class(right, labels) if metric == "mean_per_class" else right.mean()
        about = measure.sparsities(model) | chosen | dict(metric=metric, value=float(value), n_test=len(right))
        yield Measured(about, replace(found, labels=labels))


def mean_per_class(correct: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the fraction of their (n,) images that are correct."""
    return float(np.mean([correct[labels == c].mean() for c in np.unique(labels)]))


def taken(features: Labelled, index: np.ndarray) -> Labelled:
    """A part of labelled features."""
    return features[0][index], features[1][index]


def whole(data: Data) -> Split:
    """The training and validation images as one split to train on."""
    train, val = data.train, data.val
    if isinstance(train, InMemoryImages):
        assert isinstance(val, InMemoryImages)
        images = torch.cat([part.at(slice(None)) for part in (train, val)])
        return replace(train, stored=images, labels=torch.cat([train.labels, val.labels]), rows=None)
    both = (train.sources, val.sources)
    sources = torch.cat(both) if isinstance(both[0], torch.Tensor) else [*both[0], *both[1]]
    return replace(train, sources=sources, labels=np.concatenate([train.labels, val.labels]))


@torch.no_grad()
def extract(model: nn.Module, part: Split) -> Labelled:
    """(n, num_features) float32 features before the head, and (n,) labels; images as an evaluation sees them."""
    device = next(model.parameters()).device
    return _read(lambda x: models.features(model.eval(), x.to(device)).cpu(), part)


def raw_pixels(part: Split) -> Labelled:
    """(n, 3 * 16 * 16) float32 pixels, averaged down to 16 x 16, and (n,) labels."""
    return _read(lambda x: F.adaptive_avg_pool2d(x, 16).flatten(1), part)


def _read(features: Callable[[Tensor], Tensor], part: Split) -> Labelled:
    """Features and labels in the stored order and without augmentation, of a training split too."""
    still = batches(part.unaugmented(), EVAL_BATCH)
    # A copy of the labels: a loader's own would hold a descriptor of shared memory each.
    pairs = [(features(x), y.clone()) for x, y in still]
    return torch.cat([f for f, _ in pairs]).numpy(), torch.cat([y for _, y in pairs]).numpy()


def finetune(
    model: nn.Module, images: Split, classes: int, config: Transfer, lr: float, steps: int, seed: int, desc: str
) -> nn.Module:  # fmt: skip
    """Full finetuning of a copy: a new head, all kept weights trained, masks held. Images are augmented (by
    `augment`, in files by timm's transform) and not mixed: what learns from nothing needs it most.

    Raises:
        RuntimeError: a removed weight came back.  FloatingPointError: it diverged.
    """
    model, device = copy.deepcopy(model), next(model.parameters()).device
    torch.manual_seed(seed)
    model.reset_classifier(classes)
    model.to(device)
    loader = Steps(batches(images, config.full_batch_size, seed, config.augment), steps)
    training.train(
        model, loader, 1, lr, config.weight_decay, seed=seed, amp_dtype=config.amp_dtype, desc=f"{desc}, lr {lr:g}"
    )
    for name, mask in masks.of(model).items():
        if model.get_parameter(name)[~mask].any():
            raise RuntimeError(f"{desc}: removed weights of {name} are no longer zero")
    return model
