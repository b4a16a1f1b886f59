"""Notebooks as files: sources without outputs, the introduction runs, and committed pages are light and clean."""

import re
import time

import nbformat
import papermill
import pytest

from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.explorer.parameters import Explore
from ovit_core.study import lab, paths, profiles
from ovit_core.study.identity import dense_path
from ovit_core.study.parameters import build
from ovit_core.study.paths import NOTEBOOKS, ROOT

SOURCES = sorted(NOTEBOOKS.glob("*.ipynb"))
PAGES = sorted((ROOT / "figures").glob("*/*.ipynb"))


def outputs(page):
    return [output for cell in page.cells if cell.cell_type == "code" for output in cell.outputs]


def clean(page):
    """Nothing that a reader should not see: no error, no warning, no progress bar, no widget that is dead on the page."""
    for output in outputs(page):
        assert output.output_type != "error" and output.get("name") != "stderr", output
        assert not any("widget" in mime for mime in output.get("data", {})), output
    return True


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_sources_have_no_outputs(path):
    page = nbformat.read(path, as_version=4)
    assert not outputs(page) and "papermill" not in page.metadata
    assert all(cell.execution_count is None for cell in page.cells if cell.cell_type == "code")


@pytest.mark.notebook
def test_the_introduction_runs_in_less_than_a_minute(tmp_path):
    start = time.perf_counter()
    papermill.execute_notebook(
        NOTEBOOKS / "how_it_works.ipynb", tmp_path / "out.ipynb", kernel_name="python3", progress_bar=False
    )
    page = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert time.perf_counter() - start < 60
    assert clean(page) and sum("image/png" in o.get("data", {}) for o in outputs(page)) >= 4


@pytest.mark.parametrize("path", PAGES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_committed_pages_are_light_and_clean(path):
    page = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 2e6 and clean(page)
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source.strip())


@pytest.mark.parametrize("path", PAGES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_committed_pages_are_of_the_notebooks_there_are(path):
    """The same text and code, cell by cell, but the cell of parameters that papermill adds. Parameters that came later than
    a page's rows are not in it.
    """
    page, source = (nbformat.read(p, as_version=4) for p in (path, NOTEBOOKS / path.name))
    cells = [c for c in page.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    assert len(cells) == len(source.cells)
    for executed, cell in zip(cells, source.cells):
        if "parameters" in cell.metadata.get("tags", []):
            assert {*executed.source.splitlines()} <= {*cell.source.splitlines()}
        else:
            assert executed.source == cell.source


@pytest.mark.parametrize("name", sorted(p.stem for p in paths.PROFILES.glob("*.yaml")))
def test_the_explorer_of_a_profile_opens_on_its_dense_model(name, tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    values = profiles.read_profile(name, [])
    made = lab.of_profile(name, profiles.explored(values, []))
    page = nbformat.read(made, as_version=4)
    known = {}
    for cell in page.cells[:4]:  # what is folded on the page, and what was added to it
        if {"parameters", "injected-parameters"} & {*cell.metadata.get("tags", [])}:
            exec(cell.source, known)
    explored = build(Explore, {n: v for n, v in known.items() if n in Explore.model_fields})
    studied = build(NoWeightUpdate, values, Transfer.model_fields)
    assert dense_path(explored, 0, "print") == dense_path(studied, 0, "print")
    assert explored.profile == name and explored.sparsity == studied.damp_sparsity and len(explored.methods) == 3
    assert str(made.relative_to(tmp_path)) in " ".join(lab.command(made, []))

    assert lab.of_profile(name, profiles.explored(values, [])) == made  # and nothing makes room for the same
    page.cells[-1].source += "\n1 + 1"
    nbformat.write(page, made)  # a reader's changes stay
    lab.of_profile(name, profiles.explored(values, []))
    assert nbformat.read(made, as_version=4).cells[-1].source.endswith("1 + 1")
    assert len(list(made.parent.iterdir())) == 1


@pytest.mark.parametrize("path", SOURCES + PAGES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_links_of_a_page_lead_somewhere(path):
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)\s#]+)\)", text):
        assert target.startswith("http") or (path.parent / target).exists(), target
