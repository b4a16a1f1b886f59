"""Tidy rows of measured numbers: written atomically as they come, skipped when already there.

A run is one (experiment, settings, seed). Its rows live in results/PROFILE/EXPERIMENT-SETTINGS/seedK.csv, so that
runs with the same settings lie side by side and other settings never mix with them.
"""

import json
import os
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ovit_core import config as configs
from ovit_core import models
from ovit_core.config import ROOT, Config

COLUMNS = """experiment profile model upstream dataset method score update allocation pattern phase sparsity_target
sparsity sparsity_model block_size damp gradients gradient_batch recomputations lr C scope scope_name seed metric value
n_test seconds device commit versions run_id""".split()
# Everything a study writes lies in the repository, or in OVIT_STUDY_DIR (a scratch disk, a test's folder).
HOME = Path(os.environ.get("OVIT_STUDY_DIR", ROOT)).resolve()
RESULTS, CACHE, FIGURES, RUNS = HOME / "results", HOME / "cache", HOME / "figures", HOME / "runs"
TEXT = """experiment profile model upstream dataset method score update allocation pattern phase scope scope_name metric
device commit versions run_id""".split()


def commit() -> str:
    """The repository's commit, with "+" if files differ from it; "unknown" outside git."""
    git = lambda *words: subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    head = git("rev-parse", "--short=10", "HEAD")
    if head.returncode:
        return "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "ovit_core", "notebooks").stdout.strip()
    return head.stdout.strip() + ("+" if changed else "")


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's with its thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        names = [
            l.partition(":")[2].strip()
            for l in Path("/proc/cpuinfo").read_text().splitlines()
            if l.startswith("model name")
        ]
    except OSError:
        names = []
    return f"{names[0] if names else 'cpu'}, {torch.get_num_threads()} threads"


def versions() -> str:
    return " ".join(f"{p}={version(p)}" for p in ("torch", "timm", "numba", "scikit-learn"))


def write_atomically(path: Path, text: str) -> None:
    """A reader, or a second start after a kill, sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + f".{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


class Run:
    """One seed of an experiment: add rows, ask what is done.

    Args:
        config: the experiment's parameters. Seeds, profile name, and which methods and sparsities are asked for
            do not make other settings: they only say which rows there should be.
        seed: which seed.
        fingerprints: of the data used.
        source: hash of the code on which the numbers depend.
    """

    def __init__(self, config: Config, seed: int, fingerprints: list[str], source: str):
        settings = {k: v for k, v in asdict(config).items() if k not in ("profile", "seeds", "data_dir", *configs.GRID)}
        self.seed = seed
        self.settings_id = configs.digest(settings, sorted(fingerprints), source)
        self.folder = RESULTS / config.profile / f"{config.experiment}-{self.settings_id}"
        self.path = self.folder / f"seed{seed}.csv"
        self.common = dict(
            experiment=config.experiment, profile=config.profile, model=config.model, upstream=config.upstream,
            block_size=config.block_size, gradients=config.gradients, gradient_batch=config.gradient_batch,
            recomputations=0, allocation="global", pattern="unstructured", scope="all", scope_name="", seed=seed,
            device=device_name(models.pick_device(config.device)), commit=commit(), versions=versions(), run_id=configs.digest(self.settings_id, seed),
        )  # fmt: skip
        self.rows = read(self.path).to_dict("records") if self.path.exists() else []
        self.clock = time.perf_counter()
        write_atomically(self.folder / "settings.json", json.dumps(settings, indent=1))

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
            key = "-".join(
                str(full[k]) for k in ("phase", "dataset", "method", "sparsity_target", "allocation", "pattern")
            )
            folder = self.folder / f"correct-seed{full['seed']}"
            folder.mkdir(exist_ok=True)
            np.save(folder / f"{key.replace(':', '_')}.npy", np.packbits(correct))
        self.rows.append(full)
        if write:
            self.write()

    def write(self) -> None:
        """Writes the run's file."""
        write_atomically(self.path, pd.DataFrame(self.rows, columns=COLUMNS).to_csv(index=False))


def load(folder: Path, config: Config) -> pd.DataFrame:
    """The rows a config asks for, its seeds together, of the runs in `folder` (which may hold more).

    Raises:
        FileNotFoundError: a seed has not been run.
    """
    files = [folder / f"seed{seed}.csv" for seed in config.seeds]
    if missing := [f.name for f in files if not f.exists()]:
        raise FileNotFoundError(f"no {', '.join(missing)} in {folder}: run the notebook first")
    rows = pd.concat([read(f) for f in files], ignore_index=True)
    asked = rows.phase == "lambda_search"
    for phase, (methods, sparsities) in config.points.items():
        pruned = rows.method.isin(methods) & rows.sparsity_target.isin(sparsities)
        asked |= (rows.phase == phase) & (pruned | (rows.score == ""))  # dense and the floors have no score
    asked &= rows.experiment == config.experiment
    if hasattr(config, "regimes"):
        regime = pd.Series(list(zip(rows.allocation, rows.pattern)), index=rows.index)
        asked &= regime.isin(config.regime_pairs) | (rows.phase != "one_shot") | (rows.score == "")
        sweep = (rows.experiment == "sensitivity") & (rows.sparsity_target == config.sensitivity_sparsity)
        for column, values in config.sweeps.items():
            asked |= sweep & (rows.scope_name == column) & rows[column].isin(values)
    return rows[asked].reset_index(drop=True)


def read(path: Path) -> pd.DataFrame:
    """Rows of a file: an empty cell is "" in a text column and NaN in a number column."""
    rows = pd.read_csv(path, keep_default_na=False, dtype=dict.fromkeys(TEXT, str))
    for column in set(COLUMNS) - set(TEXT):
        rows[column] = pd.to_numeric(rows[column])
    return rows


def export(rows: pd.DataFrame, config: Config) -> Path:
    """Writes a profile's rows to figures/PROFILE/results.csv, replacing those of the same notebook, and its parameters
    beside them.
    """
    folder = FIGURES / config.profile
    write_atomically(folder / f"{config.experiment}.parameters.json", json.dumps(asdict(config), indent=1) + "\n")
    path = folder / "results.csv"
    if path.exists():
        before = read(path)
        notebook = before.experiment.replace("sensitivity", "no_weight_update")  # one notebook writes both
        rows = pd.concat([before[~notebook.isin(rows.experiment.unique())], rows], ignore_index=True)
    write_atomically(path, rows[COLUMNS].sort_values("experiment", kind="stable").to_csv(index=False))
    return path


def export_table(table: pd.DataFrame, profile: str, name: str) -> Path:
    """Writes a summary to figures/PROFILE/NAME.csv."""
    path = FIGURES / profile / f"{name}.csv"
    write_atomically(path, table.to_csv(index=False))
    return path
