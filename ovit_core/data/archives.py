"""The study's real datasets: where each lies on disk as its archive unpacks, who reads it, and what to say without it.

torchvision's classes read and, where the source still serves it, download; CUB-200-2011 has none and is read here.
"""

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from ovit_core.data import tiny_imagenet
from ovit_core.data.catalog import find
from ovit_core.data.listing import Listing, files

CALTECH_SPLIT = Path(__file__).parent / "splits" / "caltech101.json"


class Archive(NamedTuple):
    """How a dataset is read from (data_dir, download)."""

    read: Callable[[Path, bool], Listing]
    files: dict[str, str | None]  # paths in data_dir -> md5 or None; those that are there are named if reading fails
    lists: tuple[str, str, str]  # paths in data_dir that say which classes, training and test images there are


class UntrustedError(ValueError):
    """An archive that would write outside the folder it is unpacked in."""


def read(name: str, data_dir: Path) -> Listing:
    """A dataset of ARCHIVES from `data_dir`, unpacked or downloaded there if need be.

    Raises:
        FileNotFoundError: it is not there and cannot be downloaded; says what to put where.
        ValueError: it is there but wrong or incomplete, or an archive would write elsewhere; names the file.
    """
    archive, dataset = ARCHIVES[name], find(name)
    remedy = f"put there {dataset.place}"
    errors, there = [], {}
    for download in (False,) if dataset.required else (False, True):  # torchvision unpacks when told to download
        try:
            with _kept_inside(name):
                found = archive.read(data_dir, download)
            break
        except UntrustedError:
            raise
        except Exception as error:
            errors.append(error)
            there = {data_dir / file: md5 for file, md5 in archive.files.items() if (data_dir / file).exists()}
            for file, md5 in there.items():
                if md5 and not check_integrity(str(file), md5):
                    raise ValueError(
                        f"{name}: {file} is truncated or another file (its MD5 is not {md5}); remove it, or {remedy}"
                    ) from error
    else:
        if there:
            why = "; unpacking or downloading: ".join(dict.fromkeys(map(str, errors)))
            raise ValueError(
                f"{name}: {', '.join(map(str, there))} is there, but the dataset is incomplete or cannot be read: {why}. "
                f"Remove what is half unpacked, and {remedy}"
            ) from errors[-1]
        raise FileNotFoundError(
            f"{name} is not in {data_dir.absolute()} and its download failed ({type(errors[-1]).__name__}). Put there "
            f"{dataset.place}."
        ) from errors[-1]
    counts = (len(found.classes), len(found.train[1]), len(found.test[1]))
    for what, count, official, file in zip(
        ("classes", "training images", "test images"), counts, COUNTS[name], archive.lists
    ):
        if count != official:
            raise ValueError(
                f"{name}: {data_dir / file} has {count:,} {what}, officially it has {official:,}; {remedy}"
            )
    return found


@contextmanager
def _kept_inside(name: str) -> Iterator[None]:
    """Lets `tarfile` unpack, until the end of the block, only archives all of whose members stay in their folder.

    torchvision calls `extractall` without a filter, which Python before 3.14 takes for leave to write anywhere. All
    members are looked at before the first is written; symbolic links are refused, as ways around the filter go by them.
    """
    extractall = tarfile.TarFile.extractall

    def careful(tar: tarfile.TarFile, path: str | Path = ".", members: Iterable | None = None, **options: Any) -> None:
        members = tar.getmembers() if members is None else list(members)
        for member in members:
            places = [member.name, member.linkname] if member.islnk() else [member.name]
            if any(place.startswith("/") or {"..", "\\"} & {*place, *place.split("/")} for place in places):
                wrong = f"would leave {path}"
            elif not (member.isreg() or member.isdir() or member.islnk()):
                wrong = "is a symbolic link or a device"
            else:
                continue
            raise UntrustedError(
                f"{name}: {tar.name} cannot be trusted, and nothing of it was unpacked: its member {member.name!r} {wrong}"
            )
        if hasattr(tarfile, "data_filter"):  # not in the first versions of 3.10 and 3.11
            options.setdefault("filter", "data")
        extractall(tar, path, members, **options)

    tarfile.TarFile.extractall = careful
    try:
        yield
    finally:
        tarfile.TarFile.extractall = extractall


def _cifar(kind) -> Archive:
    def listing(root: Path, download: bool) -> Listing:
        train, test = (kind(str(root), train=part, download=download) for part in (True, False))
        tensor = lambda d: torch.from_numpy(d.data).permute(0, 3, 1, 2)  # (n, 32, 32, 3) -> (n, 3, 32, 32)
        return Listing(list(train.classes), (tensor(train), train.targets), (tensor(test), test.targets))

    parts = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    files = {kind.filename: kind.tgz_md5} | {f"{kind.base_folder}/{file}": md5 for file, md5 in parts}
    return Archive(listing, files, (kind.base_folder,) * 3)


def _by_split(kind, train: tuple[str, ...], archives: dict[str, str | None], lists: tuple[str, str, str]) -> Archive:
    """A torchvision class with `split`; several of its splits may make up train."""

    def samples(part) -> list[tuple[str | Path, int]]:  # each class keeps them under a name of its own
        if hasattr(part, "_samples"):
            return part._samples
        return list(zip(part._images if hasattr(part, "_images") else part._image_files, part._labels))

    def listing(root: Path, download: bool) -> Listing:
        *parts, test = (kind(str(root), split=split, download=download) for split in (*train, "test"))
        return Listing(list(test.classes), files(sum(map(samples, parts), [])), files(samples(test)))

    return Archive(listing, archives, lists)


def _caltech101(root: Path, download: bool) -> Listing:
    """30 training images a class as committed in CALTECH_SPLIT, the rest test; no background class."""
    if download:
        datasets.Caltech101(str(root), download=True)
    images = root / "caltech101" / "101_ObjectCategories"
    split = json.loads(CALTECH_SPLIT.read_text())
    train, test = [], []
    for y, (category, part) in enumerate(split.items()):
        there = len(list((images / category).glob("image_*.jpg")))
        if there != part["images"]:
            raise ValueError(f"{images / category} has {there} images, not {part['images']}")
        for number in range(1, there + 1):
            samples = train if number in part["train"] else test
            samples.append((images / category / f"image_{number:04d}.jpg", y))
    return Listing(list(split), files(train), files(test))


def _cub200(root: Path, download: bool) -> Listing:
    """The official split, from the text files of CUB_200_2011."""
    folder = root / "CUB_200_2011"
    column = lambda name: pd.read_csv(folder / f"{name}.txt", sep=" ", header=None, index_col=0)[1]
    lists = pd.concat([column("images"), column("image_class_labels"), column("train_test_split")], axis=1)
    if lists.isna().any(axis=None):
        raise ValueError(f"images.txt, image_class_labels.txt and train_test_split.txt of {folder} list other images")
    samples = {0: [], 1: []}
    for path, label, is_train in lists.itertuples(index=False):
        samples[is_train].append((folder / "images" / path, label - 1))
    return Listing(list(column("classes")), files(samples[1]), files(samples[0]))


_CALTECH = {"caltech101/caltech-101.zip": "3138e1922a9193bfa496528edbbc45d0", "caltech101/101_ObjectCategories": None}
_PETS = {f"oxford-iiit-pet/{url.rpartition('/')[2]}": md5 for url, md5 in datasets.OxfordIIITPet._RESOURCES}
_FLOWERS = {f"flowers-102/{file}": md5 for file, md5 in datasets.Flowers102._file_dict.values()}
_AIRCRAFT = {"fgvc-aircraft-2013b.tar.gz": None, "fgvc-aircraft-2013b": None}
_FOOD = {datasets.Food101._URL.rpartition("/")[2]: datasets.Food101._MD5, "food-101": None}
_LISTS = {  # of classes, of training and of test images
    "caltech101": ("caltech101/101_ObjectCategories",) * 3,
    "oxford_pets": ("oxford-iiit-pet/annotations/trainval.txt",) * 2 + ("oxford-iiit-pet/annotations/test.txt",),
    "flowers102": ("flowers-102/imagelabels.mat", "flowers-102/setid.mat", "flowers-102/setid.mat"),
    "fgvc_aircraft": tuple(
        f"fgvc-aircraft-2013b/data/{file}.txt" for file in ("variants", "images_variant_trainval", "images_variant_test")
    ),
    "food101": ("food-101/meta/train.json", "food-101/meta/train.json", "food-101/meta/test.json"),
    "stanford_cars": (
        "stanford_cars/devkit/cars_meta.mat", "stanford_cars/devkit/cars_train_annos.mat",
        "stanford_cars/cars_test_annos_withlabels.mat",
    ),
    "cub200": ("CUB_200_2011/classes.txt", "CUB_200_2011/train_test_split.txt", "CUB_200_2011/train_test_split.txt"),
    "tiny_imagenet": (f"{tiny_imagenet.FOLDER}/wnids.txt", f"{tiny_imagenet.FOLDER}/train", tiny_imagenet.ANNOTATIONS),
}  # fmt: skip
ARCHIVES = {
    "cifar10": _cifar(datasets.CIFAR10),
    "cifar100": _cifar(datasets.CIFAR100),
    "caltech101": Archive(_caltech101, _CALTECH, _LISTS["caltech101"]),
    "oxford_pets": _by_split(
        datasets.OxfordIIITPet, ("trainval",), _PETS | {"oxford-iiit-pet/annotations": None}, _LISTS["oxford_pets"]
    ),
    "flowers102": _by_split(
        datasets.Flowers102, ("train", "val"), _FLOWERS | {"flowers-102/jpg": None}, _LISTS["flowers102"]
    ),
    "fgvc_aircraft": _by_split(datasets.FGVCAircraft, ("trainval",), _AIRCRAFT, _LISTS["fgvc_aircraft"]),
    "food101": _by_split(datasets.Food101, ("train",), _FOOD, _LISTS["food101"]),
    "stanford_cars": _by_split(datasets.StanfordCars, ("train",), {"stanford_cars": None}, _LISTS["stanford_cars"]),
    "cub200": Archive(_cub200, {"CUB_200_2011": None}, _LISTS["cub200"]),
    "tiny_imagenet": Archive(
        tiny_imagenet.listing,
        {tiny_imagenet.ZIP: tiny_imagenet.MD5, tiny_imagenet.FOLDER: None},
        _LISTS["tiny_imagenet"],
    ),
}
# The official numbers of classes, training and test images: a list that was cut off would pass for a smaller set.
COUNTS = {
    "cifar10": (10, 50_000, 10_000),
    "cifar100": (100, 50_000, 10_000),
    "caltech101": (101, 3_030, 5_647),  # by our split
    "oxford_pets": (37, 3_680, 3_669),
    "flowers102": (102, 2_040, 6_149),
    "fgvc_aircraft": (100, 6_667, 3_333),
    "food101": (101, 75_750, 25_250),
    "stanford_cars": (196, 8_144, 8_041),
    "cub200": (200, 5_994, 5_794),
    "tiny_imagenet": (200, 100_000, 10_000),
}
