"""Image files as people have them: every kind arrives as the picture a person sees, or is refused or passed over by name."""

import os
import shutil
from unicodedata import normalize

import numpy as np
import pytest
import torch
from conftest import ALL
from PIL import Image

from ovit_core.data import decoded, loading
from ovit_core.data.batches import InMemoryImages, batches
from ovit_core.data.files import ImageFiles, open_image
from ovit_core.data.listing import split


def picture(size=(8, 8)):
    """Left half dark red, right half light."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:, : size[1] // 2] = (100, 0, 0)
    pixels[:, size[1] // 2 :] = (200, 220, 240)
    return Image.fromarray(pixels)


def seen(path):
    return np.asarray(open_image(path)).astype(int)


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "CMYK", "YCbCr", "L", "1"])
def test_modes_of_colour(tmp_path, mode):
    image = picture().convert(mode)
    path = tmp_path / ("a.png" if mode in ("RGB", "P", "RGBA", "L", "1") else "a.tif")
    image.save(path)
    found, wanted = seen(path), np.asarray(image.convert("RGB")).astype(int)
    assert found.shape == (8, 8, 3) and np.abs(found - wanted).max() <= 2
    assert found[:, 4:].mean() > found[:, :4].mean()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path, suffix):
    """Converted as Pillow does it, everything above 255 of 65535 would be white."""
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert np.abs(seen(tmp_path / f"a.{suffix}")[:, :, 0] - values / 257).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    """Converted as Pillow does it, the hidden black would come out."""
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([0, 0, 0, 50, 60, 70])
        image.paste(1, (4, 0, 8, 8))
        image.save(tmp_path / "a.png", transparency=0)
    else:
        image = picture().convert(mode)
        image.putalpha(Image.fromarray(np.repeat([[0] * 4 + [255] * 4], 8, 0).astype(np.uint8)))
        image.save(tmp_path / "a.png")
    found = seen(tmp_path / "a.png")
    assert (found[:, :4] == 255).all() and (found[:, 4:] < 255).any()


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture((8, 16)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = seen(tmp_path / "a.jpg")
    assert found.shape == (16, 8, 3) and found[:8].mean() < found[8:].mean()


def test_of_an_animation_it_is_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert seen(tmp_path / "a.gif")[0, 0].tolist() == [250, 0, 0]


def test_pictures_of_unknown_range_are_refused_by_name(tmp_path):
    Image.fromarray(np.random.rand(8, 8).astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((8, 8), 10**6, np.int32)).save(tmp_path / "wide.tif")
    Image.fromarray(np.full((8, 8), 200, np.int32)).save(tmp_path / "eight.tif")
    assert (seen(tmp_path / "eight.tif") == 200).all()  # as many numbers in 32 bits
    with pytest.raises(ValueError, match=r"float\.tif: its pixels are floating-point numbers of no known range"):
        open_image(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"wide\.tif: its pixels are 32-bit integers"):
        open_image(tmp_path / "wide.tif")


@pytest.fixture
def pets(tmp_path):
    """Two classes, six training and two test pictures each, of 80 x 100 pixels."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("test", 2)):
        for c in ("cat", "dog"):
            folder = tmp_path / "pets" / part / c
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pets"


def load(root, **options):
    return loading.load(f"folder:{root.name}", root.parent, **options)


def test_what_is_no_picture_is_passed_over_and_named(pets, caplog):
    cat = pets / "train" / "cat"
    (cat / "notes.txt").write_text("no picture")
    (cat / "more.TXT").write_text("no picture")
    (cat / "README").write_text("no picture")
    (cat / "film.mpg").write_text("no picture")
    for hidden in (".DS_Store", "Thumbs.db", "._0.png"):
        (cat / hidden).write_bytes(b"system")
    for folder in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(cat, pets / "train" / folder)
    os.mkfifo(cat / "pipe.png")  # opened, it would be waited for, for ever
    d = load(pets)
    assert d.classes == ["cat", "dog"] and len(d.train) + len(d.val) == 12
    assert "passed over 5 files" in caplog.text and "1 x .txt" in caplog.text and "1 x .png" in caplog.text


def test_pictures_in_folders_below_a_class_and_of_every_kind_belong_to_it(pets):
    (pets / "train" / "cat" / "more").mkdir()
    picture((80, 80)).save(pets / "train" / "cat" / "more" / "a.webp")
    picture((80, 80)).save(pets / "train" / "cat" / "B.JPEG")
    assert load(pets).labels("train").tolist().count(0) + load(pets).labels("val").tolist().count(0) == 8


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: shutil.rmtree(r / "train" / "dog") or shutil.rmtree(r / "test" / "dog"), "needs two class folders at least"),
        (lambda r: [(r / p / "Cat").mkdir() for p in ("train", "test")], "differ by upper and lower case only: Cat, cat"),
        (lambda r: [(r / p / "fox").mkdir() for p in ("train", "test")], "no picture in class folder .*fox"),
        (lambda r: (r / "test" / "dog").rename(r / "test" / "fox"), "classes of train and test differ: only in train: dog; only in test: fox"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_meant_are_refused(pets, change, message):
    change(pets)
    with pytest.raises(ValueError, match=message):
        load(pets)


def test_a_class_that_one_side_lacks_or_spells_otherwise_is_named_with_its_side(pets):
    shutil.rmtree(pets / "test" / "dog")
    with pytest.raises(ValueError, match=r"differ: only in train: dog$"):
        load(pets)
    for part, form in (("train", "NFC"), ("test", "NFD")):  # as a Mac's archive and a Linux one have it
        (pets / part / normalize(form, "kätzchen")).mkdir()
    (pets / "train" / "dog").rename(pets / "other")
    with pytest.raises(ValueError, match=r"the same letters, composed in one and decomposed in the other: rename"):
        load(pets)


def test_imagenet_under_numbers_is_refused(pets):
    for part in ("train", "test"):
        for c, number in (("cat", "2"), ("dog", "10")):
            (pets / part / c).rename(pets / part / number)
    assert load(pets).classes == ["10", "2"]  # anybody's own classes may be numbers
    pets.rename(pets.parent / "imagenet")
    with pytest.raises(ValueError, match="class 2 would be folder 10: name them by WNID"):
        loading.load("imagenet", pets.parent)


def test_a_classes_only_picture_is_trained_on(pets):
    for i in range(1, 6):
        (pets / "train" / "cat" / f"{i}.png").unlink()
    d = load(pets)
    assert d.labels("train").tolist().count(0) == 1 and 0 not in d.labels("val")
    assert [len(part) for part in split(np.array([0, 1, 1, 2, 2, 2]), 0.9, 0)] == [3, 3]
    for i in range(1, 6):
        (pets / "train" / "dog" / f"{i}.png").unlink()
    with pytest.raises(ValueError, match="every class has a single training image"):
        load(pets)


def small(pets):
    for path in pets.rglob("*.png"):
        picture((64, 90)).save(path)
    config = dict(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    return lambda *more, **keywords: load(pets, *more, input_config=config, **keywords)


def test_small_pictures_are_decoded_once_into_memory(pets):
    again = small(pets)
    d = again()
    assert isinstance(d.train, InMemoryImages) and d.train.at(ALL).shape[1:] == (3, 32, 32)
    left, right = d.train.at(ALL)[0].float().split(16, 2)  # the middle was cut out: half dark, half light
    assert left.mean() < 50 and right.mean() > 200
    before = decoded.decoded.cache_info().hits
    assert again().train.stored is d.train.stored and decoded.decoded.cache_info().hits > before
    large = load(pets, input_config=dict(input_size=(3, 96, 96), mean=(0.5,) * 3, std=(0.5,) * 3))
    assert isinstance(large.train, ImageFiles)
    picture((64, 64)).convert("L").save(pets / "train" / "dog" / "3.png")  # another file under the same name
    other = again()
    assert not torch.equal(
        torch.cat([other.train.at(ALL), other.val.at(ALL)]), torch.cat([d.train.at(ALL), d.val.at(ALL)])
    )


def test_decoded_pictures_are_kept_in_a_file_that_processes_share(pets, tmp_path, monkeypatch):
    again, cache = small(pets), tmp_path / "cache"
    alone = again()
    kept = again(cache=cache)
    files = sorted(cache.glob("decoded-*.npy"))
    assert len(files) == 2 and {tuple(np.load(f).shape[1:]) for f in files} == {(3, 32, 32)}  # train and test
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(kept, part).at(ALL), getattr(alone, part).at(ALL))
    assert kept.train.stored is kept.val.stored  # a split is no copy
    before = [f.read_bytes() for f in files]
    kept.train.stored.zero_()  # reaches no other process
    assert [f.read_bytes() for f in files] == before

    monkeypatch.setattr(decoded, "_opened", None)  # as in another process: nothing is decoded
    decoded.decoded.cache_clear()
    assert torch.equal(again(cache=cache).train.at(ALL), alone.train.at(ALL))


DAMAGE = {
    "empty": lambda content: b"",
    "no array": lambda content: b"no array",
    "cut off": lambda content: content[:-1],
    "a bracket that is not closed": lambda content: content.replace(b"(", b" ", 1),
    "of more than a number may hold": lambda content: content.replace(b", 3,", b", 9" + b"9" * 30 + b",", 1),
    "another shape": lambda content: content.replace(b"3, 32, 32", b"3, 16, 64", 1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_of_decoded_pictures_is_made_again(pets, tmp_path, damage, caplog):
    again, cache = small(pets), tmp_path / "cache"
    expected = again(cache=cache).train.at(ALL)
    files = sorted(cache.glob("decoded-*.npy"))
    whole = [file.read_bytes() for file in files]
    for file, content in zip(files, whole):
        assert damage(content) != content
        file.write_bytes(damage(content))
    decoded.decoded.cache_clear()
    assert torch.equal(again(cache=cache).train.at(ALL), expected)
    assert "removed, and made again" in caplog.text and [file.read_bytes() for file in files] == whole


def test_pictures_that_change_between_check_and_decoding_are_refused(pets, tmp_path, monkeypatch):
    again, cache = small(pets), tmp_path / "cache"
    known = loading.manifest.digests
    changed = pets / "train" / "dog" / "3.png"

    def and_then(*words):
        found = known(*words)
        picture((64, 64)).convert("L").save(changed)
        return found

    monkeypatch.setattr(loading.manifest, "digests", and_then)
    with pytest.raises(ValueError, match=r"3\.png was changed after it was checked"):
        again(cache=cache)
    assert not list(cache.glob("*decoded*.npy"))


def test_where_no_file_can_be_kept_pictures_are_decoded_into_memory(pets, tmp_path, monkeypatch, caplog):
    again = small(pets)
    expected = again().train.at(ALL)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    assert torch.equal(again(cache=tmp_path / "cache").train.at(ALL), expected)
    assert not list((tmp_path / "cache").glob("*decoded*.npy*partial")) and "free some space" in caplog.text

    monkeypatch.undo()
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    decoded.decoded.cache_clear()
    assert torch.equal(again(cache=tmp_path / "cache").train.at(ALL), expected)
    assert not list((tmp_path / "cache").glob("decoded*"))


@pytest.mark.parametrize("size", [32, 96])
def test_gray_models_get_gray_images(pets, size):
    config = dict(input_size=(1, size, size), mean=(0.5,), std=(0.5,))
    for name in ("folder:pets", "digits", "glyph_symbols"):
        d = loading.load(name, pets.parent, config)
        for part in (d.train, d.test):
            assert next(iter(batches(part, 2, workers=0)))[0].shape == (2, 1, size, size)


def test_links_to_folders_are_followed_and_never_in_a_ring(pets, tmp_path):
    more = tmp_path / "elsewhere"
    more.mkdir()
    picture().save(more / "linked.png")
    whole = load(pets)
    cat = next(p for p in sorted((pets / "train").iterdir()) if p.is_dir())
    (cat / "more").symlink_to(more)
    (cat / "ring").symlink_to(cat)
    linked = load(pets)
    assert len(linked.train) + len(linked.val) == len(whole.train) + len(whole.val) + 1


def test_a_class_folder_may_be_a_link_to_anywhere(pets, tmp_path):
    before = load(pets).fingerprint
    (pets / "train" / "cat").rename(tmp_path / "elsewhere")
    (pets / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    assert load(pets).fingerprint == before


def test_a_name_that_is_not_utf8_is_a_name(pets):
    first = next((pets / "train").rglob("*.png"))
    first.rename(os.fsdecode(os.fsencode(first.parent) + b"/caf\xe9.png"))
    assert len(load(pets).train)


def test_a_transparent_value_of_sixteen_bits_is_white(tmp_path):
    pixels = np.zeros((8, 8), np.uint16)
    pixels[4:] = 60_000
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=0)
    assert (seen(tmp_path / "a.png")[:4] == 255).all() and (seen(tmp_path / "a.png")[4:] == 233).all()
