"""The road from images to figures: each notebook by papermill on tiny parameters, resuming, and refusals."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time

import nbformat
import pandas as pd
import papermill
import pytest
import yaml
from jupyter_client.manager import start_new_kernel
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from ovit_core import plots
from ovit_core.config import EXPERIMENTS, NoWeightUpdate, Transfer, from_parameters
from ovit_core.pruning import METHODS
from ovit_core.results import COLUMNS
from ovit_core.study import NOTEBOOKS, PROFILES, main, read_profile

TINY = [
    "profile=tiny", "upstream=digits", "epochs=2", "model_args={img_size: 32, patch_size: 16, embed_dim: 24, depth: 2, num_heads: 2}",
    "seeds=[0, 1]", "gradients=8", "damps=[1.0e-5, 1.0e-4]", "sparsities=[0.5, 0.8, 0.9]", "recovery_images=200",
    "gradual_images=200", "sensitivity_block_sizes=[12, 24]", "sensitivity_damps=[1.0e-5]",
    "datasets=[digits]", "transfer_sparsities=[0.5, 0.9]", "full_steps=4", "probe_Cs=[0.1]",
]  # fmt: skip


def study(folder, *words, settings=TINY):
    """`python -m ovit_core.study quick` with tiny settings, writing into `folder`."""
    words = [sys.executable, "-m", "ovit_core.study", "quick", *words, *(x for s in settings for x in ("--set", s))]
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OVIT_STUDY_DIR": str(folder)})


@pytest.fixture(scope="module", params=list(EXPERIMENTS.values()))
def ran(request, tmp_path_factory):
    """Each notebook run once: its name, its folder and what the command printed."""
    folder = tmp_path_factory.mktemp(request.param)
    done = study(folder, "--only", request.param)
    assert done.returncode == 0, done.stderr
    return request.param, folder, done


def test_a_run_leaves_rows_figures_and_a_page(ran):
    name, folder, done = ran
    rows = pd.read_csv(folder / "figures" / "tiny" / "results.csv")
    assert list(rows.columns) == COLUMNS and set(rows.seed) == {0, 1}
    phases = {
        "no_weight_update": {"one_shot", "recovered", "gradual", "lambda_search"},
        "transfer": {"linear", "full", "one_shot", "lambda_search"},
    }
    assert set(rows.phase) == phases[name]
    pruned = rows[
        (rows.metric != "validation_top1") & (rows.scope == "all") & rows.score.notna() & rows.sparsity.notna()
    ]
    total = 13824
    assert ((pruned.sparsity * total).round() == (pruned.sparsity_target * total).round()).all()  # after training too
    assert rows[rows.metric.isin(("top1", "mean_per_class", "sparsity"))].value.between(0, 1).all()
    figures = {
        "no_weight_update": [
            "no_weight_update", "no_weight_update_gain", "attribution", "regimes", "gradual", "attribution_trained",
            "sensitivity", "layers", "prediction",
        ],
        "transfer": [
            "transfer_linear", "transfer_full", "transfer_errors", "transfer_upstream", "transfer_classes_linear",
            "transfer_classes_full",
        ],
    }[name]  # fmt: skip
    for figure in figures:
        for suffix in ("png", "svg", "json"):
            assert (folder / "figures" / "tiny" / f"{figure}.{suffix}").stat().st_size > 100
    assert {"command", "commit", "device", "seeds"} <= json.loads(
        (folder / "figures" / "tiny" / f"{figure}.json").read_text()
    ).keys()
    assert f"figures/tiny/{figure}.png" in done.stdout and "figures/tiny/results.csv" in done.stdout
    page = nbformat.read(folder / "runs" / "tiny" / f"{name}.ipynb", as_version=4)
    outputs = [o for c in page.cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == len(figures)


def test_a_report_is_drawn_from_the_results_alone(ran, browser):
    name, folder, _ = ran
    done = subprocess.run(
        [sys.executable, "-m", "ovit_core.study", "report", "tiny"],
        capture_output=True, text=True, env=os.environ | {"OVIT_STUDY_DIR": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (folder / "runs" / "tiny" / "report.html").read_text()
    there = len(list((folder / "figures" / "tiny").glob("*.png")))
    assert page.count('src="data:image/png;base64,') == there > 4
    assert page.count("Not run in this profile") == 2  # the other ablation's answer and tables
    assert not re.search(r'(src|href)="(https?:)?//', page) and "<script" not in page and "Traceback" not in page
    view, said, asked = browser.new_page(), [], []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.context.set_offline(True)
    view.goto((folder / "runs" / "tiny" / "report.html").as_uri())
    assert view.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert said == [] and all(url.startswith(("file:", "data:")) for url in asked)  # nothing from elsewhere
    view.close()
    prints = list((folder / "figures" / "tiny" / "print").glob("*.pdf"))
    assert len(prints) == there and all(b"FontFile2" in f.read_bytes() for f in prints)  # fonts embedded


def test_a_report_without_results_says_which_command_makes_them(capsys):
    assert main(["report", "nowhere"]) == 2
    assert "run `python -m ovit_core.study nowhere` first" in capsys.readouterr().err


def test_the_same_command_again_computes_nothing(ran):
    name, folder, _ = ran
    files = sorted((folder / "results").rglob("seed*.csv"))
    before = [f.read_text() for f in files]
    files[0].write_text("\n".join(before[0].splitlines()[:-3]) + "\n")  # as if cut off three rows early
    assert study(folder, "--only", name).returncode == 0
    numbers = lambda text: pd.read_csv(pd.io.common.StringIO(text)).drop(columns=["seconds", "device", "commit"])
    for file, text in zip(files, before):
        key = "experiment phase method sparsity_target pattern metric scope_name damp dataset block_size".split()
        a, b = (numbers(t).sort_values(key).reset_index(drop=True) for t in (file.read_text(), text))
        pd.testing.assert_frame_equal(a, b)
    assert files[1].read_text() == before[1]


@pytest.mark.parametrize(
    "setting, message",
    [
        ("upstream=glyph_leters", "unknown dataset 'glyph_leters'; did you mean 'glyph_letters'?"),
        ("methods=[ovit, obs]", "unknown method 'obs'; one of ovit"),
        ("model=vit_tiny_patch16_225", "timm has no model 'vit_tiny_patch16_225'; did you mean vit_tiny_patch16_224"),
        ("sparsities=[0.5, 1.5]", "sparsity must lie in [0, 1], not 1.5"),
        ("seeds=[]", "parameter seeds must be"),
        ("sparsities=0.5", "parameter sparsities must be a list"),
        ("sparsities=[0.0, 0.5]", "parameter sparsity must be above 0 and below 1"),
        ("block_size=2", "parameter block_size must be at least 4"),
        ("epochs=six", "parameter epochs must be a int"),
        ("sparsity=0.5", "profile quick has no such parameter"),
        ("protocols=[linnear]", "parameter protocols must be among linear, full"),
        ("upstream=folder:nowhere", "folder:nowhere needs the folders"),
        ("datasets=[digits, cub200]", "cub200 is not in"),
        ("transfer_methods=[]", "parameter transfer_methods must be at least one"),
        ("device=cudda", "parameter device must be"),
        ("recovery_lr=-1.0", "parameter recovery_lr must be positive"),
        ("checkpoint=nowhere.pt", "parameter checkpoint must be an existing file"),
    ],
)
def test_bad_input_is_one_line_within_seconds(capsys, setting, message):
    start = time.monotonic()
    assert main(["quick", "--set", setting]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert time.monotonic() - start < 5


def test_an_unknown_profile_lists_those_there_are(capsys):
    assert main(["quik"]) == 2
    assert "there are fashion, imagenet, quick" in capsys.readouterr().err


def test_a_pattern_that_matches_nothing_stops_before_training(tmp_path):
    done = study(tmp_path, "--only", "transfer", settings=[*TINY, "prunable=nothing"])
    assert done.returncode == 1 and "no weight matches 'nothing'" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_interrupting_a_cell_leaves_the_kernel_usable_and_the_rows_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    short = ["methods=[ovit, magnitude]", "recovery_methods=[]", "gradual_methods=[]", "sensitivity_block_sizes=[]"]
    short += ["sensitivity_gradients=[]", "sensitivity_batches=[]", "sensitivity_damps=[]"]
    given = {name: yaml.safe_load(value) for name, _, value in (setting.partition("=") for setting in TINY + short)}
    page = load_notebook_node(str(NOTEBOOKS / "no_weight_update.ipynb"))
    page = parameterize_notebook(page, read_profile("quick", []) | given, kernel_name="python3")
    sources = [c.source for c in page.cells if c.cell_type == "code"]
    run = next(i for i, source in enumerate(sources) if ".run(config)" in source)
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        for source in sources[:run]:
            assert client.execute(source, reply=True)["content"]["status"] == "ok"
        asked = client.execute(sources[run])
        while not (files := list(tmp_path.rglob("seed0.csv"))) or len(pd.read_csv(files[0])) < 10:
            assert manager.is_alive()
            time.sleep(0.02)
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != asked:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        before = pd.read_csv(files[0])
        assert list(before.columns) == COLUMNS and before.value.notna().all()
        assert client.execute("assert config.profile == 'tiny'", reply=True)["content"]["status"] == "ok"
        assert client.execute(sources[run], reply=True)["content"]["status"] == "ok"
        after = pd.read_csv(files[0])
        pd.testing.assert_frame_equal(after[: len(before)], before, check_dtype=False)
        assert len(after) > len(before) and list(tmp_path.rglob("seed1.csv"))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_smaller_request_reads_the_same_rows(ran):
    name, folder, _ = ran
    files = {f: f.read_text() for f in (folder / "results").rglob("seed*.csv")}
    fewer = ["methods=[ovit]", "transfer_methods=[ovit]", "seeds=[0, 1]", "recovery_sparsities=[0.9]"]
    fewer += ["recovery_methods=[ovit]", "gradual_methods=[]", "regimes=[global]", "sensitivity_damps=[]"]
    fewer += ["sensitivity_block_sizes=[]"]
    assert study(folder, "--only", name, settings=[*TINY, *fewer]).returncode == 0
    assert files == {f: f.read_text() for f in (folder / "results").rglob("seed*.csv")}
    rows = pd.read_csv(folder / "figures" / "tiny" / "results.csv")
    assert set(rows[rows.score.notna() & (rows.phase != "lambda_search")].method) == {"ovit"}


def test_papermill_refuses_an_unknown_parameter_and_converts_strings(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    source, out = str(NOTEBOOKS / "transfer.ipynb"), str(tmp_path / "out.ipynb")
    with pytest.raises(
        papermill.PapermillExecutionError, match="unknown parameter 'dataset'; did you mean 'datasets'?"
    ):
        papermill.execute_notebook(
            source, out, parameters=dict(dataset="digits"), kernel_name="python3", progress_bar=False
        )
    quick = read_profile("quick", [])
    assert from_parameters(Transfer, quick | dict(lr="1e-3")).lr == 1e-3  # PyYAML reads 1e-3 as a string


def test_a_failure_on_the_way_is_one_line_and_keeps_rows(ran):
    name, folder, _ = ran
    before = {f: f.read_text() for f in (folder / "results").rglob("seed*.csv")}
    (folder / "fashion-mnist").mkdir(exist_ok=True)
    for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / "fashion-mnist" / f"{file}-ubyte.gz").write_bytes(b"no archive")
    done = study(folder, "--only", name, settings=[*TINY, "upstream=fashion_mnist", f"data_dir={folder}"])
    assert done.returncode == 1 and "cannot read" in done.stderr and "train-images-idx3-ubyte" in done.stderr
    assert "Traceback" not in done.stderr and "the same command continues" in done.stderr
    assert before == {f: f.read_text() for f in before}


@pytest.mark.parametrize("kind, name", EXPERIMENTS.items())
def test_notebooks_declare_what_the_config_has_and_the_quick_profile_says(kind, name):
    path = NOTEBOOKS / f"{name}.ipynb"
    declared = papermill.inspect_notebook(str(path))
    fields = [f.name for f in dataclasses.fields(kind)]
    assert list(declared) == fields
    quick = yaml.safe_load((PROFILES / "quick.yaml").read_text())
    for field in fields:
        assert declared[field]["help"] and declared[field]["inferred_type_name"] != "None"
        assert eval(declared[field]["default"]) == quick[field], field
    page = nbformat.read(path, as_version=4)
    assert [("parameters" in c.metadata.get("tags", [])) for c in page.cells].count(True) == 1
    assert not any(c.get("outputs") or c.get("execution_count") for c in page.cells)  # sources stay stripped


@pytest.mark.parametrize("profile", sorted(p.stem for p in PROFILES.glob("*.yaml")))
def test_profiles_are_valid_and_state_cost_and_expectation(profile, tmp_path):
    parameters = read_profile(profile, [])
    for folder in ("imagenet/train", "imagenet/val", "stanford_cars", "CUB_200_2011"):
        (tmp_path / folder).mkdir(parents=True)
    known = {f.name for kind in EXPERIMENTS for f in dataclasses.fields(kind)}
    assert parameters.keys() == known
    assert parameters["profile"] == profile
    for kind in (NoWeightUpdate, Transfer):
        assert len(from_parameters(kind, parameters | dict(data_dir=str(tmp_path))).seeds) >= 3
    comment = re.match(r"(#.*\n)+", (PROFILES / f"{profile}.yaml").read_text()).group()
    assert "Cost:" in comment and "Expect:" in comment


def test_every_method_has_its_colour():
    assert set(plots.STYLE) == set(METHODS)


def test_benchmark_runs_and_both_forms_agree(tmp_path):
    command = ["-m", "ovit_core.benchmark", "--d", "4096", "--m", "32", "--sizes", "16", "32", "--device", "cpu"]
    environment = os.environ | {"OVIT_STUDY_DIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, *command], check=True, env=environment, cwd=NOTEBOOKS.parent, stdout=subprocess.DEVNULL
    )
    rows = pd.read_csv(tmp_path / "figures/benchmark/side_by_side.csv")
    assert (rows.largest_difference.dropna() < 1e-3).all() and (rows.same_order.dropna() > 0.9).all()
    assert (tmp_path / "figures/benchmark/scaling.png").exists()
