"""A dataset by name, split into train, validation (carved from train, seeded) and test.

Small images for a small model live in memory as uint8 and are normalized batch by batch; all others are opened one
at a time and go through timm's own transforms.
"""

import hashlib
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from ovit_core.data import catalog, manifest
from ovit_core.data.batches import InMemoryImages
from ovit_core.data.decoded import decoded
from ovit_core.data.files import ImageFiles, are_small, examine
from ovit_core.data.listing import Split, split
from ovit_core.disk import shown


@dataclass
class Data:
    """A dataset ready for a model."""

    name: str
    classes: list[str]  # names in the order of labels
    train: InMemoryImages | ImageFiles
    val: InMemoryImages | ImageFiles
    test: InMemoryImages | ImageFiles
    fingerprint: str  # of the images' content, of files' names, and of the labels

    def labels(self, part: str) -> np.ndarray:
        """(n,) labels of `train`, `val` or `test`."""
        return np.asarray(getattr(self, part).labels)


def load(
    name: str,
    data_dir: str | Path = "data",
    input_config: dict | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    cache: Path | None = None,
) -> Data:
    """A dataset by name. Every image file was read to its end and found sound.

    Args:
        name: one of `catalog.DATASETS`, or `folder:NAME` for `data_dir/NAME/{train,test}/CLASS/*.png`.
        data_dir: where datasets lie or are downloaded to.
        input_config: timm's preprocessing (`models.input_config`); 32x32 with mean and std 0.5 if None.
        val_fraction: part of train set aside for validation, MOST_VALIDATION images at most.
        seed: of that split.
        cache: the folder of the `manifest` of files that were read before, and of `decoded` pictures; None reads all of
            them.

    Raises:
        ValueError: unknown name, or images that cannot be read: names the file.  FileNotFoundError: says what to put where.
    """
    catalog.check(name, data_dir)
    reader = import_module(f"ovit_core.data.{catalog.find(name).reader}")
    classes, train, test = reader.read(name, Path(data_dir))
    labels = np.asarray(train[1])
    both = np.concatenate([labels, np.asarray(test[1])])
    if both.min() < 0 or both.max() >= len(classes):
        raise ValueError(f"{name}: labels reach from {both.min()} to {both.max()}, but it names {len(classes)} classes")
    if not len(split(labels, 0.5, seed)[1]):
        raise ValueError(
            f"{shown(name)}: every class has a single training image: one of them needs a second, to validate on"
        )
    rest, held = split(labels, min(val_fraction, catalog.MOST_VALIDATION / len(labels)), seed)
    config = input_config or dict(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    channels, *size = config["input_size"]
    size, mode = tuple(size), "L" if channels == 1 else "RGB"
    listed = [path for sources, _ in (train, test) if not isinstance(sources, Tensor) for path in sources]
    digests = dict(zip(listed, manifest.digests(listed, examine, cache)))
    fingerprint = _fingerprint(train, test, Path(data_dir), digests)
    what = manifest.Record(fingerprint, len(labels), len(test[1]), len(classes))
    manifest.record(cache, name, Path(data_dir), what)
    fits = max(size) <= catalog.IN_MEMORY
    if fits and not isinstance(train[0], Tensor) and are_small(train[0]) and are_small(test[0]):
        train, test = (
            (decoded(tuple((p, digests[p]) for p in sources), size, mode, cache), y) for sources, y in (train, test)
        )
    if fits and isinstance(train[0], Tensor):
        scale = tuple(config["mean"]), tuple(config["std"])
        whole, unseen = (
            InMemoryImages(resize(x, size, channels), torch.as_tensor(y).long(), *scale) for x, y in (train, test)
        )
        val = whole.take(held)
    else:
        transform, augmenting = (create_transform(**config, is_training=training) for training in (False, True))
        whole = ImageFiles(train[0], labels, transform, augmenting, mode)
        unseen = ImageFiles(test[0], np.asarray(test[1]), transform, mode=mode)
        val = whole.take(held).unaugmented()
    return Data(name, classes, whole.take(rest), val, unseen, fingerprint)


def _fingerprint(train: Split, test: Split, data_dir: Path, digests: dict[Path, bytes]) -> str:
    """Of the bytes of images in memory, or of the digests of files and their names in `data_dir`; and of the labels."""
    content = hashlib.sha256()
    for sources, labels in (train, test):
        if isinstance(sources, Tensor):
            content.update(sources.contiguous().numpy().tobytes())
        else:
            for path in sources:
                content.update(
                    os.fsencode(os.path.relpath(path, data_dir)) + b"\0" + digests[path]
                )  # need not be UTF-8
        content.update(np.asarray(labels, dtype=np.int64).tobytes())
    return content.hexdigest()[:16]


def resize(images: Tensor, size: tuple[int, int], channels: int = 3) -> Tensor:
    """(n, C, H, W) uint8 to another height and width, antialiased; to gray where one channel is wanted."""
    if channels == 1 and images.shape[1] == 3:
        images = torch.cat([rgb_to_grayscale(part) for part in images.split(4096)])
    if images.shape[2:] == size:
        return images
    parts = [F.interpolate(p.float(), size, mode="bilinear", antialias=True).round().byte() for p in images.split(4096)]
    return torch.cat(parts)
