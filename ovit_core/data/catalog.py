"""The datasets there are, by name: a record each with its metric, who reads it, and what must be on disk beforehand.

Plain values: a misspelt name is refused before anything heavy is imported.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path


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
    Dataset("fashion_mnist", "small"),
    Dataset("imagenet", "folders"),
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


def find(name: str) -> Dataset:
    """The record of a dataset; `folder:NAME` is one of your own.

    Raises:
        ValueError: no such dataset (the nearest name and all there are), or a path instead of a folder's name.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith("folder:"):
        if "/" in name or name == "folder:":
            raise ValueError(f"{name!r}: folder:NAME takes the name of a folder in data_dir, not a path")
        return Dataset(name, "folders")
    near = get_close_matches(name, DATASETS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(
        f"unknown dataset {name!r}{hint} There are {', '.join(DATASETS)}, and folder:NAME for your own images."
    )


def folder_of(name: str, data_dir: Path) -> Path | None:
    """The root of a dataset that is folders of images; None for others."""
    return data_dir / name.removeprefix("folder:") if find(name).reader == "folders" else None


def check(name: str, data_dir: str | Path) -> None:
    """Raises what is known at once to be wrong: an unknown name (ValueError), or images that are not in `data_dir` and
    cannot be downloaded (FileNotFoundError; says what to put where).
    """
    dataset, data_dir = find(name), Path(data_dir)
    if root := folder_of(name, data_dir):
        if not ((root / "train").is_dir() and ((root / "test").is_dir() or (root / "val").is_dir())):
            raise FileNotFoundError(
                f"{name} needs the folders {root}/train and {root}/test, with one sub-folder of images per class: "
                f"{root}/train/CLASS/*.jpg and {root}/test/CLASS/*.jpg (val serves as test)"
            )
    elif dataset.required and not (data_dir / dataset.required).exists():
        raise FileNotFoundError(
            f"{name} is not in {data_dir.resolve()} and cannot be downloaded. Put there {dataset.place}."
        )
