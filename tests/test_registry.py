"""A third ablation is a folder: registered, run, drawn and in the report without touching another file."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.study import profiles, registry

TOY = {
    "__init__.py": """
from ovit_core.study.ablation import Ablation
from .parameters import Toy
ABLATION = Ablation("Ablation C: what does a coin bring?", __name__, Toy, prunes=False)
""",
    "parameters.py": """
from typing import ClassVar
from ovit_core.study.parameters import Count, Parameters

class Toy(Parameters):
    experiment: ClassVar[str] = "toy"
    throws: Count = 10

    @property
    def points(self):
        return dict(one_shot=(("random",), (0.5,)))
""",
    "tasks.py": """
from ovit_core.study.tasks import task

def throws(config, seed, world, found):
    what = dict(phase="one_shot", depends=["throws"], modules=["ovit_core.methods"])
    return [task(config, seed, world, "throw", ["top1"], method=method, sparsity_target=at, **what)
            for method, at in (("dense", 0.0), ("random", 0.5))]

STAGES = (throws,)
""",
    "run.py": """
import numpy as np
from ovit_core.study.store import Measured

class Seed:
    def __init__(self, config, seed, world):
        self.config, self.seed = config, seed

    def measure(self, task):
        right = np.random.default_rng(self.seed).random(self.config.throws) < 0.5
        columns = dict(metric="top1", value=right.mean(), n_test=self.config.throws)
        return [Measured(dict(task.columns) | columns)]
""",
    "analysis.py": """
from ovit_core.study import statistics

def answers(rows):
    return [f"A coin is right in {100 * rows.value.mean():.0f} % of throws."]

def not_run(config):
    return "Not run: dice."

def headline(results):
    return "A coin has two sides."

def tables(rows):
    return statistics.tables(rows, rows.phase.unique(), rows.dataset.unique())
""",
    "figures.py": """
import matplotlib.pyplot as plt
from ovit_core.study import plots, statistics
from ovit_core.study.ablation import Drawing

def coin(rows):
    fig, ax = plt.subplots()
    plots.curves(ax, statistics.accuracy(rows), ["random"])
    return fig

FIGURES = {"toy_coin": Drawing(coin, "A coin", "Heads or tails.")}
""",
}
CELLS = [
    ("parameters", 'profile: str = "quick"  # name of the study\nthrows: int = 10  # of the coin'),
    ("config", "from ovit_core.study import grid, registry\n\nablation = registry.get('toy')\n"
     "from ovit_core.study.profiles import read_profile\n"
     "values = read_profile('quick', []) | dict(profile=profile, throws=throws, seeds=[0, 1], workers=1)\n"
     "config = registry.build(ablation.parameters, values)"),
    ("run", "results = grid.run(ablation, config)"),
    ("coin", "results.shown('toy_coin')"),
    ("answer", "results.answers()"),
    ("export", "results.export()"),
]  # fmt: skip


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A folder of ablations with one in it."""
    folder = tmp_path / "ablations" / "toy"
    folder.mkdir(parents=True)
    for name, text in TOY.items():
        (folder / name).write_text(text)
    page = nbformat.v4.new_notebook(metadata=dict(kernelspec=dict(name="python3", display_name="Python 3")))
    for name, source in CELLS:
        cell = nbformat.v4.new_code_cell(source, id=name)
        cell.metadata["tags"] = ["parameters"] * (name == "parameters")
        page.cells.append(cell)
    nbformat.write(page, folder / "toy.ipynb")
    monkeypatch.setenv("OVIT_ABLATIONS", str(folder.parent))
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path / "study"))
    yield folder
    sys.modules.pop("ovit_ablation_toy", None)


def test_it_is_registered_with_its_parameters_and_its_notebook(toy):
    assert list(registry.ablations()) == ["no_weight_update", "transfer", "toy"]
    ablation = registry.get("toy")
    assert ablation.notebook == toy / "toy.ipynb" and list(ablation.figures) == ["toy_coin"]
    quick = profiles.read_profile("quick", ["throws=7"])
    assert registry.build(ablation.parameters, quick).throws == 7
    assert registry.build(Transfer, quick).probe_Cs  # another ablation's parameters are accepted and left out
    with pytest.raises(ValueError, match=r"unknown parameter 'throw'; did you mean 'throws'\?"):
        registry.build(ablation.parameters, quick | dict(throw=1))


@pytest.mark.notebook
def test_it_runs_is_drawn_and_stands_in_the_report(toy, tmp_path):
    def study(*words):
        run = [sys.executable, "-m", "ovit_core.study", *words]
        return subprocess.run(run, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    done = study(
        "quick",
        "--only",
        "toy",
        "--set",
        "profile=tiny",
        "--set",
        "throws=20",
        "--set",
        "seeds=[0, 1]",
        "--set",
        "workers=2",
    )
    assert done.returncode == 0, done.stderr
    figures = tmp_path / "study" / "runs" / "tiny"
    assert (figures / "toy_coin.png").stat().st_size > 1000 and "runs/tiny/toy_coin.png" in done.stdout
    assert json.loads((figures / "toy.parameters.json").read_text())["throws"] == 20
    done = study("report", "tiny")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "study" / "runs" / "tiny" / "report.html").read_text()
    assert "Ablation C: what does a coin bring?" in page and "A coin is right in" in page and "dice." in page
    assert page.index("A coin has two sides.") < page.index("Ablation A")  # what was found comes first
    assert page.count("Not run in this profile") == 2  # the other ablations
    assert (figures / "print" / "toy_coin.pdf").exists()


def test_an_unknown_ablation_lists_those_there_are():
    with pytest.raises(ValueError, match="no ablation 'tranfer'; there are no_weight_update, transfer"):
        registry.get("tranfer")
