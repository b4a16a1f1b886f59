"""Notebooks to work with: copies, so that saving one changes none of the sources that git tracks."""

import os
import sys
from pathlib import Path

import nbformat

from ovit_core import disk
from ovit_core.study import paths, provenance

MARK = "ovit_source"  # in a copy's metadata: which text it was copied from


def copies() -> list[Path]:
    """A copy of every notebook, side by side, so that their links to each other hold. One that was changed stays as it
    is while its source does; where there is a newer source, it makes room under another name.
    """
    made = []
    for source in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(source, as_version=4)
        mark = provenance.digest(notebook)
        copy = paths.lab() / source.name
        if _mark(copy) != mark:
            if copy.is_file():
                number = 1
                while (old := copy.with_name(f"{copy.stem}-{number}.ipynb")).exists():
                    number += 1
                copy.replace(old)
            notebook.metadata[MARK] = mark
            disk.write(copy, nbformat.writes(notebook) + "\n")
        made.append(copy)
    return made


def _mark(copy: Path) -> str:
    """What a copy was copied from; "" where there is none, or none that can be read."""
    try:
        return str(nbformat.read(copy, as_version=4).metadata.get(MARK, ""))
    except (OSError, ValueError, nbformat.ValidationError):
        return ""


def command(more: list[str]) -> list[str]:
    """The command line of JupyterLab that opens the explorer's copy, with more options."""
    where = (paths.lab() / "explore.ipynb").relative_to(paths.home())
    options = [f"--ServerApp.root_dir={paths.home()}", f"--LabApp.default_url=/lab/tree/{where}"]
    options += ["--Application.log_level=30"]  # warnings: the address, without twenty lines before it
    return [sys.executable, "-m", "jupyterlab", *options, *more]


def start(more: list[str]) -> None:
    """Becomes JupyterLab, with the copies made; does not return."""
    copies()
    words = command(more)
    os.chdir(paths.home())
    sys.stdout.flush()
    os.execv(words[0], words)
