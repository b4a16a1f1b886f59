"""Seconds of earlier measurements: those that were published, as they would be with other parameters, and one's own."""

import csv
import json
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ovit_core import disk
from ovit_core.study import paths
from ovit_core.study.cost import shape
from ovit_core.study.parameters import Parameters
from ovit_core.study.tasks import Row

log = logging.getLogger(__name__)
# What half a file, or two versions of one in each other, make of reading it. It helps to plan, and nothing rests on it.
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, csv.Error)


def own(rows: Iterable[Row], published: Iterable[Row]) -> list[Row]:
    """The rows that were measured here: without those that were taken from a publication, whose seconds are of another
    machine. `told` are the seconds of a published row as they were measured.
    """
    which = lambda row: tuple(row[column] for column in ("run_id", "phase", "dataset", "method", "device"))
    taken = {(*which(row), row["told"]) for row in published}
    return [row for row in rows if not row["seconds"] or (*which(row), float(row["seconds"])) not in taken]


def published(profile: str, configs: Iterable[Parameters] = ()) -> list[dict[str, Any]]:
    """The rows of a profile that were published, where `take` finds them; their seconds as they would be with other
    parameters, of the ablations that `configs` are of. No rows where they cannot be read, which is logged.
    """
    folder = paths.published(profile)
    if not (folder / "results.csv").is_file():
        return []
    with _unless_damaged(folder):
        return _published(folder, configs)
    return []


def _published(folder: Path, configs: Iterable[Parameters]) -> list[dict[str, Any]]:
    both = [(config, _told(folder / f"{config.experiment}.parameters.json")) for config in configs]
    pairs = {config.experiment: (theirs, config) for config, theirs in both if theirs}
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        theirs, config = pairs.get(row["experiment"], (None, None))
        more = longer(row, theirs, config) if theirs and config and row["seconds"] else 1.0
        seconds, sparsity = (float(row.get(name) or 0) for name in ("seconds", "sparsity_target"))
        found.append(row | dict(seconds=more * seconds, told=seconds, sparsity_target=sparsity))
    return found


def dense_seconds(config: Parameters) -> list[float]:
    """Seconds that dense models of a profile took to train, of those that were published: with these parameters."""
    found = []
    for file in paths.published(config.profile).glob("*.parameters.json"):
        if theirs := _told(file):
            with _unless_damaged(file):
                models = [model for model in theirs.dense if model["epochs"]]
                found += [_size(theirs, config) * one["seconds"] * config.epochs / one["epochs"] for one in models]
    return found


@contextmanager
def _unless_damaged(file: Path) -> Iterator[None]:
    """Inside, what a damaged file raises is logged, and ends the block."""
    try:
        yield
    except DAMAGED as error:
        log.warning("no time is estimated by %s, which is damaged (%s)", file, disk.first_line(error))


def longer(row: Row, theirs: Any, config: Parameters) -> float:
    """How many times as long as a published row's measurement one with other parameters takes: by the size of the model,
    and by the images that it trains on, as far as no column has them.
    """
    budget = ("scratch_steps" if row["method"] == "from_scratch" else "full_steps", "full_batch_size")
    names = {
        **dict.fromkeys(("recovered", "recovery_search", "gradual", "gradual_search"), ("recovery_images",)),
        **dict.fromkeys(("full", "full_length", "lr_search"), budget),
    }.get(row["phase"], ())
    known = config.values()
    ratios = [known[name] / getattr(theirs, name) for name in names if known.get(name) and getattr(theirs, name, 0)]
    return _size(theirs, config) * math.prod(ratios)


def _size(theirs: Any, config: Parameters) -> float:
    """How many times as many operations the model has as that of other parameters, where both are known."""
    one, other = shape(config), shape(theirs)
    return one.flops / other.flops if one and other else 1.0


def _told(file: Path) -> Any:
    """The parameters that a publication tells, and its dense models; None where it tells none."""
    try:
        told = json.loads(file.read_bytes())
        return SimpleNamespace(**dict(dense=[]) | told) if {"model", "model_args"} <= told.keys() else None
    except DAMAGED:
        return None
