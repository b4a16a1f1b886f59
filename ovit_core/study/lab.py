"""Notebooks to work with: copies, so that saving one changes none of the sources that git tracks."""

import os
import sys
from pathlib import Path
from typing import Any

import nbformat

from ovit_core import disk
from ovit_core.study import paths, provenance
from ovit_core.study.profiles import EXPLORER

MARK = "ovit_source"  # in a copy's metadata: which text it was copied from


def copies() -> list[Path]:
    """A copy of every notebook, side by side, so that their links to each other hold."""
    sources = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
    return [_copied(nbformat.read(source, as_version=4), paths.lab() / source.name) for source in sources]


def of_profile(name: str, parameters: dict[str, Any]) -> Path:
    """A copy of the explorer's notebook that begins with parameters of a profile, in a cell as papermill adds it."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    source = load_notebook_node(str(paths.NOTEBOOKS / f"{EXPLORER}.ipynb"))
    notebook = parameterize_notebook(source, parameters, kernel_name="python3", language="python")
    del notebook.metadata["papermill"]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{EXPLORER}-{number}"  # the added one's is drawn anew each time
        cell.metadata.pop("papermill", None)
    return _copied(notebook, paths.lab() / f"{EXPLORER}_{name}.ipynb")


def _copied(notebook: nbformat.NotebookNode, copy: Path) -> Path:
    """Writes a copy. One that was changed stays as it is while its source does; where there is a newer source, it makes
    room under another name.
    """
    mark = provenance.digest(notebook)
    if _mark(copy) != mark:
        if copy.is_file():
            number = 1
            while (old := copy.with_name(f"{copy.stem}-{number}.ipynb")).exists():
                number += 1
            copy.replace(old)
        notebook.metadata[MARK] = mark
        disk.write(copy, nbformat.writes(notebook) + "\n")
    return copy


def _mark(copy: Path) -> str:
    """What a copy was copied from; "" where there is none, or none that can be read."""
    try:
        return str(nbformat.read(copy, as_version=4).metadata.get(MARK, ""))
    except (OSError, ValueError, nbformat.ValidationError):
        return ""


def command(page: Path, more: list[str]) -> list[str]:
    """The command line of JupyterLab that opens a copy, with more options."""
    where = page.relative_to(paths.home())
    options = [f"--ServerApp.root_dir={paths.home()}", f"--LabApp.default_url=/lab/tree/{where}"]
    options += ["--Application.log_level=30"]  # warnings: the address, without twenty lines before it
    return [sys.executable, "-m", "jupyterlab", *options, *more]


def start(more: list[str], profile: str, parameters: dict[str, Any]) -> None:
    """Becomes JupyterLab, with the copies made and the explorer's open, perhaps that of a profile; does not return."""
    copies()
    page = of_profile(profile, parameters) if profile else paths.lab() / f"{EXPLORER}.ipynb"
    words = command(page, more)
    os.chdir(paths.home())
    sys.stdout.flush()
    os.execv(words[0], words)
