"""What a reader of a dataset returns, and how labelled images are split in two."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

Split = tuple[Sequence[Path] | Tensor, Sequence[int] | Tensor]  # paths or (n, C, H, W) uint8, and (n,) labels


class Listing(NamedTuple):
    """A dataset as it is stored: class names, and the sources and labels of train and of test."""

    classes: list[str]
    train: Split
    test: Split


def files(samples: Iterable[tuple[str | Path, int]]) -> Split:
    """A split of (path, label) pairs."""
    paths, labels = zip(*samples)
    return [Path(path) for path in paths], list(labels)


def split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the larger part and of a stratified `fraction` of each class, seeded: at least one image of it, but
    never its only one.
    """
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    held = np.sort(np.concatenate([m[: min(len(m) - 1, max(1, round(fraction * len(m))))] for m in members]))
    return np.setdiff1d(np.arange(len(labels)), held), held
