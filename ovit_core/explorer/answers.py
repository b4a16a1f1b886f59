"""What models answer: image by image, so that two of them are compared on the same images."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from torch import Tensor, nn

from ovit_core import training

NEAR = 2.0  # times chance: where the interval of a model's accuracy reaches down to it, there is little to prune


class Share(NamedTuple):
    """A share of images, or a difference of two, with its 95 % interval for other images of the same kind."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


class Answers(NamedTuple):
    """What a model made of n images, in their order."""

    correct: np.ndarray  # (n,) bool
    loss: np.ndarray  # (n,) cross-entropy
    top: np.ndarray  # (n,) probability of the class it took the image for
    taken: np.ndarray  # (n,) that class
    labels: np.ndarray  # (n,) the true one

    def of(self, index: np.ndarray) -> "Answers":
        """Those on some of the images."""
        return Answers(*(part[index] for part in self))

    @property
    def accuracy(self) -> Share:
        """Top-1 with Wilson's interval."""
        found = binomtest(int(self.correct.sum()), len(self.correct)).proportion_ci(method="wilson")
        return Share(float(self.correct.mean()), float(found.low), float(found.high))

    @property
    def cross_entropy(self) -> float:
        return float(self.loss.mean())

    def minus(self, other: "Answers") -> Share:
        """The difference of accuracies on the same images; a paired interval (Agresti and Min, Statistics in Medicine
        24, 2005: Wald's after half an image is added to each of the four outcomes; at no disagreement it is not empty).
        """
        n = len(self.correct)
        won, lost = int((self.correct & ~other.correct).sum()), int((~self.correct & other.correct).sum())
        middle = (won - lost) / (n + 2)
        half = 1.96 * math.sqrt((won + lost + 1) / (n + 2) - middle**2) / math.sqrt(n + 2)
        value = (won - lost) / n
        return Share(value, min(value, middle - half), max(value, middle + half))

    @property
    def chance(self) -> float:
        """The accuracy of whoever names the most frequent class of these images every time."""
        return float(np.bincount(self.labels).max() / len(self.labels))

    @property
    def near_chance(self) -> float | None:
        """The accuracy below which a model tells little, where the interval reaches down to it, else None: twice chance,
        or halfway from chance to 100 % where that is less (two or three classes).
        """
        bound = min(NEAR * self.chance, (1 + self.chance) / 2)
        return bound if self.accuracy.low <= bound else None


def ask(model: nn.Module, loader: Iterable) -> Answers:
    """A model's answers, by the evaluation of the study."""
    taken, labels = [], []

    def noting() -> Iterator[tuple[Tensor, Tensor]]:
        for images, truth in loader:
            labels.append(truth.cpu())
            yield images, truth

    hook = model.register_forward_hook(lambda module, inputs, logits: taken.append(logits.argmax(1).cpu()))
    try:
        found = training.evaluate(model, noting())
    finally:
        hook.remove()
    join = lambda parts: np.concatenate([part.numpy() for part in parts])
    return Answers(found.correct, found.loss, found.top, join(taken), join(labels))
