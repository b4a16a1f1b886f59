"""Embedded images, Fashion-MNIST in both layouts on disk, image folders, and what is said when they are missing."""

import gzip
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ALL
from PIL import Image, ImageFont
from torchvision.datasets import FashionMNIST

from ovit_core.data import catalog, glyphs, listing, loading, small
from ovit_core.data.batches import batches
from ovit_core.study.paths import ROOT

SIZES = dict(
    glyph_letters=(26, 32032, 2600),
    glyph_symbols=(101, 3030, 1010),
    glyph_typefaces=(21, 2100, 1050),
    digits=(10, 1258, 539),
)


@pytest.fixture(scope="module")
def sets():
    """Each embedded set, loaded once: letters take seconds."""
    return {name: loading.load(name) for name in SIZES}


@pytest.mark.parametrize("name", SIZES)
def test_embedded_sets_are_of_the_size_said(sets, name):
    d, (classes, train, test) = sets[name], SIZES[name]
    assert (len(d.classes), len(d.train) + len(d.val), len(d.test)) == (classes, train, test)
    assert set(d.labels("test")) == set(range(classes)) == set(d.labels("val"))
    x, y = next(iter(batches(d.test, 8)))
    assert x.shape == (8, 3, 32, 32) and x.dtype == torch.float32
    assert -1 <= x.min() and x.max() <= 1 and y.dtype == torch.int64


@pytest.mark.parametrize("name", ["glyph_symbols", "glyph_typefaces", "digits"])
def test_embedded_sets_are_the_same_bytes_each_time(sets, name):
    glyphs.rendered.cache_clear()
    again = loading.load(name)
    assert again.fingerprint == sets[name].fingerprint and torch.equal(again.train.at(ALL), sets[name].train.at(ALL))


@pytest.mark.notebook
def test_embedded_sets_are_the_same_bytes_on_another_processor(sets):
    code = f"from ovit_core.data.loading import load\nfor name in {list(SIZES)}: print(load(name).fingerprint)"
    # Without vector instructions torch rounds otherwise, as it does on a processor of another make.
    other = dict(os.environ, ATEN_CPU_CAPABILITY="default")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=other)
    assert said.stdout.split() == [sets[name].fingerprint for name in SIZES]


def test_glyphs_do_not_depend_on_libraries_of_the_system(monkeypatch):
    """Pillow takes another layout where it finds libfribidi, and sets these glyphs otherwise with it."""
    drawn = []
    for has_raqm in (True, False):
        monkeypatch.setattr(ImageFont.core, "HAVE_RAQM", has_raqm)
        glyphs._glyph.cache_clear()
        drawn.append([glyphs._glyph("STIXGeneral", letter).tobytes() for letter in "CFW"])
    glyphs._glyph.cache_clear()
    assert drawn[0] == drawn[1]


def test_test_letters_are_of_families_never_trained_on():
    assert not set(glyphs.TRAIN_FAMILIES) & set(glyphs.TEST_FAMILIES)
    for families in (glyphs.TRAIN_FAMILIES, glyphs.TEST_FAMILIES):
        assert all(glyphs.faces(families, glyphs.LETTERS + glyphs.SYMBOLS).values())
    assert len(set(glyphs.SYMBOLS)) == 101 and not set(glyphs.SYMBOLS) & set(glyphs.LETTERS)


def test_splits_are_seeded_stratified_and_disjoint():
    labels = np.repeat(np.arange(5), 20)
    rest, held = listing.split(labels, 0.2, seed=1)
    assert not set(rest) & set(held) and len(rest) + len(held) == 100
    assert np.bincount(labels[held]).tolist() == [4] * 5
    assert np.array_equal(held, listing.split(labels, 0.2, seed=1)[1])
    assert not np.array_equal(held, listing.split(labels, 0.2, seed=2)[1])


def test_batches_are_repeatable_and_cover_an_epoch():
    split = loading.load("digits").train
    first, second = (
        batches(split, 50, seed=4, augment=("flip", "shift")),
        batches(split, 50, seed=4, augment=("flip", "shift")),
    )
    for (x, y), (a, b) in zip(first, second):
        assert torch.equal(x, a) and torch.equal(y, b)
    again = torch.cat([y for _, y in first])
    assert not torch.equal(again, torch.cat([b for _, b in batches(split, 50, seed=4)]))  # the next epoch's order
    assert len(torch.cat([y for _, y in batches(split, 50)])) == len(split)


def write_idx(folder, packed):
    """Twenty training and ten test images, laid out as Fashion-MNIST's own files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", 20), ("t10k", 10)):
        images = struct.pack(">IIII", 2051, n, 28, 28) + rng.integers(0, 256, (n, 28, 28), dtype=np.uint8).tobytes()
        labels = struct.pack(">II", 2049, n) + (np.arange(n) % 10).astype(np.uint8).tobytes()
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{part}-{kind}-ubyte"
            (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("layout, packed", [("fashion-mnist", True), (".", True), ("FashionMNIST/raw", False)])
def test_fashion_mnist_from_debian_and_torchvision_layouts(tmp_path, layout, packed):
    write_idx(tmp_path / "data" / layout, packed)
    d = loading.load("fashion_mnist", tmp_path / "data")
    assert (len(d.train) + len(d.val), len(d.test), len(d.classes)) == (20, 10, 10)
    assert next(iter(batches(d.train, 4)))[0].shape == (4, 3, 32, 32)


def test_fashion_mnist_truncated_names_the_file(tmp_path):
    write_idx(tmp_path / "d" / "FashionMNIST" / "raw", packed=False)
    file = tmp_path / "d" / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot read .*t10k-images-idx3-ubyte"):
        loading.load("fashion_mnist", tmp_path / "d")


def test_fashion_mnist_missing_says_what_to_put_where(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError("no network")

    monkeypatch.setattr(FashionMNIST, "download", refuse)
    monkeypatch.setattr(catalog, "unreachable", lambda source: "")
    monkeypatch.setattr(small, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"its download failed .* Put there the four .*dataset-fashion-mnist"):
        loading.load("fashion_mnist", tmp_path)


def test_a_folder_of_images_is_read_by_class_and_classes_must_agree(tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("test", 2)):
        for c in ("cat", "dog"):
            (tmp_path / "pets" / part / c).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(
                    tmp_path / "pets" / part / c / f"{i}.png"
                )
    d = loading.load("folder:pets", tmp_path, val_fraction=0.34)
    assert d.classes == ["cat", "dog"] and (len(d.train), len(d.val), len(d.test)) == (8, 4, 4)
    x, _ = next(iter(batches(d.train, 4, seed=0, workers=0)))
    assert x.shape == (4, 3, 32, 32) and d.labels("val").tolist() == [0, 0, 1, 1]
    (tmp_path / "pets" / "test" / "dog").rename(tmp_path / "pets" / "test" / "fox")
    with pytest.raises(ValueError, match="classes of train and test differ: only in train: dog; only in test: fox"):
        loading.load("folder:pets", tmp_path)


def test_unlabelled_test_images_leave_val_to_test_on(tmp_path):
    """ImageNet as it unpacks: test/ holds images without classes."""
    for part in ("train/a", "train/b", "val/a", "val/b", "test"):
        (tmp_path / "mine" / part).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "mine" / part / f"{i}.png")
    assert len(loading.load("folder:mine", tmp_path).test) == 10


def test_a_missing_folder_says_what_to_put_there_and_an_unknown_name_what_is_meant(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing/test, with one sub-folder of images per class"):
        loading.load("folder:nothing", tmp_path)
    with pytest.raises(ValueError, match="unknown dataset 'digit'; did you mean 'digits'"):
        loading.load("digit")
