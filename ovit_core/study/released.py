"""Finished dense models beside the figures, compressed: a clone repeats the rows of a study without training them again.

A file's name says all that its weights depend on (`identity.dense_path`), so that whoever asks for the same model, in
whatever profile, may take it.
"""

import json
import logging
import lzma
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ovit_core import disk
from ovit_core.study import paths

log = logging.getLogger(__name__)
FOLDER, ENDING = "dense", ".xz"
LARGEST = 5_000_000  # bytes of a compressed model: more does not belong into a repository
MOST = 8 * LARGEST  # bytes that one can become when it is read


def curve_path(path: Path) -> Path:
    """Where the learning curve of a dense model of the cache lies."""
    return path.with_suffix(".curve.json")


def find(path: Path) -> Path | None:
    """The file in figures/ of the repository that has the dense model that belongs at `path` in the cache."""
    return next((paths.ROOT / "figures").glob(f"*/{FOLDER}/{path.name}{ENDING}"), None)


def content(file: Path) -> bytes:
    """What a published file has, as it lies in the cache.

    Raises:
        ValueError: it is damaged, or too large; names it.
    """
    try:
        with lzma.open(file) as opened:
            weights = opened.read(MOST + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{file} is damaged ({disk.first_line(error)}): restore it, or remove it") from None
    if len(weights) > MOST:
        raise ValueError(f"{file} holds more than {MOST / 1e6:.0f} MB, no model of this study: remove it")
    return weights


def take(path: Path) -> None:
    """Puts a published dense model, and what is noted of its training, where the cache would have it, if it has none.

    Raises:
        ValueError: what is published is damaged; names it.
    """
    if path.exists() or (file := find(path)) is None:
        return
    weights, notes = content(file), file.with_suffix(".json")
    try:
        about = json.loads(notes.read_bytes())
        disk.write(curve_path(path), json.dumps(about.pop("curve")) + "\n")
    except (ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"{notes} is damaged ({disk.first_line(error)}): restore it, or remove {file.name}") from None
    disk.write(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    disk.write(path, weights)
    log.info("%s: taken from %s", path.name, file)


def publish(profile: str, models: Iterable[dict[str, Any]]) -> tuple[list[Path], list[Path]]:
    """Makes figures/PROFILE/dense hold some dense models, as `identity.about_dense` tells them; one that is too large is
    left out, with a line in the log. Returns the files of those models, and what was removed.
    """
    folder, files = paths.figures(profile, FOLDER), []
    for about in models:
        path = paths.cache() / about["file"]
        file = folder / f"{path.name}{ENDING}"
        if path.is_file():
            packed = lzma.compress(path.read_bytes(), preset=9)
            if len(packed) > LARGEST:
                log.warning("%s has %.1f MB, more than %.0f: not published", path, len(packed) / 1e6, LARGEST / 1e6)
                continue
            disk.write(file, packed)
            disk.write(file.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
        files += [f for f in (file, file.with_suffix(".json")) if f.is_file()]
    removed = sorted({f for ending in (ENDING, ".json") for f in folder.glob(f"*{ending}")} - {*files})
    for file in removed:
        file.unlink()
    return files, removed
