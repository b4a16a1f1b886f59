"""Batches of a split: normalized, shuffled and augmented repeatably from a seed.

Small sets live in memory as uint8; anything else is a torch dataset behind a DataLoader.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat

import numpy as np
import torch
import torch.nn.functional as F
from joblib import cpu_count
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

WORKERS = min(16, cpu_count())  # processes that open images of a split that is not in memory: cores that are allowed
EVAL_BATCH = 64  # images per forward pass of an evaluation: few enough for a small model to stay in a core's cache
OPENED = 64  # at most so many where each is opened: at 224 pixels 40 MB of shared memory, two batches for each worker


@dataclass
class InMemoryImages:
    """A split in memory: labels (n,) int64 of the images at `rows` (n,) of what is `stored`, (N, C, H, W) uint8, and the
    model's normalization. Splits of one set share what is stored, perhaps with other processes.
    """

    stored: Tensor
    labels: Tensor
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    rows: Tensor | None = None  # all, in their order

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "InMemoryImages":
        """A part of the split."""
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        return replace(self, labels=self.labels[index], rows=rows[index])

    def at(self, index: Tensor | slice) -> Tensor:
        """(b, C, H, W) uint8: the images at (b,) places of the split."""
        return self.stored[index if self.rows is None else self.rows[index]]

    def unaugmented(self) -> "InMemoryImages":
        """The same images as an evaluation would see them: these are augmented batch by batch only."""
        return self


class Batches:
    """Normalized float32 batches (images (b, C, H, W), labels (b,)) of an in-memory split.

    Args:
        split: the images.
        batch_size: the last batch may be smaller; with `seed` it is dropped, so that every step sees as many images.
        seed: None for the stored order; otherwise a fresh permutation at every iteration, repeatable from the seed.
        augment: any of "flip" (left-right) and "shift" (up to an eighth of the width, edges repeated).
    """

    def __init__(self, split: InMemoryImages, batch_size: int, seed: int | None = None, augment: tuple[str, ...] = ()):
        self.split, self.batch_size, self.seed, self.augment, self.epoch = split, batch_size, seed, augment, 0
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) * 255 for values in (split.mean, split.std))

    def __len__(self) -> int:
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (rest > 0) if self.seed is None else max(whole, 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order, g = torch.arange(len(self.split)), None
        if self.seed is not None:
            g = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            order, self.epoch = torch.randperm(len(order), generator=g), self.epoch + 1
        for index in islice(order.split(self.batch_size), len(self)):
            x = (self.split.at(index) - self.mean) / self.std  # (b, 1 or 3, H, W) -> (b, 3, H, W) float32
            yield self._augment(x, g), self.split.labels[index]

    def _augment(self, x: Tensor, g: torch.Generator | None) -> Tensor:
        if "flip" in self.augment:
            turned = torch.rand(len(x), generator=g) < 0.5
            x = torch.where(turned.view(-1, 1, 1, 1), x.flip(3), x)
        if "shift" in self.augment:
            b, _, height, width = x.shape
            p = max(1, width // 8)
            padded = F.pad(x, (p, p, p, p), mode="replicate")
            dy, dx = torch.randint(0, 2 * p + 1, (2, b, 1), generator=g)
            rows, columns = dy + torch.arange(height), dx + torch.arange(width)  # (b, H), (b, W)
            x = padded[torch.arange(b).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
        return x


class Loader(DataLoader):
    """Batches of a dataset whose images are opened one by one; `epoch` sets order and augmentation as in `Batches`."""

    def __init__(self, split: Dataset, batch_size: int, seed: int | None, workers: int):
        self.seed, self.epoch = seed, 0
        shuffle = seed is not None
        super().__init__(
            copy(split), batch_size, shuffle=shuffle, drop_last=shuffle and len(split) >= batch_size, num_workers=workers,
            generator=torch.Generator(), pin_memory=torch.cuda.is_available(),
        )  # fmt: skip

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.dataset.draw = (self.seed or 0) * 100_003 + self.epoch  # type: ignore[attr-defined]
        self.generator.manual_seed(self.dataset.draw)
        self.epoch += self.seed is not None
        return super().__iter__()


class Steps:
    """Exactly `steps` batches of a loader an epoch, going round it as often as needed; the next epoch begins where the
    loader begins anew, with another order.
    """

    def __init__(self, loader: Batches | Loader, steps: int):
        self.loader, self.steps, self.epoch = loader, steps, 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.loader.epoch = self.epoch * -(-self.steps // len(self.loader))  # so that an interruption changes nothing
        self.epoch += 1
        return islice(chain.from_iterable(repeat(self.loader)), self.steps)


def batches(
    split: InMemoryImages | Dataset,
    batch_size: int,
    seed: int | None = None,
    augment: tuple[str, ...] = (),
    workers: int | None = None,
) -> Batches | Loader:
    """An iterable of (images, labels) batches of any split; shuffled and repeatable if `seed` is given, whatever the
    number of `workers` (processes that open images; None for WORKERS).
    """
    workers = WORKERS if workers is None else workers
    if isinstance(split, InMemoryImages):
        return Batches(split, batch_size, seed, augment)
    return Loader(split, min(batch_size, OPENED) if seed is None else batch_size, seed, workers)
