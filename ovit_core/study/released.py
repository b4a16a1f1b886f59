"""Finished dense models beside the figures, compressed: a clone repeats the rows of a study without training them again.

A file's name says all that its weights depend on (`identity.dense_path`), so that whoever asks for the same model, in
whatever profile, may take it.
"""

import hashlib
import json
import logging
import lzma
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ovit_core import disk
from ovit_core.study import paths

log = logging.getLogger(__name__)
FOLDER, ENDING = "dense", ".xz"
NAME = re.compile(r"dense-[^/\\\x00-\x1f]+\.safetensors")  # no other folder's
LARGEST = 5_000_000  # bytes of a compressed model: more does not belong into a repository
MOST = 8 * LARGEST  # bytes that one can become when it is read


def curve_path(path: Path) -> Path:
    """Where the learning curve of a dense model of the cache lies."""
    return path.with_suffix(".curve.json")


def find(path: Path, profile: str) -> Path | None:
    """The file that has the dense model that belongs at `path` in the cache, among the publications: the profile's own,
    else that of the first in the alphabet, for another machine may have made another one.
    """
    places = paths.publications()
    folders = [place / profile / FOLDER for place in places]
    folders += [folder for place in places for folder in sorted(place.glob(f"*/{FOLDER}"))]
    return next((file for folder in folders if (file := folder / f"{path.name}{ENDING}").is_file()), None)


def content(file: Path) -> bytes:
    """What a published file has, as it lies in the cache.

    Raises:
        ValueError: it is damaged, too large, or not what is noted beside it; names it.
    """
    try:
        with lzma.open(file) as opened:
            weights = opened.read(MOST + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{file} is damaged ({disk.first_line(error)}): restore it, or remove it") from None
    if len(weights) > MOST:
        raise ValueError(f"{file} holds more than {MOST / 1e6:.0f} MB, no model of this study: remove it")
    if hashlib.sha256(weights).hexdigest() != notes(file)["sha256"]:
        raise ValueError(f"{file} is not the model that {_beside(file).name} tells of: restore both, or remove them")
    return weights


def notes(file: Path) -> dict[str, Any]:
    """What is noted of a published model: `identity.about_dense`.

    Raises:
        ValueError: they are damaged; names them.
    """
    try:
        about = json.loads(_beside(file).read_bytes())
        if isinstance(about["curve"], dict) and isinstance(about["sha256"], str):
            return about
        raise ValueError("a curve and a SHA-256 are missing")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{_beside(file)} is damaged ({disk.first_line(error)}): restore it, or remove {file.name}"
        ) from None


def take(path: Path, profile: str) -> None:
    """Puts a published dense model, and what is noted of its training, where the cache would have it, if it has none.

    Raises:
        ValueError: what is published is damaged; names it.
    """
    if path.exists() or (file := find(path, profile)) is None:
        return
    weights, about = content(file), notes(file)
    disk.write(curve_path(path), json.dumps(about.pop("curve")) + "\n")
    disk.write(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    disk.write(path, weights)
    log.info("%s: taken from %s", path.name, file)


def publish(profile: str, models: Iterable[dict[str, Any]], keep: bool = False) -> tuple[list[Path], list[Path]]:
    """Makes figures/PROFILE/dense hold some dense models, as `identity.about_dense` tells them; one that is too large is
    left out, with a line in the log. Of a model that the cache no longer has, what is published stays; so does all where
    no model is told, or others are to be kept. Returns the files of those models, and what was removed.

    Raises:
        ValueError: the cache has another model than the rows are of, or what is told is none; names it.
    """
    folder, files, models = paths.figures(profile, FOLDER), [], list(models)
    for about in models:
        if not NAME.fullmatch(str(about.get("file"))):
            raise ValueError(f"{disk.shown(about.get('file'))} is no name of a dense model: run the study again")
        path = paths.cache() / about["file"]
        file = folder / f"{path.name}{ENDING}"
        if path.is_file():
            weights = path.read_bytes()
            if hashlib.sha256(weights).hexdigest() != about.get("sha256"):
                raise ValueError(f"{path} is not the model that the run's rows are of: run the study again")
            packed = lzma.compress(weights, preset=9)
            if len(packed) > LARGEST:
                log.warning("%s has %.1f MB, more than %.0f: not published", path, len(packed) / 1e6, LARGEST / 1e6)
                continue
            disk.write(file, packed)
            disk.write(_beside(file), json.dumps(about, indent=1) + "\n")
        files += [f for f in (file, _beside(file)) if f.is_file()]
    there = [file for file in folder.glob(f"*{ENDING}") if NAME.fullmatch(file.stem)] if models and not keep else []
    removed = sorted({f for file in there for f in (file, _beside(file)) if f.is_file()} - {*files})
    for file in removed:
        file.unlink()
    return files, removed


def _beside(file: Path) -> Path:
    """Where the notes of a published model lie."""
    return file.with_suffix(".json")
