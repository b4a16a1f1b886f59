"""Each real dataset read from a small folder laid out exactly as its archive unpacks; and what is said when it is not."""

import json
import os
import pickle
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from ovit_core.data import archives, loading
from ovit_core.data.batches import batches


def jpg(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def cifar(root, patch, kind, label, names):
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file, n in (("one", 20), ("two", 10), ("test", 10)):
        batch = {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), label: [i % 2 for i in range(n)]}
        (folder / file).write_bytes(pickle.dumps(batch))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))
    patch.setattr(kind, "train_list", [["one", None], ["two", None]])
    patch.setattr(kind, "test_list", [["test", None]])
    patch.setattr(kind, "meta", kind.meta | {"md5": None})


def cifar10(root, patch):
    cifar(root, patch, datasets.CIFAR10, "labels", ["airplane", "automobile"])
    return 2, 30, 10


def cifar100(root, patch):
    cifar(root, patch, datasets.CIFAR100, "fine_labels", ["apple", "aquarium_fish"])
    return 2, 30, 10


def caltech101(root, patch):
    folder = root / "caltech101" / "101_ObjectCategories"
    jpg(folder / "BACKGROUND_Google" / "image_0001.jpg")
    for category, part in json.loads(archives.CALTECH_SPLIT.read_text()).items():
        (folder / category).mkdir()
        for i in range(1, part["images"] + 1):
            os.link(folder / "BACKGROUND_Google" / "image_0001.jpg", folder / category / f"image_{i:04d}.jpg")
    return 101, 3030, 8677 - 3030


def oxford_pets(root, patch):
    folder = root / "oxford-iiit-pet"
    for split, numbers in (("trainval", range(1, 7)), ("test", range(7, 10))):
        names = [(f"{breed}_{i}", y) for i in numbers for y, breed in ((1, "Abyssinian"), (2, "great_pyrenees"))]
        text(folder / "annotations" / f"{split}.txt", *(f"{name} {y} {y} 1" for name, y in names))
        for name, _ in names:
            jpg(folder / "images" / f"{name}.jpg")
    return 2, 12, 6


def flowers102(root, patch):
    folder = root / "flowers-102"
    for i in range(1, 25):
        jpg(folder / "jpg" / f"image_{i:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.arange(24) % 6 + 1})
    savemat(folder / "setid.mat", {"trnid": np.arange(1, 11), "valid": np.arange(11, 19), "tstid": np.arange(19, 25)})
    patch.setattr(
        datasets.Flowers102, "_file_dict", {k: (f, None) for k, (f, _) in datasets.Flowers102._file_dict.items()}
    )
    return 102, 18, 6


def fgvc_aircraft(root, patch):
    folder = root / "fgvc-aircraft-2013b" / "data"
    text(folder / "variants.txt", "707-320", "A330 200")
    for split, numbers in (("trainval", range(8)), ("test", range(8, 12))):
        text(folder / f"images_variant_{split}.txt", *(f"{i:07d} {('707-320', 'A330 200')[i % 2]}" for i in numbers))
        for i in numbers:
            jpg(folder / "images" / f"{i:07d}.jpg")
    return 2, 8, 4


def food101(root, patch):
    folder = root / "food-101"
    for split, numbers in (("train", range(5)), ("test", range(5, 7))):
        listed = {c: [f"{c}/{i}" for i in numbers] for c in ("apple_pie", "waffles")}
        text(folder / "meta" / f"{split}.json", json.dumps(listed))
        for name in sum(listed.values(), []):
            jpg(folder / "images" / f"{name}.jpg")
    return 2, 10, 4


def stanford_cars(root, patch):
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    kind = [("fname", object), ("class", np.uint8)]
    for part, file, n in (("train", "devkit/cars_train_annos.mat", 8), ("test", "cars_test_annos_withlabels.mat", 4)):
        savemat(folder / file, {"annotations": np.array([(f"{i:05d}.jpg", i % 2 + 1) for i in range(n)], dtype=kind)})
        for i in range(n):
            jpg(folder / f"cars_{part}" / f"{i:05d}.jpg")
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM General", "Acura RL"], dtype=object)})
    return 2, 8, 4


def cub200(root, patch):
    folder = root / "CUB_200_2011"
    names = [f"{c}/{c[4:]}_{i:04d}.jpg" for c in ("001.Albatross", "002.Auklet") for i in range(6)]
    text(folder / "images.txt", *(f"{i} {name}" for i, name in enumerate(names, 1)))
    text(folder / "image_class_labels.txt", *(f"{i} {(i - 1) // 6 + 1}" for i in range(1, 13)))
    text(folder / "train_test_split.txt", *(f"{i} {int(i % 3 > 0)}" for i in range(1, 13)))
    text(folder / "classes.txt", "1 001.Albatross", "2 002.Auklet")
    for name in names:
        jpg(folder / "images" / name)
    return 2, 8, 4


LAYOUTS = [cifar10, cifar100, caltech101, oxford_pets, flowers102, fgvc_aircraft, food101, stanford_cars, cub200]
LAYOUTS = {make.__name__: make for make in LAYOUTS}


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def test_every_real_dataset_has_a_layout_here():
    assert LAYOUTS.keys() == archives.ARCHIVES.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_reads_what_the_archive_unpacks_to(tmp_path, monkeypatch, offline, name):
    classes, train, test = LAYOUTS[name](tmp_path, monkeypatch)
    d = loading.load(name, tmp_path, val_fraction=0.2)
    assert (len(d.classes), len(d.train) + len(d.val), len(d.test)) == (classes, train, test)
    assert set(d.labels("train")) <= set(range(classes)) and len(d.labels("test")) == test
    images, labels = next(iter(batches(d.test, 4, workers=0)))
    assert images.shape == (min(4, test), 3, 32, 32) and labels.tolist() == d.labels("test")[:4].tolist()


def test_labels_belong_to_their_images(tmp_path, monkeypatch):
    cub200(tmp_path, monkeypatch)
    d = loading.load("cub200", tmp_path)
    for part in (d.train, d.val, d.test):
        assert all(d.classes[y] == path.parent.name for path, y in zip(part.sources, part.labels))


def test_caltech_has_30_a_class_as_committed_and_no_background(tmp_path, monkeypatch):
    caltech101(tmp_path, monkeypatch)
    d = loading.load("caltech101", tmp_path)
    assert "BACKGROUND_Google" not in d.classes and len(d.classes) == 101
    assert (np.bincount(d.labels("train")) + np.bincount(d.labels("val")) == 30).all()
    names = lambda part: {f"{p.parent.name}/{p.name}" for p in part.sources}
    split = json.loads(archives.CALTECH_SPLIT.read_text())
    assert names(d.train) | names(d.val) == {f"{c}/image_{i:04d}.jpg" for c in split for i in split[c]["train"]}
    assert not names(d.test) & (names(d.train) | names(d.val))
    (tmp_path / "caltech101" / "101_ObjectCategories" / "emu" / "image_0053.jpg").unlink()
    with pytest.raises(ValueError, match="emu has 52 images, not 53"):
        loading.load("caltech101", tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_without_data_and_network_one_error_says_what_to_put_where(tmp_path, offline, name):
    with pytest.raises(FileNotFoundError, match=f"(?s){name} is not in {tmp_path}.*Put there "):
        loading.load(name, tmp_path)


@pytest.mark.parametrize(
    "name, file",
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("food101", "food-101.tar.gz"),
        ("oxford_pets", "oxford-iiit-pet/images.tar.gz"),
        ("flowers102", "flowers-102/102flowers.tgz"),
        ("caltech101", "caltech101/caltech-101.zip"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b.tar.gz"),
    ],
)
def test_a_truncated_archive_is_named(tmp_path, offline, name, file):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(b"\x1f\x8b\x08 half of an archive")
    with pytest.raises(ValueError, match=f"{name}: {tmp_path / file} is "):
        loading.load(name, tmp_path)


def test_a_damaged_batch_of_cifar_is_named(tmp_path, offline):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_2").write_bytes(b"half")
    with pytest.raises(ValueError, match="data_batch_2 is truncated or another file"):
        loading.load("cifar10", tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "missing", "no image"])
def test_an_unreadable_image_is_named_before_anything_is_trained(tmp_path, monkeypatch, damage):
    cub200(tmp_path, monkeypatch)
    file = tmp_path / "CUB_200_2011" / "images" / "002.Auklet" / "Auklet_0003.jpg"
    content = file.read_bytes()
    file.unlink() if damage == "missing" else file.write_bytes(content[:-200] if damage == "truncated" else b"text")
    with pytest.raises(ValueError, match=f"cannot read image {file}"):
        loading.load("cub200", tmp_path)


def test_an_empty_class_folder_is_named(tmp_path):
    for part in ("train", "val"):
        jpg(tmp_path / "imagenet" / part / "n01440764" / "a.jpg")
        (tmp_path / "imagenet" / part / "n01443537").mkdir()
    with pytest.raises(ValueError, match=r"imagenet: .*n01443537"):
        loading.load("imagenet", tmp_path)


def test_lists_that_disagree_are_refused(tmp_path, monkeypatch):
    cub200(tmp_path, monkeypatch)
    text(tmp_path / "CUB_200_2011" / "train_test_split.txt", "1 0", "2 1")
    with pytest.raises(ValueError, match="list other images"):
        loading.load("cub200", tmp_path)
