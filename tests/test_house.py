"""The house as docs/design.md draws it: imports go down only, the map names every file, the door opens at once."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ovit_core.study.paths import ROOT

DESIGN = (ROOT / "docs" / "design.md").read_text()
FILES = sorted((ROOT / "ovit_core").rglob("*.py"))


def module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__").removesuffix(".__main__")


def imports(path: Path) -> set[str]:
    """Modules of the house that a file imports, also inside functions, but not only for the type checker."""
    found, known = set(), {module(file) for file in FILES}
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                child.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & known) or {node.module}
    return {name for name in found if name.split(".")[0] == "ovit_core"}


def wings() -> list[tuple[str, list[str]]]:
    block = re.search(r"```arrows\n(.*?)```", DESIGN, re.S).group(1)
    return [(line.partition(":")[0], line.partition(":")[2].split()) for line in block.strip().splitlines()]


def floor(name: str) -> int:
    levels = [i for i, (_, names) in enumerate(wings()) for n in names if name == n or name.startswith(n + ".")]
    assert len(levels) == 1, f"{name} is on {len(levels)} lines of the rule of arrows in docs/design.md"
    return levels[0]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_go_down_only(path):
    if module(path) == "ovit_core":  # the front door imports when asked
        return
    for name in imports(path):
        assert floor(name) <= floor(module(path)), f"{module(path)} imports {name}, which is above it"


def test_imports_make_no_circle():
    arrows = {module(path): imports(path) - {module(path)} for path in FILES}
    while leaves := [name for name, targets in arrows.items() if not targets & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert not arrows


def test_the_map_names_every_file_and_no_other():
    house = DESIGN.partition("## The house")[2].partition("## The rule of arrows")[0]
    named = set(re.findall(r"`(\w+\.py)`", house))
    assert named == {path.name for path in FILES if path.parent.name != "kernels" or path.name != "__init__.py"}


def test_no_module_is_longer_than_300_lines():
    assert {module(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 300} == {}


def loaded(code: str) -> set[str]:
    """The modules a fresh interpreter has loaded after some code."""
    run = [sys.executable, "-c", f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"]
    return set(subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())


@pytest.mark.notebook
@pytest.mark.parametrize(
    "names, absent",
    [
        ("ovit_core", {"torch", "numpy", "pandas"}),
        ("ovit_core.fisher ovit_core.elimination ovit_core.kernels.reference", {"timm", "pandas", "matplotlib"}),
        ("ovit_core.pruning", {"pandas", "papermill", "pydantic", "matplotlib"}),
        (
            "ovit_core.study.registry ovit_core.study.checks ovit_core.ablations.no_weight_update "
            "ovit_core.ablations.transfer ovit_core.data.catalog ovit_core.data.manifest ovit_core.explorer.parameters",
            {"torch", "timm", "pandas", "PIL", "matplotlib", "papermill"},
        ),
        (
            "ovit_core.study.report ovit_core.study.plots ovit_core.ablations.no_weight_update.figures "
            "ovit_core.ablations.transfer.figures",
            {"torch", "timm", "sklearn"},
        ),
    ],
    ids=["the front door", "the elimination", "the pruner", "parameters and the registry", "report and figures"],
)
def test_loads_without(names, absent):
    assert not loaded("\n".join(f"import {name}" for name in names.split())) & absent


@pytest.mark.notebook
def test_the_front_door_opens_at_once():
    code = "import time; t = time.perf_counter(); import ovit_core; print(time.perf_counter() - t)"
    seconds = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert float(seconds) < 0.2
    house = import_module("ovit_core")
    assert house.prune.__module__ == "ovit_core.pruning" and "ovit" in house.METHODS and house.masks.hold
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        house.prun  # noqa: B018


@pytest.mark.notebook
def test_importing_plots_changes_no_global_style():
    code = "import matplotlib as m; before = dict(m.rcParams); import ovit_core.study.plots, ovit_core.explorer.views"
    after = "changed = [k for k in before if before[k] != m.rcParams[k]]; assert not changed, changed"
    subprocess.run([sys.executable, "-c", f"{code}; {after}"], check=True, cwd=ROOT)
