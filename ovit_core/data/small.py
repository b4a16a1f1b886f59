"""Small real sets that live in memory: scikit-learn's handwritten digits, and Fashion-MNIST."""

import gzip
import struct
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.datasets import FashionMNIST

from ovit_core.data.catalog import DEBIAN_FASHION_MNIST, find
from ovit_core.data.listing import Listing, split


def read(name: str, data_dir: Path) -> Listing:
    """`digits` or `fashion_mnist`."""
    return _digits() if name == "digits" else _fashion_mnist(data_dir)


def _digits() -> Listing:
    """1797 images of 8 x 8 pixels, a fixed stratified 30 % of them the test split."""
    raw = load_digits()
    images = torch.from_numpy(raw.images * (255 / 16)).round().byte().unsqueeze(1)  # (1797, 1, 8, 8)
    labels = torch.from_numpy(raw.target)
    train, test = split(raw.target, 0.3, seed=0)
    return Listing([str(c) for c in raw.target_names], (images[train], labels[train]), (images[test], labels[test]))


def _fashion_mnist(data_dir: Path) -> Listing:
    """60,000 and 10,000 images from `data_dir` (either layout), Debian's package, or torchvision's download."""
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    for folder in (data_dir, data_dir / "fashion-mnist", data_dir / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST):
        files = {n: folder / file for n in names for file in (f"{n}.gz", n) if (folder / file).exists()}
        if len(files) == len(names):
            images, labels, unseen, its_labels = map(_idx, files.values())
            return Listing(list(FashionMNIST.classes), (images.unsqueeze(1), labels), (unseen.unsqueeze(1), its_labels))
    try:
        train, test = (FashionMNIST(str(data_dir), train=part, download=True) for part in (True, False))
    except Exception as error:
        raise FileNotFoundError(
            f"fashion_mnist is not in {data_dir.absolute()} nor in {DEBIAN_FASHION_MNIST}, and its download failed "
            f"({type(error).__name__}). Put there {find('fashion_mnist').place}."
        ) from error
    return Listing(list(train.classes), *((s.data.unsqueeze(1), s.targets) for s in (train, test)))


def _idx(file: Path) -> Tensor:
    """Bytes in MNIST's IDX format: 00 00 08 (uint8), the rank, each length in four bytes, the values."""
    try:
        content = bytearray(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())
        shape = struct.unpack_from(f">{content[3]}I", content, 4)
        return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * len(shape)).view(shape)
    except Exception as error:
        raise ValueError(f"cannot read {file} of fashion_mnist: {error}") from error
