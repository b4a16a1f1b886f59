"""Rows as a table, and as the file `results.csv` that is published beside the figures and read strictly."""

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ovit_core import disk
from ovit_core.study import families, identity, paths, per_image
from ovit_core.study.tasks import COLUMNS, NUMBERS

if TYPE_CHECKING:
    from ovit_core.study.ablation import Results


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


def parameters_of(path: Path) -> dict[str, Any]:
    """An ablation's parameters, its failures and dense models among them, as `export` wrote them.

    Raises:
        ValueError: the file is damaged; names it.  FileNotFoundError: there is none.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path} for the rows beside it; restore it, or run the study") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({disk.first_line(error)}); restore it, or run the study") from None
    if not isinstance(values, dict) or not isinstance(values.get("failures", []), list):
        raise ValueError(f"{path} is damaged (it maps no parameters to values); restore it, or run the study")
    return values


def check_export(profile: str) -> None:
    """Sets a `results.csv` aside that could not be added to later."""
    path = paths.runs(profile) / "results.csv"
    try:
        if path.exists():
            read(path)
    except ValueError as error:
        disk.set_aside(path, error)


def export(results: "Results") -> None:
    """Writes an ablation's rows to runs/PROFILE/results.csv, replacing those of the same experiments, and beside them
    the images behind them, the comparisons, its parameters, and what failed. One process at a time.
    """
    ablation, config, images = results.ablation, results.config, list(results.images)
    rows, folder = results.rows[COLUMNS], paths.runs(config.profile)
    with disk.locked(paths.results() / f"{config.profile}.export", "exports rows"):
        about = config.values() | dict(failures=list(results.failures), dense=identity.about_dense(config))
        disk.write(folder / f"{config.experiment}.parameters.json", json.dumps(about, indent=1) + "\n")
        if (folder / "results.csv").exists():
            others = read(folder / "results.csv")
            behind = _images(folder / per_image.FILE, others)
            others = others[~others.experiment.isin(ablation.experiments)]
            images = [behind[line] for line in others.index] + images
            rows = pd.concat([others, rows])
        rows = rows.reset_index(drop=True).sort_values("experiment", kind="stable")
        export_table(rows, config.profile, "results")
        per_image.write(folder / per_image.FILE, rows, [images[line] for line in rows.index])
        mine = results.differences().assign(experiment=ablation.name)[["experiment", *families.TABLE]]
        compared = pd.concat([_compared(folder / "differences.csv", ablation.name), mine])
        if len(compared):
            export_table(compared.sort_values("experiment", kind="stable"), config.profile, "differences")


def _images(path: Path, rows: pd.DataFrame) -> per_image.Behind:
    """The images behind rows that were exported; a file that cannot be read is set aside."""
    try:
        return per_image.read(path, rows)
    except ValueError as error:
        disk.set_aside(path, error)
        return [None] * len(rows)


def _compared(path: Path, but: str) -> pd.DataFrame:
    """The comparisons of all ablations but one that were exported; a file that cannot be read is set aside."""
    columns = ["experiment", *families.TABLE]
    if path.is_file():
        try:
            found = pd.read_csv(path, float_precision="round_trip")
            if list(found.columns) == columns:
                return found[found.experiment != but]
            disk.set_aside(path, "its columns are others")
        except ValueError as error:  # pandas' own errors are such, too
            disk.set_aside(path, error)
    return pd.DataFrame(columns=columns)


def export_table(table: pd.DataFrame, profile: str, name: str) -> None:
    """Writes runs/PROFILE/NAME.csv."""
    disk.write(paths.runs(profile) / f"{name}.csv", table.to_csv(index=False))
