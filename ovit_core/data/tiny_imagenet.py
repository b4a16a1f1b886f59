"""Tiny-ImageNet (Stanford's CS231n) as its archive unpacks: 200 of ImageNet's classes at 64 pixels, 500 images of each.

Its test images were never given labels; its validation images serve as test here, as everywhere in the field.
"""

from pathlib import Path

from torchvision.datasets.utils import download_and_extract_archive, extract_archive

from ovit_core.data.listing import Listing, files
from ovit_core.disk import shown

FOLDER = "tiny-imagenet-200"
ZIP, MD5 = f"{FOLDER}.zip", "90528d7ca1a48142e341f4ef8d21d0de"
SOURCE = f"http://cs231n.stanford.edu/{ZIP}"
ANNOTATIONS = f"{FOLDER}/val/val_annotations.txt"
TRAIN = 500  # images of each class


def listing(root: Path, download: bool) -> Listing:
    """Images of train/WNID/images, and of val/images with the classes that val_annotations.txt gives them. Classes are
    called by the first of their words in words.txt, and are in the order of their WNIDs.

    Args:
        root: the folder that holds tiny-imagenet-200, or its archive.
        download: unpack the archive, fetched first if it is not there.

    Raises:
        ValueError: a folder of train that is no class, a class of another size, or images of val that the list does not
            name; says which.  OSError: a file or folder is missing.
    """
    folder = root / FOLDER
    if download and not folder.exists():
        if (root / ZIP).is_file():
            extract_archive(str(root / ZIP), str(root))
        else:
            download_and_extract_archive(SOURCE, str(root), md5=MD5)
    wnids = sorted((folder / "wnids.txt").read_text().split())
    words = dict(line.split("\t", 1) for line in (folder / "words.txt").read_text().splitlines() if "\t" in line)
    if odd := {path.name for path in _listed(folder / "train")} ^ set(wnids):
        raise ValueError(f"{shown(folder / 'train')} and wnids.txt differ: {', '.join(map(shown, sorted(odd)[:5]))}")
    train = [(path, label) for label, wnid in enumerate(wnids) for path in _training(folder / "train" / wnid)]
    return Listing([words.get(wnid, wnid).split(",")[0] for wnid in wnids], files(train), files(_val(folder, wnids)))


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _training(folder: Path) -> list[Path]:
    """The images of a class."""
    if not (folder / "images").is_dir():
        raise ValueError(
            f"{shown(folder)} has no folder images; of a copy that was laid out anew, with train/CLASS and val/CLASS, "
            f"the name is folder:{FOLDER}"
        )
    found = _listed(folder / "images")
    if len(found) != TRAIN:
        raise ValueError(f"{shown(folder / 'images')} has {len(found)} images, officially it has {TRAIN}")
    return found


def _val(folder: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    """(path, label) of the images that the list of annotations names: file, WNID and the corners of a box."""
    if not (folder / "val" / "images").is_dir():
        raise ValueError(
            f"{shown(folder / 'val')} has no folder images; of a copy whose validation images were sorted into classes the "
            f"name is folder:{FOLDER}"
        )
    lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    named = dict(line.split("\t")[:2] for line in lines)
    there = {path.name for path in _listed(folder / "val" / "images")}
    if odd := there ^ named.keys():
        raise ValueError(
            f"{shown(folder / 'val' / 'images')} and val_annotations.txt differ: {', '.join(map(shown, sorted(odd)[:5]))}"
        )
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    if strange := sorted({*named.values()} - {*wnids}):
        raise ValueError(
            f"val_annotations.txt has classes that wnids.txt has not: {', '.join(map(shown, strange[:5]))}"
        )
    return [(folder / "val" / "images" / file, labels[wnid]) for file, wnid in sorted(named.items(), key=_number)]


def _number(item: tuple[str, str]) -> tuple[int, str]:
    """The order of val_0, val_1, ..., val_10."""
    digits = "".join(filter(str.isdigit, item[0]))
    return int(digits or 0), item[0]
