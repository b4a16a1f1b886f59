"""Tidy rows of measured numbers: written atomically as they come, skipped when already there.

A run is one (experiment, settings, seed). Its rows live in results/PROFILE/EXPERIMENT-SETTINGS/seedK.csv, so that
runs with the same settings lie side by side and other settings never mix with them.
"""

import json
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ovit_core.study import paths, provenance
from ovit_core.study.parameters import Parameters

COLUMNS = """experiment profile model upstream dataset method score update allocation pattern phase sparsity_target
sparsity sparsity_model block_size damp gradients gradient_batch recomputations lr C scope scope_name seed metric value
n_test seconds device commit versions run_id""".split()
NUMBERS = """sparsity_target sparsity sparsity_model block_size damp gradients gradient_batch recomputations lr C seed
value n_test seconds""".split()


class Run:
    """One seed of an experiment: add rows, ask what is done.

    Settings are those of the parameters on which numbers depend, the data's fingerprints and the hash of the code.
    """

    def __init__(self, config: Parameters, seed: int, fingerprints: Iterable[str], code: str):
        settings = config.settings()
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

    def add(self, value: float, write: bool = True, **row: Any) -> None:
        """Appends one row and writes the run's file, which `write=False` leaves to the next row, where many come at
        once. `seconds` is the time since the last row. KeyError: a column is not in COLUMNS.
        """
        if odd := row.keys() - set(COLUMNS):
            raise KeyError(f"no such column: {', '.join(sorted(odd))}")
        now = time.perf_counter()
        fixed = dict(value=float(value), seconds=round(now - self.clock, 3))
        self.rows.append(dict.fromkeys(COLUMNS, "") | self.common | row | fixed)
        self.clock = now
        if write:
            self.write()

    def write(self) -> None:
        """Writes the run's file."""
        paths.write_atomically(self.path, pd.DataFrame(self.rows, columns=COLUMNS).to_csv(index=False))


def load(folder: Path, seeds: Collection[int]) -> pd.DataFrame:
    """All rows of some seeds together, of the runs in `folder` (which may hold more)."""
    return pd.concat([read(folder / f"seed{seed}.csv") for seed in seeds], ignore_index=True)


def asked(rows: pd.DataFrame, config: Parameters) -> pd.Series:
    """Which rows the parameters' `points` ask for, with dense, the floors and the choice of lambda."""
    wanted = rows.phase == "lambda_search"
    for phase, (methods, sparsities) in config.points.items():
        pruned = rows.method.isin(methods) & rows.sparsity_target.isin(sparsities)
        wanted |= (rows.phase == phase) & (pruned | (rows.score == ""))  # dense and the floors have no score
    return wanted & (rows.experiment == config.experiment)


def read(path: Path) -> pd.DataFrame:
    """Rows of a file: an empty cell is "" in a text column and NaN in a number column."""
    text = dict.fromkeys(set(COLUMNS) - set(NUMBERS), str)
    return pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys(NUMBERS, ""), dtype=text)


def export(rows: pd.DataFrame, experiments: Collection[str], config: Parameters) -> None:
    """Writes an ablation's rows to figures/PROFILE/results.csv, replacing those of the same experiments, and its
    parameters beside them.
    """
    folder = paths.figures(config.profile)
    parameters = json.dumps(config.values(), indent=1) + "\n"
    paths.write_atomically(folder / f"{config.experiment}.parameters.json", parameters)
    if (folder / "results.csv").exists():
        others = read(folder / "results.csv")
        rows = pd.concat([others[~others.experiment.isin(experiments)], rows])
    export_table(rows[COLUMNS].sort_values("experiment", kind="stable"), config.profile, "results")


def export_table(table: pd.DataFrame, profile: str, name: str) -> None:
    """Writes figures/PROFILE/NAME.csv."""
    paths.write_atomically(paths.figures(profile) / f"{name}.csv", table.to_csv(index=False))
