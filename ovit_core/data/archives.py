"""The study's real datasets: where each lies on disk as its archive unpacks, who reads it, and what to say without it.

torchvision's classes read and, where the source still serves it, download; CUB-200-2011 has none and is read here.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from ovit_core.data.catalog import find
from ovit_core.data.listing import Listing

CALTECH_SPLIT = Path(__file__).parent / "splits" / "caltech101.json"


class Archive(NamedTuple):
    """How a dataset is read.

    Attributes:
        read: (data_dir, download) -> Listing.
        files: paths in data_dir -> md5 or None, the archives and what they unpack to: those that are there are named
            if reading fails.
        downloads: whether torchvision can still fetch it.
    """

    read: Callable[[Path, bool], Listing]
    files: dict[str, str | None]
    downloads: bool = True

    def there(self, data_dir: Path) -> list[str]:
        """Which of its files or folders are in `data_dir`."""
        return [name for name in self.files if (data_dir / name).exists()]


def read(name: str, data_dir: Path) -> Listing:
    """A dataset of ARCHIVES from `data_dir`, unpacked or downloaded there if need be.

    Raises:
        FileNotFoundError: it is not there and cannot be downloaded; says what to put where.
        ValueError: it is there but wrong or incomplete; names the file.
    """
    archive, place = ARCHIVES[name], find(name).place
    errors: list[Exception] = []
    there: list[str] = []
    for download in (False, True)[: 1 + archive.downloads]:  # torchvision unpacks an archive when told to download
        try:
            return archive.read(data_dir, download)
        except Exception as error:
            errors.append(error)
            there = archive.there(data_dir)
            for file in there:
                md5 = archive.files[file]
                if md5 and not check_integrity(str(data_dir / file), md5):
                    raise ValueError(
                        f"{name}: {data_dir / file} is truncated or another file (its MD5 is not {md5}); remove it, or "
                        f"put there {place}"
                    ) from error
    first, last = errors[0], errors[-1]
    if there:
        names = ", ".join(str(data_dir / file) for file in there)
        why = f"{first}" if str(last) == str(first) else f"{first}; unpacking or downloading: {last}"
        raise ValueError(
            f"{name}: {names} is there, but the dataset is incomplete or cannot be read: {why}. Remove what is half unpacked, "
            f"and put there {place}"
        ) from last
    raise FileNotFoundError(
        f"{name} is not in {data_dir.resolve()} and its download failed ({type(last).__name__}). Put there {place}."
    ) from last


def _cifar(kind) -> Archive:
    def listing(root: Path, download: bool) -> Listing:
        train, test = (kind(str(root), train=part, download=download) for part in (True, False))
        tensor = lambda d: torch.from_numpy(d.data).permute(0, 3, 1, 2)  # (n, 32, 32, 3) -> (n, 3, 32, 32)
        return Listing(list(train.classes), (tensor(train), train.targets), (tensor(test), test.targets))

    parts = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    files = {kind.filename: kind.tgz_md5} | {f"{kind.base_folder}/{file}": md5 for file, md5 in parts}
    return Archive(listing, files)


def _split_files(kind, train: tuple[str, ...], folder: str, archives=None, downloads=True) -> Archive:
    """A torchvision class with `split`; several of its splits may make up train."""

    def listing(root: Path, download: bool) -> Listing:
        options = dict(download=True) if download else {}
        parts = [kind(str(root), split=split, **options) for split in (*train, "test")]
        files = [_files(part) for part in parts]
        paths, labels = (sum((list(f[i]) for f in files[:-1]), []) for i in (0, 1))
        return Listing(list(parts[0].classes), (paths, labels), files[-1])

    return Archive(listing, (archives or {}) | {folder: None}, downloads)


def _files(dataset) -> tuple[list[Path], list[int]]:
    """Paths and labels that a torchvision class has listed."""
    if hasattr(dataset, "_samples"):  # StanfordCars
        paths, labels = zip(*dataset._samples)
        return [Path(p) for p in paths], list(labels)
    paths = dataset._images if hasattr(dataset, "_images") else dataset._image_files
    return [Path(p) for p in paths], list(dataset._labels)


def _caltech101(root: Path, download: bool) -> Listing:
    """30 training images a class as committed in CALTECH_SPLIT, the rest test; no background class."""
    if download:
        datasets.Caltech101(str(root), download=True)
    images = root / "caltech101" / "101_ObjectCategories"
    split = json.loads(CALTECH_SPLIT.read_text())
    train, test = ([], []), ([], [])
    for y, (category, part) in enumerate(split.items()):
        there = len(list((images / category).glob("image_*.jpg")))
        if there != part["images"]:
            raise ValueError(f"{images / category} has {there} images, not {part['images']}")
        for number in range(1, there + 1):
            paths, labels = train if number in part["train"] else test
            paths.append(images / category / f"image_{number:04d}.jpg")
            labels.append(y)
    return Listing(list(split), train, test)


def _cub200(root: Path, download: bool) -> Listing:
    """The official split, from the text files of CUB_200_2011."""
    folder = root / "CUB_200_2011"

    def column(file: str) -> dict[str, str]:
        lines = (folder / file).read_text().splitlines()
        return dict(line.split(maxsplit=1) for line in lines if line.strip())

    paths, labels = column("images.txt"), column("image_class_labels.txt")
    is_train, classes = column("train_test_split.txt"), column("classes.txt")
    if not paths.keys() == labels.keys() == is_train.keys():
        raise ValueError(f"images.txt, image_class_labels.txt and train_test_split.txt of {folder} list other images")
    parts = {"1": ([], []), "0": ([], [])}
    for key, path in paths.items():
        files, numbers = parts[is_train[key]]
        files.append(folder / "images" / path)
        numbers.append(int(labels[key]) - 1)
    return Listing(list(classes.values()), parts["1"], parts["0"])


_PETS = {f"oxford-iiit-pet/{url.rpartition('/')[2]}": md5 for url, md5 in datasets.OxfordIIITPet._RESOURCES}
_FLOWERS = {f"flowers-102/{file}": md5 for file, md5 in datasets.Flowers102._file_dict.values()}
ARCHIVES = {
    "cifar10": _cifar(datasets.CIFAR10),
    "cifar100": _cifar(datasets.CIFAR100),
    "caltech101": Archive(
        _caltech101,
        {"caltech101/caltech-101.zip": "3138e1922a9193bfa496528edbbc45d0", "caltech101/101_ObjectCategories": None},
    ),
    "oxford_pets": _split_files(datasets.OxfordIIITPet, ("trainval",), "oxford-iiit-pet/annotations", _PETS),
    "flowers102": _split_files(datasets.Flowers102, ("train", "val"), "flowers-102/jpg", _FLOWERS),
    "fgvc_aircraft": _split_files(
        datasets.FGVCAircraft, ("trainval",), "fgvc-aircraft-2013b", {"fgvc-aircraft-2013b.tar.gz": None}
    ),
    "food101": _split_files(
        datasets.Food101, ("train",), "food-101", {datasets.Food101._URL.rpartition("/")[2]: datasets.Food101._MD5}
    ),
    "stanford_cars": _split_files(datasets.StanfordCars, ("train",), "stanford_cars", downloads=False),
    "cub200": Archive(_cub200, {"CUB_200_2011": None}, downloads=False),
}
