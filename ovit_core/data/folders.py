"""Folders of images: `folder:NAME` and ImageNet, as torchvision's ImageFolder lists them."""

from pathlib import Path

from torchvision.datasets import ImageFolder

from ovit_core.data.catalog import folder_of
from ovit_core.data.listing import Listing, files


def read(name: str, data_dir: Path) -> Listing:
    """train/CLASS/* and test/CLASS/* (or val, also where test has no classes).

    Raises:
        ValueError: an empty class, or classes of train and test that differ; names them.
    """
    root = folder_of(name, data_dir)
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
    return Listing(train.classes, files(train.samples), files(test.samples))
