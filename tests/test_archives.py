"""Each real dataset read from a small folder laid out exactly as its archive unpacks; and what is said when it is not."""

import json
import os
import pickle
import shutil
import tarfile
import urllib.request
from io import BytesIO
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from ovit_core.data import archives, catalog, loading
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


def tiny_imagenet(root, patch):
    folder, wnids = root / "tiny-imagenet-200", ("n01443537", "n02124075")
    text(folder / "wnids.txt", *reversed(wnids))
    text(folder / "words.txt", "n00001740\tentity", "n01443537\tgoldfish, Carassius auratus", "n02124075\tEgyptian cat")
    for wnid in wnids:
        for i in range(5):
            jpg(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
        text(folder / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t10\t63\t58")
    for i in range(4):
        jpg(folder / "val" / "images" / f"val_{i}.JPEG")
    text(folder / "val" / "val_annotations.txt", *(f"val_{i}.JPEG\t{wnids[i % 2]}\t0\t32\t44\t62" for i in range(4)))
    patch.setattr("ovit_core.data.tiny_imagenet.TRAIN", 5)
    return 2, 10, 4


LAYOUTS = [
    cifar10, cifar100, caltech101, oxford_pets, flowers102, fgvc_aircraft, food101, stanford_cars, cub200, tiny_imagenet,
]  # fmt: skip
LAYOUTS = {make.__name__: make for make in LAYOUTS}


@pytest.fixture
def lay(tmp_path, monkeypatch):
    """Lays a dataset out in small; returns its numbers of classes, training and test images, the official ones here."""

    def out(name):
        counts = LAYOUTS[name](tmp_path, monkeypatch)
        monkeypatch.setitem(archives.COUNTS, name, counts)
        return counts

    return out


@pytest.fixture
def offline(monkeypatch):
    """Sources answer, and their downloads fail."""

    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(catalog, "unreachable", lambda source: "")


def test_every_real_dataset_has_a_layout_here():
    assert LAYOUTS.keys() == archives.ARCHIVES.keys() == archives.COUNTS.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_reads_what_the_archive_unpacks_to(tmp_path, lay, offline, name):
    classes, train, test = lay(name)
    d = loading.load(name, tmp_path, val_fraction=0.2)
    assert (len(d.classes), len(d.train) + len(d.val), len(d.test)) == (classes, train, test)
    assert set(d.labels("train")) <= set(range(classes)) and len(d.labels("test")) == test
    images, labels = next(iter(batches(d.test, 4, workers=0)))
    assert images.shape == (min(4, test), 3, 32, 32) and labels.tolist() == d.labels("test")[:4].tolist()


def test_labels_belong_to_their_images(tmp_path, lay):
    lay("cub200")
    d = loading.load("cub200", tmp_path)
    for part in (d.train, d.val, d.test):
        assert all(d.classes[y] == path.parent.name for path, y in zip(part.sources, part.labels))


def test_caltech_has_30_a_class_as_committed_and_no_background(tmp_path, lay):
    lay("caltech101")
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


def test_tiny_imagenet_has_words_for_classes_and_validates_as_test(tmp_path, lay):
    lay("tiny_imagenet")
    d = loading.load("tiny_imagenet", tmp_path)
    assert d.classes == ["goldfish", "Egyptian cat"]
    train = [p.parent.parent.name for p in (*d.train.sources, *d.val.sources)]
    assert train == [("n01443537", "n02124075")[y] for y in (*d.train.labels, *d.val.labels)]
    assert [p.name for p in d.test.sources] == [f"val_{i}.JPEG" for i in range(4)]
    assert d.labels("test").tolist() == [0, 1, 0, 1]


def to_classes(folder):
    """The validation images as many copies have them, sorted into classes."""
    (folder / "val" / "n01443537").mkdir()
    (folder / "val" / "images").rename(folder / "val" / "n01443537" / "images")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda f: jpg(f / "train" / "n09999999" / "images" / "a.JPEG"), "train and wnids.txt differ: n09999999"),
        (lambda f: text(f / "wnids.txt", "n01443537"), "train and wnids.txt differ: n02124075"),
        (lambda f: (f / "train/n01443537/images/n01443537_0.JPEG").unlink(), "images has 4 images, officially it has 5"),
        (lambda f: (f / "val/images/val_2.JPEG").unlink(), "val_annotations.txt differ: val_2.JPEG"),
        (lambda f: jpg(f / "val" / "images" / "val_9.JPEG"), "val_annotations.txt differ: val_9.JPEG"),
        (lambda f: (f / "train/n01443537/images").rename(f / "train/n01443537/x"), "the name is folder:tiny-imagenet-200"),
        (to_classes, "the name is folder:tiny-imagenet-200"),
        (lambda f: text(f / "val/val_annotations.txt", *(f"val_{i}.JPEG\tn0" for i in range(4))), "wnids.txt has not: n0"),
    ],
)  # fmt: skip
def test_another_layout_of_tiny_imagenet_is_named(tmp_path, lay, offline, change, said):
    lay("tiny_imagenet")
    change(tmp_path / "tiny-imagenet-200")
    with pytest.raises(ValueError, match=r"^tiny_imagenet: ") as caught:
        loading.load("tiny_imagenet", tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_tiny_imagenets_archive_is_unpacked(tmp_path, lay, offline, monkeypatch):
    lay("tiny_imagenet")
    monkeypatch.setitem(archives.ARCHIVES["tiny_imagenet"].files, "tiny-imagenet-200.zip", None)  # ours is smaller
    folder = tmp_path / "tiny-imagenet-200"
    before = loading.load("tiny_imagenet", tmp_path).fingerprint
    shutil.make_archive(str(folder), "zip", tmp_path, folder.name)
    shutil.rmtree(folder)
    assert loading.load("tiny_imagenet", tmp_path).fingerprint == before


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
        ("tiny_imagenet", "tiny-imagenet-200.zip"),
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
def test_an_unreadable_image_is_named_before_anything_is_trained(tmp_path, lay, damage):
    lay("cub200")
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


def test_lists_that_disagree_are_refused(tmp_path, lay):
    lay("cub200")
    text(tmp_path / "CUB_200_2011" / "train_test_split.txt", "1 0", "2 1")
    with pytest.raises(ValueError, match="list other images"):
        loading.load("cub200", tmp_path)


def shorten(path):
    """Takes the last line."""
    lines = path.read_text().splitlines()
    text(path, *lines[:-1])


def shorten_json(path):
    listed = json.loads(path.read_text())
    listed["waffles"].pop()
    text(path, json.dumps(listed))


def shorten_flowers(path):
    savemat(path, {"trnid": np.arange(1, 10), "valid": np.arange(11, 19), "tstid": np.arange(19, 25)})


def shorten_cars(path):
    kind = [("fname", object), ("class", np.uint8)]
    savemat(path, {"annotations": np.array([(f"{i:05d}.jpg", i % 2 + 1) for i in range(3)], dtype=kind)})


def shorten_cifar(path):
    path.write_bytes(pickle.dumps({"data": np.zeros((9, 3072), np.uint8), "labels": [0, 1] * 4 + [0]}))


@pytest.mark.parametrize(
    "name, file, cut, message",
    [
        ("cifar10", "cifar-10-batches-py/two", shorten_cifar, "cifar-10-batches-py has 29 training images, .* 30"),
        ("oxford_pets", "oxford-iiit-pet/annotations/trainval.txt", shorten, "trainval.txt has 11 training images, .* 12"),
        ("oxford_pets", "oxford-iiit-pet/annotations/test.txt", shorten, "test.txt has 5 test images, .* 6"),
        ("flowers102", "flowers-102/setid.mat", shorten_flowers, "setid.mat has 17 training images, .* 18"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b/data/images_variant_trainval.txt", shorten, "trainval.txt has 7 training images, .* 8"),
        ("food101", "food-101/meta/test.json", shorten_json, "test.json has 3 test images, .* 4"),
        ("stanford_cars", "stanford_cars/cars_test_annos_withlabels.mat", shorten_cars, "withlabels.mat has 3 test images, .* 4"),
        ("cub200", "CUB_200_2011/classes.txt", shorten, "classes.txt has 1 classes, officially it has 2"),
    ],
)  # fmt: skip
def test_half_a_list_is_no_smaller_set(tmp_path, lay, offline, name, file, cut, message):
    lay(name)
    loading.load(name, tmp_path)
    cut(tmp_path / file)
    with pytest.raises(ValueError, match=f"^{name}: {tmp_path}/.*{message}.*put there ") as caught:
        loading.load(name, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n not in ("caltech101", "flowers102")])
def test_a_set_of_another_size_than_the_official_one_is_refused(tmp_path, monkeypatch, offline, name):
    classes, *_ = LAYOUTS[name](tmp_path, monkeypatch)
    with pytest.raises(
        ValueError, match=f" has {classes} classes, officially it has {archives.COUNTS[name][0]}; put there "
    ):
        loading.load(name, tmp_path)


def member(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, 4 * (kind == tarfile.REGTYPE)
    return info


EVIL = {
    "above": [member("../evil")],
    "above, later": [member("fgvc-aircraft-2013b/data/../../../evil")],
    "absolute": [member("ABSOLUTE/evil")],
    "backslash": [member("..\\evil")],
    "symbolic link": [member("way", tarfile.SYMTYPE, ".."), member("way/evil")],
    "link to a file": [member("way", tarfile.LNKTYPE, "../secret")],
    "device": [member("evil", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("filtered", [True, False], ids=["Python has a filter", "Python has none"])
@pytest.mark.parametrize("members", EVIL.values(), ids=EVIL)
def test_an_archive_writes_nothing_outside_and_nothing_at_all_if_it_tries(
    tmp_path, offline, monkeypatch, members, filtered
):
    if not filtered:
        monkeypatch.delattr(tarfile, "data_filter")
    (tmp_path / "secret").write_text("mine")
    data = tmp_path / "data"
    data.mkdir()
    archive = data / "fgvc-aircraft-2013b.tar.gz"  # the one without a checksum
    with tarfile.open(archive, "w:gz") as tar:
        for info in [member("fgvc-aircraft-2013b/data/variants.txt"), *members]:
            info.name = info.name.replace("ABSOLUTE", str(tmp_path))
            tar.addfile(info, BytesIO(b"evil"))
    before, extractall = sorted(tmp_path.rglob("*")), tarfile.TarFile.extractall
    with pytest.raises(ValueError, match=f"^fgvc_aircraft: {archive} cannot be trusted, and nothing of it") as caught:
        loading.load("fgvc_aircraft", data)
    assert sorted(tmp_path.rglob("*")) == before and "\n" not in str(caught.value)
    assert tarfile.TarFile.extractall is extractall


def test_an_archive_is_unpacked_with_its_links_to_its_own_files(tmp_path, lay, offline):
    lay("fgvc_aircraft")
    folder = tmp_path / "fgvc-aircraft-2013b"
    (folder / "data" / "images" / "0000003.jpg").unlink()
    os.link(folder / "data" / "images" / "0000001.jpg", folder / "data" / "images" / "0000003.jpg")
    (tmp_path / "again").mkdir()
    with tarfile.open(tmp_path / "again" / f"{folder.name}.tar.gz", "w:gz") as tar:
        tar.add(folder, folder.name)
        assert any(info.islnk() for info in tar.getmembers())
    again = loading.load("fgvc_aircraft", tmp_path / "again")
    assert again.fingerprint == loading.load("fgvc_aircraft", tmp_path).fingerprint
