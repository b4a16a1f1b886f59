"""What a reader of a dataset returns, and how labelled images are split in two."""

from collections.abc import Sequence
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


def split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the larger part and of a stratified `fraction` of each class (at least one image), seeded."""
    rng = np.random.default_rng(seed)
    out = []
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        out.append(members[: max(1, round(fraction * len(members)))])
    held = np.sort(np.concatenate(out))
    return np.setdiff1d(np.arange(len(labels)), held), held
