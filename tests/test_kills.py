"""Whatever ends a study, it goes on to the same rows: kills in every phase, two at once, Ctrl-C, SIGTERM, other engines."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import TINY as MODEL
from PIL import Image

from ovit_core.study.paths import ROOT
from ovit_core.study.tasks import COLUMNS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = [
    "profile=tiny", "upstream=digits", "epochs=5", "batch_size=32", f"model_args={MODEL}", "seeds=[0, 1]",
    "dense_per_seed=true", "gradients=8", "damps=[1.0e-5, 1.0e-4]", "sparsities=[0.5, 0.9]", "recovery_images=200",
    "recovery_epochs=[2]", "recovery_lrs=[5.0e-4, 1.0e-3]", "recovery_search_epochs=1", "gradual_steps=[0.6, 0.9]",
    "recovery_methods=[ovit, magnitude]", "damp_checks=[]", "regimes=[global]",
    "sensitivity_block_sizes=[12]", "sensitivity_damps=[]", "datasets=[digits]", "transfer_sparsities=[0.9]",
    "full_steps=8", "scratch_steps=8", "full_lrs=[1.0e-3, 3.0e-3]", "probe_Cs=[0.1, 1.0]", "workers=2",
]  # fmt: skip
ASIDE = ["seconds", "device", "commit"]  # what may differ between two runs


class Study:
    """A study as a process, in a group of its own, writing into a folder."""

    def __init__(self, folder, *more):
        self.folder, self.family = folder, set()
        words = ["quick", *(word for setting in [*SETTINGS, *more] for word in ("--set", setting))]
        environment = os.environ | {"OVIT_STUDY_DIR": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "ovit_core.study", *words]
        self.process = subprocess.Popen(
            command, stdout=-1, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT, start_new_session=True
        )

    def until(self, condition):
        """Waits for something in the folder; False if the study ended before."""
        while not condition():
            if self.process.poll() is not None:
                return False
            time.sleep(0.005)
        self.family = set(psutil.Process(self.process.pid).children(recursive=True))
        return True

    def finished(self):
        """What it said, once it has ended well."""
        said, _ = self.process.communicate()
        assert self.process.returncode == 0, said
        return said

    def measured(self):
        """Its rows, once there is nothing left to measure: pages are other tests'."""
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("measured in"):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL and not any("failed" in line for line in said), "".join(said)
        return rows(self.folder)

    def nobody_left(self):
        _, alive = psutil.wait_procs(self.family, timeout=10)
        return not alive

    def stored(self):
        return stored(self.folder)


def stored(folder):
    """The rows that a study has written so far, in the order in which it did."""
    path = folder / "results" / "tiny.sqlite"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=30)) as db:
        try:
            return db.execute("SELECT * FROM rows ORDER BY id").fetchall()
        except sqlite3.OperationalError:  # the table is not there yet
            return []


def rows(folder):
    """What is to be the same however it was measured, in one order."""
    found = pd.DataFrame([row[1:] for row in stored(folder)], columns=COLUMNS).drop(columns=ASIDE)
    return found.sort_values(list(found), key=lambda column: column.astype(str), ignore_index=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The rows of a study that nobody disturbs, by one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return Study(folder, "workers=1").measured()


def test_killed_at_twelve_points_of_all_phases_it_ends_with_the_same_rows(tmp_path, undisturbed):
    draw = random.Random(time.time_ns())  # other moments every time; what it finds, it finds by the rows
    count, cache = lambda n: lambda: len(stored(tmp_path)) >= n, tmp_path / "cache"
    there = lambda folder, pattern: lambda: any(folder.glob(pattern))
    ends = sorted(draw.sample(range(5, 140), 4))
    points = [
        there(tmp_path, "results/tiny.sqlite"), there(cache, "dense-*.resume.pt"), there(cache, "dense-*.safetensors"),
        count(1), there(cache, "resume-*.pt"), there(cache, "recovered-*.safetensors"), *map(count, ends),
        there(tmp_path, "runs/tiny/*.ipynb"), there(tmp_path, "runs/tiny/*.csv"),
    ]  # fmt: skip
    reached = 0
    for point in points:
        study = Study(tmp_path)
        reached += study.until(point)
        time.sleep(draw.random() / 4)
        before = study.stored()
        if draw.random() < 0.5:
            os.killpg(study.process.pid, signal.SIGKILL)
        else:
            study.process.kill()  # its workers must notice
        study.process.communicate()
        assert study.nobody_left()
        assert study.stored()[: len(before)] == before  # what was measured stays as it is
    assert reached >= 11  # the last ones may have been passed by a run that was quick
    before = stored(tmp_path)
    Study(tmp_path).finished()
    assert stored(tmp_path)[: len(before)] == before
    pd.testing.assert_frame_equal(rows(tmp_path), undisturbed)
    left = [p.name for p in tmp_path.rglob("*") if p.name.endswith(".partial") or "resume" in p.name]
    assert not left


def test_two_studies_of_one_profile_at_once_lose_and_double_nothing(tmp_path, undisturbed):
    """With dense training running, with different methods, and both export at the end."""
    few = "methods=[magnitude, obert]"
    one, other = Study(tmp_path), Study(tmp_path, few, "recovery_methods=[magnitude]", "gradual_methods=[]")
    for study in (one, other):
        study.finished()
    before = stored(tmp_path)
    models = list((tmp_path / "cache").glob("dense-*.safetensors"))
    assert len(models) == 3  # of two seeds, and one of half the epochs
    found = Study(tmp_path).measured()
    assert stored(tmp_path) == before  # all was there
    asked = undisturbed.merge(found)  # the other study's rows are its own
    pd.testing.assert_frame_equal(asked, undisturbed)


@pytest.mark.parametrize("rendering", [False, True], ids=["measuring", "rendering"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_ends_all_and_says_how_to_go_on(tmp_path, number, rendering):
    study = Study(tmp_path, "methods=[ovit]", "recovery_methods=[]", "gradual_methods=[]", "sensitivity_block_sizes=[]")
    assert study.until(lambda: has_kernel(study) if rendering else len(stored(tmp_path)) >= 5)
    study.process.send_signal(number)
    if number == signal.SIGINT:  # as a terminal does: to all of the group
        for process in study.family:
            if os.getpgid(process.pid) == study.process.pid:
                process.send_signal(number)
    said, _ = study.process.communicate(timeout=60)
    assert study.process.returncode == 128 + number and study.nobody_left()
    assert "Traceback" not in said and "all that was measured is kept; `python -m ovit_core.study quick" in said
    lines = [line for line in said.splitlines() if line.strip() and not re.match(r"\d{4}-\d\d-\d\d \d\d:", line)]
    assert len(lines) <= 6 and "resource_tracker" not in said, said


def has_kernel(study):
    for process in psutil.Process(study.process.pid).children(recursive=True):
        with suppress(psutil.Error):
            if "ipykernel" in " ".join(process.cmdline()):
                return True
    return False


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_a_cluster_gives_the_rows_of_one_process(tmp_path, undisturbed, engine):
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[engine])
    pd.testing.assert_frame_equal(Study(tmp_path, f"engine={engine}").measured(), undisturbed)


def test_a_worker_that_is_killed_costs_nothing_but_time(tmp_path, undisturbed):
    """As by the system when memory runs out: the others' work goes on, its own is tried again."""
    study = Study(tmp_path)
    assert study.until(lambda: len(stored(tmp_path)) >= 20)
    loky = [process for process in study.family if "popen_loky" in " ".join(process.cmdline())]
    random.choice(loky).kill()
    pd.testing.assert_frame_equal(study.measured(), undisturbed)


def test_images_opened_one_by_one_are_the_same_whoever_opens_them(tmp_path):
    """By helpers of one process, by workers that have none, by a cluster's that may have none; augmented in training."""
    pytest.importorskip("distributed")
    g = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for c in "ab":
            (folder := tmp_path / "data" / "mine" / part / c).mkdir(parents=True)
            for i in range(count):
                pixels = g.random((80, 80, 3)) * (255 if c == "a" else 120)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    more = [
        "upstream=folder:mine", f"data_dir={tmp_path / 'data'}", f"model_args={MODEL | dict(img_size=80)}", "batch_size=8",
        "seeds=[0]", "gradients=4", "gradient_batch=4", "methods=[ovit]", "recovery_methods=[ovit]", "gradual_methods=[]",
        "recovery_images=16", "sensitivity_block_sizes=[]", "datasets=['folder:mine']", "transfer_methods=[ovit]",
        "full_batch_size=8", "full_datasets=['folder:mine']", "full_methods=[ovit]", "full_steps=8", "scratch_steps=8",
    ]  # fmt: skip
    one, *others = (Study(tmp_path / how, *more, how).measured() for how in ("workers=1", "workers=2", "engine=dask"))
    for other in others:
        pd.testing.assert_frame_equal(other, one)
