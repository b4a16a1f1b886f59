"""Rows as a table, and as the file `results.csv` that is published beside the figures and read strictly."""

import csv
import io
import json
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ovit_core import disk
from ovit_core.study import identity, paths
from ovit_core.study.parameters import Parameters
from ovit_core.study.tasks import COLUMNS, NUMBERS


def table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table with COLUMNS: an empty cell is "" in a text column and NaN in a number column."""
    found = pd.DataFrame(rows, columns=COLUMNS)
    return found.assign(**{column: pd.to_numeric(found[column], errors="coerce") for column in NUMBERS})


def read(path: Path) -> pd.DataFrame:
    """The rows of a `results.csv`, as `table` gives them; columns that it is too old to have are empty.

    Raises:
        ValueError: it is damaged; names the file and the line.
    """
    content = path.read_bytes()
    wrong = lambda line, what: ValueError(
        f"{path}, line {line}: {what}; restore the file, or remove it and run the study"
    )
    if b"\0" in content:
        raise wrong(
            content[: content.index(b"\0")].count(b"\n") + 1, "zero bytes, as a crash of the system leaves them"
        )
    if not content.endswith(b"\n"):
        raise wrong(content.count(b"\n") + 1, "the last line is cut off" if content else "the file is empty")
    reader = csv.reader(io.StringIO(content.decode(errors="replace"), newline=""), strict=True)
    try:
        head = next(reader)
        if odd := set(head) - set(COLUMNS) or {"method", "phase", "value", "seed"} - set(head):
            raise wrong(1, f"these are no rows of a study: {', '.join(sorted(odd)[:3])}")
        rows = []
        for cells in reader:
            if len(cells) != len(head):
                raise wrong(reader.line_num, f"{len(cells)} values for {len(head)} columns")
            row = dict(zip(head, cells))
            for column in NUMBERS:
                text = row.get(column, "")
                if text or column == "value":
                    row[column] = _finite(text)
                    if row[column] is None:
                        raise wrong(reader.line_num, f"{column} is {text!r}, not a number")
            rows.append(dict.fromkeys(COLUMNS, "") | row)
    except csv.Error as error:
        raise wrong(reader.line_num, str(error)) from None
    return table(rows)


def _finite(text: str) -> int | float | None:
    """The number that a text is, if it is one."""
    try:
        value = int(text) if text.isdecimal() else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def check_export(profile: str) -> None:
    """Sets a `results.csv` aside that could not be added to later."""
    path = paths.figures(profile) / "results.csv"
    try:
        if path.exists():
            read(path)
    except ValueError as error:
        disk.set_aside(path, error)


def export(rows: pd.DataFrame, experiments: Collection[str], config: Parameters, failures: Collection[str]) -> None:
    """Writes an ablation's rows to figures/PROFILE/results.csv, replacing those of the same experiments, and its
    parameters, and what failed, beside them. One process at a time.
    """
    folder = paths.figures(config.profile)
    with disk.locked(paths.results() / f"{config.profile}.export", "exports rows"):
        about = config.values() | dict(failures=list(failures), dense=identity.about_dense(config))
        disk.write(folder / f"{config.experiment}.parameters.json", json.dumps(about, indent=1) + "\n")
        if (folder / "results.csv").exists():
            others = read(folder / "results.csv")
            rows = pd.concat([others[~others.experiment.isin(experiments)], rows])
        export_table(rows[COLUMNS].sort_values("experiment", kind="stable"), config.profile, "results")


def export_table(table: pd.DataFrame, profile: str, name: str) -> None:
    """Writes figures/PROFILE/NAME.csv."""
    disk.write(paths.figures(profile) / f"{name}.csv", table.to_csv(index=False))
