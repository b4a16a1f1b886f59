"""The road from images to figures: each notebook on tiny parameters, its report, resuming, and failing on the way."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from subprocess import CompletedProcess
from unittest.mock import patch

import nbformat
import pandas as pd
import papermill
import pytest
import yaml
from conftest import TINY as MODEL
from conftest import WEIGHTS
from jupyter_client.manager import start_new_kernel
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from ovit_core.study import profiles, registry
from ovit_core.study.__main__ import main
from ovit_core.study.paths import NOTEBOOKS, ROOT
from ovit_core.study.store import Store
from ovit_core.study.tasks import COLUMNS, TESTED

pytestmark = pytest.mark.notebook
ABLATIONS = registry.ablations()
TINY = [
    "profile=tiny", "upstream=digits", "epochs=2", f"model_args={MODEL}", "seeds=[0, 1]", "gradients=8",
    "damps=[1.0e-5, 1.0e-4]", "regimes=[global, '2:4']", "sparsities=[0.5, 0.8, 0.9]", "recovery_images=200", "recovery_epochs=[1, 2]",
    "recovery_lrs=[5.0e-4, 1.0e-3]", "recovery_search_epochs=1", "gradual_lrs=[5.0e-4, 1.0e-3]", "damp_checks=[0.5]", "compute_passes=[2]",
    "sensitivity_block_sizes=[12, 24]", "sensitivity_damps=[1.0e-5]", "datasets=[digits]",
    "transfer_sparsities=[0.5, 0.9]", "source_epochs=1", "few_shots=[5]", "full_steps=4", "scratch_steps=4", "probe_Cs=[0.1]",
]  # fmt: skip


ASIDE = ["seconds", "device", "commit"]  # what may differ between two runs


def rows_of(folder):
    return pd.read_csv(folder / "runs" / "tiny" / "results.csv")


def stored(folder):
    """The rows of a profile as they were measured."""
    with patch.dict(os.environ, OVIT_STUDY_DIR=str(folder)):
        return Store("tiny").rows()


def command(name, settings):
    mine = (setting for setting in settings if setting.partition("=")[0] in ABLATIONS[name].parameters.model_fields)
    return ["quick", "--only", name, *(word for setting in mine for word in ("--set", setting))]


def study(folder, *words):
    """What `python -m ovit_core.study` does, in this process and writing into `folder`."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, OVIT_STUDY_DIR=str(folder)):
        status = main(list(words))
    return CompletedProcess(words, status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module", params=list(ABLATIONS))
def ran(request, tmp_path_factory):
    """Each notebook run once by the command: its name, its folder and what the command printed."""
    folder = tmp_path_factory.mktemp(request.param)
    words = [sys.executable, "-m", "ovit_core.study", *command(request.param, TINY)]
    environment = os.environ | {"OVIT_STUDY_DIR": str(folder)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return request.param, folder, done


@pytest.fixture(scope="module")
def reported(ran):
    """The folder of a run, the report of its results in it."""
    done = study(ran[1], "report", "tiny")
    assert done.returncode == 0, done.stderr
    return ran[1]


def test_a_run_leaves_rows_figures_and_a_page(ran):
    name, folder, done = ran
    rows = pd.read_csv(folder / "runs" / "tiny" / "results.csv")
    assert list(rows.columns) == COLUMNS and set(rows.seed) == {0, 1}
    phases = {
        "no_weight_update": {"gradual", "gradual_search", "dense_length"},
        "transfer": {"linear", "knn", "features", "full", "full_length", "lr_search"},
    }
    both = {"one_shot", "recovered", "lambda_search", "recovery_search"}
    assert set(rows.phase) == phases[name] | both and set(rows.threads) == {1}
    assert set(rows.experiment) <= set(ABLATIONS[name].experiments)
    pruned = rows[
        (rows.metric != "validation_top1") & (rows.scope == "all") & rows.score.notna() & rows.sparsity.notna()
    ]
    wanted = (pruned.sparsity_target * WEIGHTS).round()
    assert ((pruned.sparsity * WEIGHTS).round() == wanted).all()  # after training too
    assert rows[rows.metric.isin(("top1", "mean_per_class", "sparsity"))].value.between(0, 1).all()
    metrics = {
        "no_weight_update": {*TESTED, "correction_share", "sparsity", "mask_overlap"},
        "transfer": {*TESTED, "held_out_top1", "cka"},
    }
    assert set(rows.metric) == metrics[name] | {"validation_top1"}
    # Of sets that tell something: of so small a model none does.
    blank = {"transfer_errors", "transfer_effects", "transfer_sets"}
    there = {file.stem for file in (folder / "runs" / "tiny").glob("*.png")}
    chance = {"transfer_upstream", "transfer_similarity"} - there  # drawn where damage helps
    figures = [figure for figure in ABLATIONS[name].figures if figure not in blank | chance]
    assert not [figure for figure in blank if (folder / "runs" / "tiny" / f"{figure}.png").exists()]
    for figure in figures:
        for suffix in ("png", "svg", "json"):
            assert (folder / "runs" / "tiny" / f"{figure}.{suffix}").stat().st_size > 100
        origin = json.loads((folder / "runs" / "tiny" / f"{figure}.json").read_text())
        assert {"command", "commit", "device", "seeds"} <= origin.keys()
        assert f"runs/tiny/{figure}.png" in done.stdout
    assert "runs/tiny/results.csv" in done.stdout and len(figures) >= 2
    page = nbformat.read(folder / "runs" / "tiny" / f"{name}.ipynb", as_version=4)
    outputs = [o for c in page.cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == len(figures)


def test_a_report_is_drawn_from_the_results_alone(reported):
    page = (reported / "runs" / "tiny" / "report.html").read_text()
    there = len(list((reported / "runs" / "tiny").glob("*.png")))
    assert page.count('src="data:image/png;base64,') == there >= 2
    assert page.count("Not run in this profile") == 1  # the other ablation
    assert not re.search(r'(src|href)="(https?:)?//', page) and "<script" not in page and "Traceback" not in page
    prints = list((reported / "runs" / "tiny" / "print").glob("*.pdf"))
    assert len(prints) == there and all(b"FontFile2" in f.read_bytes() for f in prints)  # fonts embedded


@pytest.mark.browser
def test_a_report_opens_without_network(reported, browser):
    view, said, asked = browser.new_page(), [], []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.context.set_offline(True)
    view.goto((reported / "runs" / "tiny" / "report.html").as_uri())
    assert view.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert said == [] and all(url.startswith(("file:", "data:")) for url in asked)  # nothing from elsewhere
    view.close()


def test_the_same_command_again_computes_nothing(ran):
    name, folder, _ = ran
    before = rows_of(folder)
    with sqlite3.connect(folder / "results" / "tiny.sqlite") as db:  # as if cut off before the last measurement
        (first,) = db.execute("SELECT max(id) FROM rows WHERE seconds > 0").fetchone()  # a measurement is whole or not
        lost = db.execute("DELETE FROM rows WHERE id >= ?", (first,)).rowcount
    done = study(folder, *command(name, TINY))
    assert done.returncode == 0, done.stderr
    after = rows_of(folder)
    pd.testing.assert_frame_equal(after.drop(columns=ASIDE), before.drop(columns=ASIDE))
    assert (after.seconds == before.seconds).sum() >= len(before) - lost  # the others are those of before


def test_a_smaller_request_reads_the_same_rows(ran):
    name, folder, _ = ran
    before = stored(folder)
    fewer = ["methods=[ovit]", "transfer_methods=[ovit]", "full_methods=[ovit]", "recovery_sparsities=[0.9]"]
    fewer += ["recovery_epochs=[2]", "few_shots=[]", "protocols=[linear, full]", "seeds=[0, 1]"]
    fewer += ["recovery_methods=[ovit]", "gradual_methods=[]", "regimes=[global]", "sensitivity_damps=[]"]
    fewer += ["sensitivity_block_sizes=[]", "sensitivity_draws=[]", "compute_passes=[]", "damp_checks=[]"]
    assert study(folder, *command(name, [*TINY, *fewer])).returncode == 0
    assert stored(folder) == before
    rows = pd.read_csv(folder / "runs" / "tiny" / "results.csv")
    assert set(rows[rows.score.notna() & (rows.phase != "lambda_search")].method) == {"ovit"}


def test_a_failure_on_the_way_is_one_line_and_keeps_rows(ran):
    name, folder, _ = ran
    before = stored(folder)
    (folder / "fashion-mnist").mkdir(exist_ok=True)
    for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / "fashion-mnist" / f"{file}-ubyte.gz").write_bytes(b"no archive")
    done = study(folder, *command(name, [*TINY, "upstream=fashion_mnist", f"data_dir={folder}"]))
    assert done.returncode == 1 and "cannot read" in done.stderr and "train-images-idx3-ubyte" in done.stderr
    assert "Traceback" not in done.stderr and "the same command continues" in done.stderr
    assert before == stored(folder)


def test_interrupting_a_cell_leaves_the_kernel_usable_and_the_rows_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    short = ["methods=[ovit, magnitude]", "recovery_methods=[]", "gradual_methods=[]", "sensitivity_block_sizes=[]"]
    short += [
        "workers=1",
        "sensitivity_gradients=[]",
        "sensitivity_batches=[]",
        "sensitivity_damps=[]",
        "sensitivity_draws=[]",
        "compute_passes=[]",
        "seeds=[0, 1, 2, 3]",
    ]
    given = {name: yaml.safe_load(value) for name, _, value in (setting.partition("=") for setting in TINY + short)}
    page = load_notebook_node(str(NOTEBOOKS / "no_weight_update.ipynb"))
    page = parameterize_notebook(page, profiles.read_profile("quick", []) | given, kernel_name="python3")
    sources = [c.source for c in page.cells if c.cell_type == "code"]
    run = next(i for i, source in enumerate(sources) if "grid.run(" in source)
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        for source in sources[:run]:
            assert client.execute(source, reply=True)["content"]["status"] == "ok"
        asked = client.execute(sources[run])
        while not (tmp_path / "results" / "tiny.sqlite").exists() or len(stored(tmp_path)) < 10:
            assert manager.is_alive()
            time.sleep(0.02)
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != asked:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        before = stored(tmp_path)
        assert client.execute("assert config.profile == 'tiny'", reply=True)["content"]["status"] == "ok"
        assert client.execute(sources[run], reply=True)["content"]["status"] == "ok"
        after = stored(tmp_path)
        assert after[: len(before)] == before and len(after) > len(before)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_papermill_refuses_an_unknown_parameter(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    source, out = str(NOTEBOOKS / "transfer.ipynb"), str(tmp_path / "out.ipynb")
    wrong, message = dict(dataset="digits"), r"unknown parameter 'dataset'; did you mean 'datasets'\?"
    with pytest.raises(papermill.PapermillExecutionError, match=message) as said:
        papermill.execute_notebook(source, out, parameters=wrong, kernel_name="python3", progress_bar=False)
    assert len(str(said.value).strip().splitlines()) <= 12  # the cell, and a line
