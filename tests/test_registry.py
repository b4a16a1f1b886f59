"""A third ablation is a folder: registered, run, drawn and in the report without touching another file."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest

from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.study import __main__ as command
from ovit_core.study import profiles, registry
from ovit_core.study.__main__ import main

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
    for name in [name for name in sys.modules if name.startswith("ovit_ablation_toy")]:
        del sys.modules[name]


def test_it_is_registered_with_its_parameters_and_its_notebook(toy):
    assert list(registry.ablations()) == [*(name.rpartition(".")[2] for name in registry.BUILT_IN), "toy"]
    ablation = registry.get("toy")
    assert ablation.notebook == toy / "toy.ipynb" and list(ablation.figures) == ["toy_coin"]
    quick = profiles.read_profile("quick", ["throws=7"])
    assert registry.build(ablation.parameters, quick).throws == 7
    assert registry.build(Transfer, quick).probe_Cs  # another ablation's parameters are accepted and left out
    with pytest.raises(ValueError, match=r"unknown parameter 'throw'; did you mean 'throws'\?"):
        registry.build(ablation.parameters, quick | dict(throw=1))


def test_the_folder_of_ablations_may_be_named_from_where_one_stands(toy, monkeypatch):
    """A notebook's kernel starts elsewhere."""
    monkeypatch.chdir(toy.parent.parent)
    monkeypatch.setenv("OVIT_ABLATIONS", "ablations")
    assert "toy" in registry.ablations() and os.environ["OVIT_ABLATIONS"] == str(toy.parent)
    monkeypatch.setenv("OVIT_ABLATIONS", "nowhere")
    with pytest.raises(ValueError, match="OVIT_ABLATIONS must be a folder of packages, not 'nowhere'"):
        registry.ablations()


def test_a_profile_that_has_none_of_its_parameters_leaves_it_out(toy, capsys):
    file = toy / "parameters.py"
    file.write_text(file.read_text().replace("throws: Count = 10", "throws: Count"))
    assert main(["plan", "quick"]) == 0
    out, err = capsys.readouterr()
    assert "toy, one_shot" not in out and "left out: toy, of whose parameters quick has none" in err
    assert main(["plan", "quick", "--set", "throws=3"]) == 0
    assert "toy, one_shot" in capsys.readouterr().out
    assert main(["plan", "quick", "--only", "toy"]) == 2
    assert "missing parameters: throws" in capsys.readouterr().err
    values = profiles.read_profile("quick", [])
    alone = {name: value for name, value in values.items() if name in NoWeightUpdate.model_fields}
    asked = [a.name for a in registry.ablations().values() if registry.has_parameters(a, alone)]
    assert asked == ["no_weight_update"]  # both of ours train after pruning: what they share says nothing


def test_what_needs_no_dense_model_is_planned_without(toy, capsys):
    assert main(["plan", "quick", "--only", "toy"]) == 0
    assert re.search(r"dense models +0 +0 +0 ", capsys.readouterr().out)


def test_a_setting_of_another_ablation_is_refused(toy, capsys):
    assert main(["plan", "quick", "--only", "transfer", "--set", "throws=3"]) == 2
    assert "transfer has no parameter 'throws': it is of toy" in capsys.readouterr().err
    assert main(["plan", "quick", "--only", "transfer", "--set", "thro=3"]) == 2
    assert "unknown parameter 'thro'" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["tasks", "run", "analysis", "figures"])
def test_without_a_module_nothing_is_measured(toy, capsys, part):
    (toy / f"{part}.py").unlink()
    assert main(["quick", "--only", "toy", "--set", "profile=tiny"]) == 2
    assert f"ablation toy needs {part}.py in its package" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda t: (t / "__init__.py").write_text("ABLATION = Ablation("), "toy cannot be imported: SyntaxError: "),
        (lambda t: (t / "__init__.py").write_text("import nothing_of_the_kind"), "toy cannot be imported: ModuleNotFoundError"),
        (lambda t: (t / "__init__.py").write_text("ABLATIONS = 1"), "__init__.py has no ABLATION, the record that"),
        (lambda t: (t.parent / "__init__.py").write_text(""), "is one itself: name the folder it lies in"),
        (lambda t: (t / "parameters.py").write_text((t / "parameters.py").read_text().replace('= "toy"', '= "transfer"')),
         "an ablation 'transfer' is there already, in ovit_core.ablations.transfer"),
    ],
)  # fmt: skip
def test_a_package_that_is_no_ablation_is_one_line_that_names_it(toy, capsys, broken, message):
    broken(toy)
    assert main(["plan", "quick"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_without_its_notebook_nothing_is_measured(toy, capsys):
    (toy / "toy.ipynb").unlink()
    assert main(["quick", "--only", "toy", "--set", "profile=tiny"]) == 2
    assert f"ablation toy needs a notebook, toy.ipynb, in {toy}" in capsys.readouterr().err


@pytest.mark.notebook
def test_a_kernel_that_is_killed_leaves_its_page_and_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    cells = [nbformat.v4.new_code_cell(code) for code in ("print('so far')", "import os; os.kill(os.getpid(), 9)")]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "dies.ipynb")
    assert command._executed(tmp_path / "dies.ipynb", dict(profile="tiny")) is None
    page = tmp_path / "runs" / "tiny" / "dies.ipynb"
    assert f"its process was killed, by the system if memory ran out; the page as far as it came: {page}" in (
        capsys.readouterr().err
    )
    assert "so far" in page.read_text() and [*page.parent.iterdir()] == [page]


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
