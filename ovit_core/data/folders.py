"""Folders of images, train/CLASS/* and test/CLASS/*: `folder:NAME`, and ImageNet."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize

from PIL import Image

from ovit_core.data.catalog import folder_of
from ovit_core.data.listing import Listing, files
from ovit_core.disk import shown

log = logging.getLogger(__name__)
SYSTEM = {"thumbs.db", "desktop.ini", "__macosx"}  # and whatever begins with a dot
STUBS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # kinds that Pillow knows by name, but does not decode itself


def read(name: str, data_dir: Path) -> Listing:
    """The pictures of train/CLASS and of test/CLASS (or val, also where test has no classes), classes sorted by name.

    Hidden and system files are passed over, and what is no picture with a line in the log.

    Raises:
        ValueError: fewer than two classes, an empty one, one behind a link that leads nowhere or with a name that is not
            UTF-8, classes that differ by case only or between train and test, or ImageNet's under numbers; names them.
    """
    root, listed = folder_of(name, data_dir), lambda names: ", ".join(map(shown, names))
    name = shown(name)
    test_name = "test" if _classes(root / "test") or not (root / "val").is_dir() else "val"
    classes, other = _classes(root / "train"), _classes(root / test_name)
    if classes != other:
        odd = {"train": sorted({*classes} - {*other}), test_name: sorted({*other} - {*classes})}
        where = "; ".join(f"only in {part}: {listed(names[:5])}" for part, names in odd.items() if names)
        alike = sorted(normalize("NFC", c) for c in odd["train"]) == sorted(normalize("NFC", c) for c in odd[test_name])
        same = " (the same letters, composed in one and decomposed in the other: rename the folders)" * alike
        raise ValueError(f"{name}: classes of train and {test_name} differ: {where}{same}")
    if len(classes) < 2:
        raise ValueError(f"{name}: {shown(root / 'train')} needs two class folders at least, and holds {len(classes)}")
    same = [c for c, n in Counter(c.casefold() for c in classes).items() if n > 1]
    if twins := [c for c in classes if c.casefold() in same]:
        raise ValueError(f"{name}: classes differ by upper and lower case only: {listed(twins[:6])}")
    if name == "imagenet" and all(c.isdigit() for c in classes):
        raise ValueError(
            f"{name}: class folders are numbers, and sorted as text class 2 would be folder 10: name them by WNID (n01440764)"
        )
    return Listing(classes, *(files(_pictures(name, root / part, classes)) for part in ("train", test_name)))


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in SYSTEM


def _classes(folder: Path) -> list[str]:
    seen = [path for path in sorted(folder.glob("*")) if not _hidden(path)]
    if lost := [path for path in seen if path.is_symlink() and not path.exists()]:
        raise ValueError(f"{shown(lost[0])} is a link that leads nowhere: a class would be missing")
    classes = [path for path in seen if path.is_dir()]
    for path in classes:
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{shown(path)}: rows carry the names of classes, and this one is not UTF-8") from None
    return [path.name for path in classes]


def _below(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden. Links to folders are followed, but no folder is entered twice."""
    entered = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [f for f in folders if not _hidden(Path(f))]
        yield from (Path(place, n) for n in names if not _hidden(Path(n)))


def _pictures(name: str, folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """(path, label) of every picture below the class folders, sorted."""
    Image.init()
    known = {e for e, kind in Image.EXTENSION.items() if kind in {*Image.OPEN, "MPO"} - STUBS}
    found, odd = [], Counter()
    for label, c in enumerate(classes):
        before = len(found)
        for path in sorted(_below(folder / c)):
            if path.suffix.lower() in known and path.is_file():  # a pipe would be waited for, for ever
                found.append((path, label))
            else:
                odd[path.suffix or path.name] += 1
        if len(found) == before:
            raise ValueError(f"{name}: no picture in class folder {shown(folder / c)}")
    if odd:
        kinds = ", ".join(f"{n} x {shown(kind, 60)}" for kind, n in odd.most_common(5))
        log.warning("%s: passed over %d files in %s that are no pictures: %s", name, odd.total(), shown(folder), kinds)
    return found
