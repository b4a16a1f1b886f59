"""Datasets by name, split into train, validation (carved from train, seeded) and test.

Small images for a small model live in memory as uint8 and are normalized batch by batch; all others are opened one
at a time and go through timm's own transforms.
"""

import difflib
import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovit_core import archives, glyphs
from ovit_core.archives import ARCHIVES, Listing
from ovit_core.batches import Images
from ovit_core.pictures import Pictures

EMBEDDED = ("glyph_letters", "digits", "glyph_symbols", "glyph_typefaces")
NAMES = (*EMBEDDED, "fashion_mnist", "imagenet", *ARCHIVES)
IN_MEMORY = 64  # pixels: a model that wants more gets images one by one, or a set would fill the memory
MOST_VALIDATION = 10_000  # images: enough to choose a setting by, where a tenth of the training images would be more
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # the package dataset-fashion-mnist


@dataclass
class Data:
    """A dataset ready for a model."""

    name: str
    classes: list[str]
    train: Images | Pictures
    val: Images | Pictures
    test: Images | Pictures
    fingerprint: str = field(default="")  # of the bytes in memory, or of the file list

    def labels(self, split: str) -> np.ndarray:
        return np.asarray(getattr(self, split).labels)


def check_name(name: str) -> str:
    """Raises ValueError, with the names there are, unless `name` is a dataset's."""
    if name in NAMES or name.startswith("folder:"):
        if "/" in name or name == "folder:":
            raise ValueError(f"{name!r}: folder:NAME takes the name of a folder in data_dir, not a path")
        return name
    near = difflib.get_close_matches(name, NAMES, n=1)
    raise ValueError(
        f"unknown dataset {name!r}"
        + (f"; did you mean {near[0]!r}?" if near else "")
        + f" There are {', '.join(NAMES)}, and folder:NAME for your own images."
    )


def check(name: str, data_dir: str | Path) -> None:
    """Raises what is known at once to be wrong: an unknown name (ValueError), or images that are not in `data_dir` and
    cannot be downloaded (FileNotFoundError; says what to put where).
    """
    check_name(name)
    if root := _folder_of(name, data_dir):
        if not ((root / "train").is_dir() and ((root / "test").is_dir() or (root / "val").is_dir())):
            raise FileNotFoundError(
                f"{name} needs the folders {root}/train and {root}/test, with one sub-folder of images per class: "
                f"{root}/train/CLASS/*.jpg and {root}/test/CLASS/*.jpg (val serves as test)"
            )
    elif name in ARCHIVES:
        archives.check(name, Path(data_dir))


def _folder_of(name: str, data_dir: str | Path) -> Path | None:
    """The root of a dataset that is folders of images; None for others."""
    if name == "imagenet" or name.startswith("folder:"):
        return Path(data_dir) / name.removeprefix("folder:")
    return None


def load(
    name: str, data_dir: str | Path = "data", input_config: dict | None = None, val_fraction: float = 0.1, seed: int = 0
) -> Data:
    """A dataset by name.

    Args:
        name: one of NAMES, or `folder:NAME` for `data_dir/NAME/{train,test}/CLASS/*.png` (`val` serves as `test`).
        data_dir: where datasets lie or are downloaded to.
        input_config: timm's preprocessing (`models.input_config`); 32x32 with mean and std 0.5 if None.
        val_fraction: part of train set aside for validation (MOST_VALIDATION images at most), the same images for the
            same seed.
        seed: of that split.

    Raises:
        ValueError: unknown name, or images that cannot be read.  FileNotFoundError: says what to put where.
    """
    check(name, data_dir)
    config = input_config or dict(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    if root := _folder_of(name, data_dir):
        classes, train, test = _folder(name, root)
    elif name in ARCHIVES:
        classes, train, test = archives.read(name, Path(data_dir))
    elif name == "fashion_mnist":
        classes, train, test = _fashion_mnist(Path(data_dir))
    elif name == "digits":
        classes, train, test = _digits()
    else:
        classes, train, test = glyphs.load(name)
    labels = np.asarray(train[1])
    both = np.concatenate([labels, np.asarray(test[1])])
    if both.min() < 0 or both.max() >= len(classes):
        raise ValueError(f"{name}: labels reach from {both.min()} to {both.max()}, but it names {len(classes)} classes")
    rest, val = split(labels, min(val_fraction, MOST_VALIDATION / len(labels)), seed)
    fingerprint = _fingerprint(train, test, Path(data_dir))
    size = tuple(config["input_size"][1:])
    if isinstance(train[0], Tensor) and max(size) <= IN_MEMORY:
        make = lambda part: Images(
            resize(part[0], size), torch.as_tensor(part[1]).long(), tuple(config["mean"]), tuple(config["std"])
        )
        whole = make(train)
        return Data(name, classes, whole.take(rest), whole.take(val), make(test), fingerprint)
    from timm.data import create_transform

    still, moving = (create_transform(**config, is_training=training) for training in (False, True))
    whole = Pictures(*train, still, moving)
    return Data(name, classes, whole.take(rest), whole.take(val).unaugmented(), Pictures(*test, still), fingerprint)


def _fingerprint(train: tuple, test: tuple, data_dir: Path) -> str:
    """Of the bytes of images in memory, or of the names and sizes of files; and of the labels."""
    found = hashlib.sha256()
    for sources, labels in (train, test):
        if isinstance(sources, Tensor):
            found.update(sources.contiguous().numpy().tobytes())
        else:
            sizes = (f"{os.path.relpath(p, data_dir)} {p.stat().st_size if p.exists() else 0}" for p in sources)
            found.update("\n".join(sizes).encode())
        found.update(np.asarray(labels, dtype=np.int64).tobytes())
    return found.hexdigest()[:16]


def split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the larger part and of a stratified `fraction` of each class (at least one image), seeded."""
    rng = np.random.default_rng(seed)
    out = []
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        out.append(members[: max(1, round(fraction * len(members)))])
    held = np.sort(np.concatenate(out))
    return np.setdiff1d(np.arange(len(labels)), held), held


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, C, H, W) uint8 to another height and width, antialiased."""
    if images.shape[2:] == size:
        return images
    parts = [F.interpolate(p.float(), size, mode="bilinear", antialias=True).round().byte() for p in images.split(4096)]
    return torch.cat(parts)


def _digits() -> tuple[list[str], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """scikit-learn's handwritten digits: 1797 of 8x8, a fixed stratified 30 % of them the test split."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images * (255 / 16)).round().byte().unsqueeze(1)
    labels = torch.from_numpy(raw.target)
    train, test = split(raw.target, 0.3, seed=0)
    return [str(c) for c in raw.target_names], (images[train], labels[train]), (images[test], labels[test])


def _fashion_mnist(data_dir: Path) -> tuple[list[str], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """60,000 and 10,000 images from `data_dir` (either layout), Debian's package, or torchvision's download."""
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.mnist import read_image_file, read_label_file
    from torchvision.datasets.utils import extract_archive

    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    for place in (data_dir, data_dir / "fashion-mnist", data_dir / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST):
        files = [next((f for f in (place / n, place / f"{n}.gz") if f.exists()), None) for n in names]
        if None in files:
            continue
        found = []
        for file, read in zip(files, (read_image_file, read_label_file) * 2):
            try:
                with tempfile.TemporaryDirectory() as scratch:  # Debian ships them compressed
                    if file.suffix == ".gz":
                        extract_archive(str(file), scratch)
                    found.append(read(str(Path(scratch) / file.stem if file.suffix == ".gz" else file)))
            except Exception as error:
                raise ValueError(f"cannot read {file} of fashion_mnist: {error}") from error
        return list(FashionMNIST.classes), (found[0].unsqueeze(1), found[1]), (found[2].unsqueeze(1), found[3])
    try:
        sets = [FashionMNIST(str(data_dir), train=train, download=True) for train in (True, False)]
    except Exception as error:
        raise FileNotFoundError(
            f"fashion_mnist is not in {data_dir.resolve()} nor in {DEBIAN_FASHION_MNIST}, and its download failed "
            f"({type(error).__name__}). Install Debian's dataset-fashion-mnist, or put the four "
            f"*-ubyte.gz files of Fashion-MNIST into {data_dir / 'fashion-mnist'}."
        ) from error
    return list(FashionMNIST.classes), *((s.data.unsqueeze(1), s.targets) for s in sets)


def _folder(name: str, root: Path) -> Listing:
    """train/CLASS/* and test/CLASS/* (or val, also where test has no classes), as torchvision's ImageFolder lists them."""
    from torchvision.datasets import ImageFolder

    labelled = any(path.is_dir() for path in (root / "test").glob("*"))  # ImageNet's own test images have no labels
    test_name = "test" if labelled or not (root / "val").is_dir() else "val"
    parts = []
    for part in ("train", test_name):
        try:
            parts.append(ImageFolder(str(root / part)))
        except FileNotFoundError as error:  # torchvision's own words name the empty class
            raise ValueError(f"{name}: {root / part}: {error}") from error
    train, test = parts
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"{name}: classes of train and {test_name} differ: {', '.join(odd[:5])}")
    parts = [([Path(path) for path, _ in part.samples], part.targets) for part in (train, test)]
    return train.classes, *parts
