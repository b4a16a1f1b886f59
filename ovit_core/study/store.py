"""Tidy rows of measured numbers: written atomically as they come, skipped when already there.

A run is one (experiment, settings, seed). Its rows live in results/PROFILE/EXPERIMENT-SETTINGS/seedK.csv, so that
runs with the same settings lie side by side and other settings never mix with them.
"""

import json
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ovit_core.study import paths, provenance
from ovit_core.study.parameters import Parameters

COLUMNS = """experiment profile model upstream dataset method score update allocation pattern phase sparsity_target
sparsity sparsity_model block_size damp gradients gradient_batch recomputations lr C scope scope_name seed metric value
n_test seconds device commit versions run_id""".split()
TEXT = """experiment profile model upstream dataset method score update allocation pattern phase scope scope_name metric
device commit versions run_id""".split()


class Run:
    """One seed of an experiment: add rows, ask what is done.

    Args:
        config: the experiment's parameters. Seeds, profile name, and which methods and sparsities are asked for
            do not make other settings: they only say which rows there should be.
        seed: which seed.
        fingerprints: of the data used.
        code: hash of the code on which the numbers depend.
    """

    def __init__(self, config: Parameters, seed: int, fingerprints: Iterable[str], code: str):
        settings = config.settings()
        self.seed = seed
        settings_id = provenance.digest(settings, sorted(fingerprints), code)
        self.folder = paths.results(config.profile) / f"{config.experiment}-{settings_id}"
        self.path = self.folder / f"seed{seed}.csv"
        self.common = dict(
            experiment=config.experiment, profile=config.profile, model=config.model, upstream=config.upstream,
            block_size=config.block_size, gradients=config.gradients, gradient_batch=config.gradient_batch,
            recomputations=0, allocation="global", pattern="unstructured", scope="all", scope_name="", seed=seed,
            device=provenance.device_name(config.device), commit=provenance.commit(), versions=provenance.versions(),
            run_id=provenance.digest(settings_id, seed),
        )  # fmt: skip
        self.rows: list[dict[str, Any]] = read(self.path).to_dict("records") if self.path.exists() else []
        self.clock = time.perf_counter()
        paths.write_atomically(self.folder / "settings.json", json.dumps(settings, indent=1))

    def done(self, **key: Any) -> bool:
        """Whether a row with these values is there."""
        return any(all(row[k] == v for k, v in key.items()) for row in self.rows)

    def add(self, value: float, correct: np.ndarray | None = None, write: bool = True, **row: Any) -> None:
        """Appends one row and writes the run's file; `seconds` is the time since the last row.

        Args:
            value: the measured number.
            correct: (n_test,) bool per-image correctness, saved beside the rows for the bootstrap.
            write: False leaves the writing to the next row, where many come at once.
            row: its columns; any not in COLUMNS is an error.
        """
        if odd := row.keys() - set(COLUMNS):
            raise KeyError(f"no such column: {', '.join(sorted(odd))}")
        now = time.perf_counter()
        full = dict.fromkeys(COLUMNS, "") | self.common | row
        full |= dict(value=float(value), seconds=round(now - self.clock, 3))
        self.clock = now
        if correct is not None:
            full["n_test"] = len(correct)
        if correct is not None and full["experiment"] != "sensitivity":  # a sweep has many points of one name
            names = ("phase", "dataset", "method", "sparsity_target", "allocation", "pattern")
            key = "-".join(str(full[name]) for name in names).replace(":", "_")
            folder = self.folder / f"correct-seed{full['seed']}"
            folder.mkdir(exist_ok=True)
            np.save(folder / f"{key}.npy", np.packbits(correct))
        self.rows.append(full)
        if write:
            self.write()

    def write(self) -> None:
        """Writes the run's file."""
        paths.write_atomically(self.path, pd.DataFrame(self.rows, columns=COLUMNS).to_csv(index=False))


def load(folder: Path, seeds: Collection[int]) -> pd.DataFrame:
    """All rows of some seeds together, of the runs in `folder` (which may hold more).

    Raises:
        FileNotFoundError: a seed has not been run.
    """
    files = [folder / f"seed{seed}.csv" for seed in seeds]
    if missing := [f.name for f in files if not f.exists()]:
        raise FileNotFoundError(f"no {', '.join(missing)} in {folder}: run the notebook first")
    return pd.concat([read(f) for f in files], ignore_index=True)


def asked(rows: pd.DataFrame, config: Parameters) -> pd.Series:
    """Which rows the parameters' `points` ask for, with dense, the floors and the choice of lambda."""
    wanted = rows.phase == "lambda_search"
    for phase, (methods, sparsities) in config.points.items():
        pruned = rows.method.isin(methods) & rows.sparsity_target.isin(sparsities)
        wanted |= (rows.phase == phase) & (pruned | (rows.score == ""))  # dense and the floors have no score
    return wanted & (rows.experiment == config.experiment)


def read(path: Path) -> pd.DataFrame:
    """Rows of a file: an empty cell is "" in a text column and NaN in a number column."""
    rows = pd.read_csv(path, keep_default_na=False, dtype=dict.fromkeys(TEXT, str))
    for column in set(COLUMNS) - set(TEXT):
        rows[column] = pd.to_numeric(rows[column])
    return rows


def export(rows: pd.DataFrame, experiments: Collection[str], config: Parameters) -> Path:
    """Writes an ablation's rows to figures/PROFILE/results.csv, replacing those of the same experiments, and its
    parameters beside them.
    """
    folder = paths.figures(config.profile)
    parameters = json.dumps(config.values(), indent=1) + "\n"
    paths.write_atomically(folder / f"{config.experiment}.parameters.json", parameters)
    path = folder / "results.csv"
    if path.exists():
        before = read(path)
        rows = pd.concat([before[~before.experiment.isin(experiments)], rows], ignore_index=True)
    paths.write_atomically(path, rows[COLUMNS].sort_values("experiment", kind="stable").to_csv(index=False))
    return path


def export_table(table: pd.DataFrame, profile: str, name: str) -> Path:
    """Writes a summary to figures/PROFILE/NAME.csv."""
    path = paths.figures(profile) / f"{name}.csv"
    paths.write_atomically(path, table.to_csv(index=False))
    return path
