"""A clone stays clean: whatever runs in it, git has nothing to say; and nothing is said that is nobody's business."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import TINY as MODEL

from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.study.paths import ROOT

SETTINGS = [
    "profile=tiny", "upstream=digits", "epochs=1", f"model_args={MODEL}", "seeds=[0, 1]", "gradients=8", "workers=2",
    "methods=[ovit, magnitude]", "sparsities=[0.9]", "regimes=[global]", "recovery_methods=[]", "gradual_methods=[]",
    "sensitivity_damps=[]", "sensitivity_draws=[]", "sensitivity_block_sizes=[]", "sensitivity_gradients=[]",
    "sensitivity_batches=[]", "compute_passes=[]", "damp_checks=[]", "damps=[1.0e-5]", "datasets=[digits]",
    "protocols=[linear]", "transfer_methods=[ovit]", "transfer_sparsities=[0.9]", "few_shots=[]", "probe_Cs=[0.1]",
]  # fmt: skip
TIMED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \d+/\d+, about .* left; .*")


@pytest.fixture
def clone(tmp_path):
    """A repository of its own with the files of this one, as they are now; returns a function that runs words there."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if subprocess.run(listed, cwd=ROOT, capture_output=True).returncode:
        pytest.skip("no git repository")
    folder = tmp_path / "clone"
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OVIT_")}
    environment |= dict(PYTHONPATH=str(folder), COLUMNS="80")

    def run(*words, at="."):
        done = subprocess.run(words, cwd=folder / at, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    run(*git, "init", "-q")
    run(*git, "add", "-A")
    run(*git, "commit", "-qm", "all")
    run.folder = folder
    return run


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.notebook
def test_after_a_study_a_report_tests_and_the_explorer_git_has_nothing_to_say(clone):
    study = [sys.executable, "-m", "ovit_core.study"]
    done = clone(*study, "quick", *(word for setting in SETTINGS for word in ("--set", setting)))
    assert {"results.csv", "transfer.ipynb", "no_weight_update.png"} <= {
        file.name for file in (clone.folder / "runs" / "tiny").iterdir()
    }
    said = done.stderr.splitlines()
    assert [line for line in said if not TIMED.fullmatch(line)] == [] and "\r" not in done.stderr  # no warning either
    assert "notebook 1 of 2: no_weight_update\n" in done.stdout and "notebook 2 of 2: transfer\n" in done.stdout
    assert re.search(r" to measure on 2 processes of 1 thread \(local\), about .* \(.* to .*\)", done.stdout)
    done = clone(*study, "report", "tiny")
    assert done.stdout.startswith("Results: runs/tiny\n") and done.stderr == ""
    assert clone(*study, "lab", "--version").stdout[0].isdigit()  # it is JupyterLab that answers
    page = str(clone.folder / "lab" / "explore.ipynb")
    given = dict(upstream="digits", epochs=1, model_args=MODEL, gradients=8, images=100, sparsities=[0.5, 0.9])
    given |= dict(damps=[1e-5], methods=["ovit"], interactive=False)
    words = (word for name, value in given.items() for word in ("-y", f"{name}: {value}"))
    words = [sys.executable, "-m", "papermill", page, page, "-k", "python3", "--log-level", "ERROR", *words]
    clone(*words, at="lab")  # saved where it lies, and in the folder where JupyterLab starts a kernel
    clone(sys.executable, "-m", "pytest", "-q", "tests/test_packaging.py")
    assert clone("git", "status", "--porcelain").stdout == ""
    clone(*study, "publish", "tiny")
    assert clone("git", "status", "--porcelain").stdout == "?? figures/tiny/\n"
    mine = [setting for setting in SETTINGS if setting.partition("=")[0] in Transfer.model_fields]
    clone(*study, "quick", "--only", "transfer", *(word for setting in mine for word in ("--set", setting)))
    assert clone(*study, "report", "quick", "--markdown", "docs/results.md").stdout.startswith(
        "Results: figures/quick\n"
    )


@pytest.mark.notebook
@pytest.mark.parametrize("processes", [[], ["-n", "2"]])
def test_what_did_not_run_is_said_at_the_end(tmp_path, processes):
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text(
        "import pytest\n\n\n@pytest.mark.browser\ndef test_a(browser):\n    pass\n\n\n"
        "@pytest.mark.slow\n@pytest.mark.parametrize('n', [1, 2])\ndef test_b(n):\n    pass\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    browser: a\n    slow: b\n")
    words = [sys.executable, "-m", "pytest", *processes, "-p", "no:cacheprovider"]
    environment = os.environ | dict(PYTHONPATH=str(ROOT), PATH=str(tmp_path))  # where no browser is

    def told(*rest):
        return subprocess.run([*words, *rest], cwd=tmp_path, env=environment, capture_output=True, text=True).stdout

    said = told("-m", "not slow")
    assert "\n1 browser tests skipped, no Chromium here: apt-get install chromium" in said
    assert "\n2 slow tests left out: `make test-all` runs them too\n" in said
    quiet = told("-k", "none")
    assert "skipped, no Chromium" not in quiet and "tests left out" not in quiet
