"""The datasets there are, by name: a record each with its metric, who reads it, and what must be on disk beforehand.

Plain values: a misspelt name, or images that are neither here nor to be had, are refused before anything heavy is
imported.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ovit_core.disk import meant, shown

IN_MEMORY = 64  # pixels: a model that wants more gets images one by one, or a set would fill the memory
MOST_VALIDATION = 10_000  # images: enough to choose a setting by, where a tenth of the training images would be more


@dataclass(frozen=True)
class Dataset:
    """A dataset's record."""

    name: str  # as in `upstream` and `datasets`
    reader: str  # the module of `ovit_core.data` whose `read(name, data_dir)` lists it
    metric: str = "top1"  # the one the field reports; mean_per_class where classes are unequal or few images each
    place: str = ""  # what to put into data_dir, in words; "" where nothing has to be there
    required: str = ""  # a path in data_dir that must exist, of what nobody serves for download any more


_RECORDS = (
    Dataset("glyph_letters", "glyphs"),
    Dataset("digits", "small"),
    Dataset("glyph_symbols", "glyphs", "mean_per_class"),
    Dataset("glyph_typefaces", "glyphs", "mean_per_class"),
    Dataset("fashion_mnist", "small", "top1", "the four *-ubyte.gz files of Fashion-MNIST in the folder fashion-mnist, or "
            "install Debian's package dataset-fashion-mnist"),
    Dataset("imagenet", "folders"),
    Dataset("tiny_imagenet", "archives", "top1", "the folder tiny-imagenet-200 with train/WNID/images/*.JPEG, "
            "val/images/*.JPEG, val/val_annotations.txt, wnids.txt and words.txt (or tiny-imagenet-200.zip)"),
    Dataset("cifar10", "archives", "top1", "cifar-10-python.tar.gz, or the folder cifar-10-batches-py it unpacks to"),
    Dataset("cifar100", "archives", "top1", "cifar-100-python.tar.gz, or the folder cifar-100-python it unpacks to"),
    Dataset("caltech101", "archives", "mean_per_class", "the folder caltech101/101_ObjectCategories with "
            "CATEGORY/image_0001.jpg and so on (or caltech101/caltech-101.zip)"),
    Dataset("oxford_pets", "archives", "mean_per_class", "the folder oxford-iiit-pet with images/*.jpg and "
            "annotations/trainval.txt and test.txt"),
    Dataset("flowers102", "archives", "mean_per_class", "the folder flowers-102 with jpg/image_*.jpg, imagelabels.mat "
            "and setid.mat"),
    Dataset("fgvc_aircraft", "archives", "mean_per_class", "the folder fgvc-aircraft-2013b with data/images/*.jpg and "
            "data/images_variant_*.txt"),
    Dataset("food101", "archives", "top1", "the folder food-101 with images/CLASS/*.jpg and meta/*.json"),
    Dataset("stanford_cars", "archives", "top1", "the folder stanford_cars with cars_train/*.jpg, cars_test/*.jpg, "
            "devkit/cars_train_annos.mat, devkit/cars_meta.mat and cars_test_annos_withlabels.mat", "stanford_cars"),
    Dataset("cub200", "archives", "top1", "the folder CUB_200_2011 with images/CLASS/*.jpg, images.txt, "
            "image_class_labels.txt, train_test_split.txt and classes.txt", "CUB_200_2011"),
)  # fmt: skip
DATASETS = {dataset.name: dataset for dataset in _RECORDS}
LONGEST = 200  # bytes of the name in folder:NAME: names of files are made of it, and may have 255
TIMEOUT = 3.0  # seconds that a source has to answer in
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # the package dataset-fashion-mnist
# What is downloaded: from where, and the paths in data_dir one of which says that it is there.
DOWNLOADED = {
    "fashion_mnist": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                      ("fashion-mnist", "FashionMNIST/raw", "train-images-idx3-ubyte.gz", "train-images-idx3-ubyte",
                       str(DEBIAN_FASHION_MNIST))),
    "tiny_imagenet": ("http://cs231n.stanford.edu", ("tiny-imagenet-200.zip", "tiny-imagenet-200")),
    "cifar10": ("https://www.cs.toronto.edu", ("cifar-10-python.tar.gz", "cifar-10-batches-py")),
    "cifar100": ("https://www.cs.toronto.edu", ("cifar-100-python.tar.gz", "cifar-100-python")),
    "caltech101": ("https://data.caltech.edu", ("caltech101",)),
    "oxford_pets": ("https://www.robots.ox.ac.uk", ("oxford-iiit-pet",)),
    "flowers102": ("https://www.robots.ox.ac.uk", ("flowers-102",)),
    "fgvc_aircraft": ("https://www.robots.ox.ac.uk", ("fgvc-aircraft-2013b.tar.gz", "fgvc-aircraft-2013b")),
    "food101": ("http://data.vision.ee.ethz.ch", ("food-101.tar.gz", "food-101")),
}  # fmt: skip


def find(name: str) -> Dataset:
    """The record of a dataset; `folder:NAME` is one of your own.

    Raises:
        ValueError: no such dataset (the nearest name and all there are), or what is no name of a folder in data_dir.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith("folder:"):
        if wrong := _no_name(name.removeprefix("folder:")):
            raise ValueError(f"{name[:LONGEST]!r}: folder:NAME takes the name of a folder in data_dir, {wrong}")
        return Dataset(name, "folders")
    nearest = meant(name, DATASETS) or "."
    raise ValueError(
        f"unknown dataset {name[:LONGEST]!r}{nearest} There are {', '.join(DATASETS)}, and folder:NAME for your own images."
    )


def _no_name(name: str) -> str:
    """What is wrong with the name of a folder; "" if nothing is."""
    if not name or {"/", "\\", "\0"} & set(name):
        return "not a path"
    if name.startswith("."):
        return "which begins with no dot"
    try:
        name.encode()  # rows carry it
        return f"of at most {LONGEST} bytes" if len(os.fsencode(name)) > LONGEST else ""
    except UnicodeEncodeError:
        return "which can be written in UTF-8"


def folder_of(name: str, data_dir: Path) -> Path | None:
    """The root of a dataset that is folders of images; None for others."""
    return data_dir / name.removeprefix("folder:") if find(name).reader == "folders" else None


def check(name: str, data_dir: str | Path) -> None:
    """Raises what is known at once to be wrong: an unknown name (ValueError), or images that are not in `data_dir` and
    cannot be downloaded (FileNotFoundError; says what to put where).
    """
    dataset, data_dir = find(name), Path(data_dir)
    name, missing = shown(name), f"{shown(name)} is not in {shown(data_dir.absolute())}"
    if root := folder_of(dataset.name, data_dir):
        at = shown(root)
        if root.is_symlink() and not root.exists():
            raise FileNotFoundError(f"{name}: {at} is a link that leads nowhere")
        if not ((root / "train").is_dir() and ((root / "test").is_dir() or (root / "val").is_dir())):
            raise FileNotFoundError(
                f"{name} needs the folders {at}/train and {at}/test, with one sub-folder of images per class: "
                f"{at}/train/CLASS/*.jpg and {at}/test/CLASS/*.jpg (val serves as test)"
            )
    elif dataset.required and not (data_dir / dataset.required).exists():
        raise FileNotFoundError(f"{missing} and cannot be downloaded. Put there {dataset.place}.")
    elif name in DOWNLOADED:
        source, paths = DOWNLOADED[name]
        if not any(map(_holds_something, (data_dir / path for path in paths))) and (why := unreachable(source)):
            raise FileNotFoundError(f"{missing} and cannot be downloaded: {why}. Put there {dataset.place}.")


def _holds_something(path: Path) -> bool:
    """Whether it is a file, or a folder that is not empty, as a download that failed leaves it."""
    return any(path.iterdir()) if path.is_dir() else path.is_file()


def unreachable(source: str) -> str:
    """Why nobody answers at a URL, or at the proxy that leads to it; "" if somebody does, within TIMEOUT seconds."""
    url = urlsplit(source)
    proxy = getproxies().get(url.scheme)
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = url.port or {"https": 443}.get(url.scheme, 80)
    answer = [f"{url.hostname} does not answer within {TIMEOUT:g} seconds"]

    def connect() -> None:
        try:
            socket.create_connection((url.hostname, port), timeout=TIMEOUT).close()
            answer.append("")
        except OSError as error:
            answer.append(f"{url.hostname} does not answer ({error})")

    asking = Thread(target=connect, daemon=True)  # a thread, as looking up a name has no time limit of its own
    asking.start()
    asking.join(TIMEOUT + 0.5)
    return answer[-1]
