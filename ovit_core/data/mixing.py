"""Mixup, CutMix and label smoothing over the batches of any loader, for training a dense model from scratch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from timm.data import Mixup
from torch import Tensor


class Mixed:
    """Batches (images (b, C, H, W), soft labels (b, classes) float32) of a loader of (images, labels (b,)), mixed by timm's
    `Mixup` and repeatable from the loader's `seed` and `epoch`.

    Args:
        loader: sized, seeded; its batches have an even number of images.
        classes: how many there are.
        mixup, cutmix: the parameters alpha of their Beta distributions (arXiv 1710.09412, 1905.04899); 0 leaves one out.
        prob: share of batches that are mixed; with both, each of these has one of the two by an even chance.
        smoothing: of labels (arXiv 1512.00567), mixed or not.
    """

    def __init__(self, loader: Any, classes: int, mixup: float, cutmix: float, prob: float, smoothing: float):
        prob *= mixup > 0 or cutmix > 0
        self.loader = loader
        self.mix = Mixup(mixup, cutmix, prob=prob, label_smoothing=smoothing, num_classes=classes)

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def epoch(self) -> int:
        """The epoch that comes next."""
        return self.loader.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.loader.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        drawn = np.random.RandomState([self.loader.seed, self.epoch])  # timm draws from numpy's global numbers
        for images, labels in self.loader:
            before = np.random.get_state()
            np.random.set_state(drawn.get_state())
            try:
                mixed = self.mix(images, labels)
                drawn.set_state(np.random.get_state())
            finally:
                np.random.set_state(before)
            yield mixed
