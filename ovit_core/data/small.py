"""Small real sets that live in memory: scikit-learn's handwritten digits, and Fashion-MNIST."""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import extract_archive

from ovit_core.data.listing import Listing, split

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # the package dataset-fashion-mnist


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
    for place in (data_dir, data_dir / "fashion-mnist", data_dir / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST):
        files = [next((f for f in (place / n, place / f"{n}.gz") if f.exists()), None) for n in names]
        if None in files:
            continue
        tensors = []
        for file, decode in zip(files, (read_image_file, read_label_file) * 2):
            try:
                with tempfile.TemporaryDirectory() as scratch:  # Debian ships them compressed
                    if file.suffix == ".gz":
                        extract_archive(str(file), scratch)
                    tensors.append(decode(str(Path(scratch) / file.stem if file.suffix == ".gz" else file)))
            except Exception as error:
                raise ValueError(f"cannot read {file} of fashion_mnist: {error}") from error
        images, labels, test_images, test_labels = tensors
        return Listing(
            list(FashionMNIST.classes), (images.unsqueeze(1), labels), (test_images.unsqueeze(1), test_labels)
        )
    try:
        train, test = (FashionMNIST(str(data_dir), train=part, download=True) for part in (True, False))
    except Exception as error:
        raise FileNotFoundError(
            f"fashion_mnist is not in {data_dir.resolve()} nor in {DEBIAN_FASHION_MNIST}, and its download failed "
            f"({type(error).__name__}). Install Debian's dataset-fashion-mnist, or put the four "
            f"*-ubyte.gz files of Fashion-MNIST into {data_dir / 'fashion-mnist'}."
        ) from error
    return Listing(list(train.classes), *((s.data.unsqueeze(1), s.targets) for s in (train, test)))
