"""Profiles read and notebooks run: what the command line does, without its printing."""

import os
from pathlib import Path
from typing import Any

from ovit_core import disk, progress
from ovit_core.study import paths, stop
from ovit_core.study.parameters import MOST_YAML, from_yaml

EXPLORER = "explore"  # the notebook that belongs to no ablation and takes parameters


def read_profile(name: str, settings: list[str]) -> dict[str, Any]:
    """A profile's parameters, with NAME=VALUE settings (values in YAML) put over them.

    Raises:
        ValueError: no such profile, one that is called otherwise inside, or a setting is not NAME=VALUE.
        OSError: it cannot be read.
    """
    there = sorted(p.stem for p in paths.PROFILES.glob("*.yaml") if p.is_file())
    if name not in there:  # a name of the folder's own, so that none leads out of it
        raise ValueError(f"no profile {disk.shown(repr(name), 100)} in {paths.PROFILES}; there are {', '.join(there)}")
    path = paths.PROFILES / f"{name}.yaml"
    with path.open("rb") as file:
        content = file.read(4 * MOST_YAML + 1)
    try:
        text = content.decode("utf-8-sig")  # Windows' editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"profile {path} is no text in UTF-8: {error}") from None
    parameters = from_yaml(f"profile {path}", text) or {}
    if not isinstance(parameters, dict):
        raise ValueError(f"profile {path} must map parameters to values, and holds a {type(parameters).__name__}")
    if parameters.get("profile", name) != name:  # its rows would go where nobody looks for them, or among another's
        raise ValueError(f"profile must be {name} in {path}, as the file is called, not {parameters['profile']!r}")
    return parameters | settings_of(settings)


def settings_of(settings: list[str]) -> dict[str, Any]:
    """NAME=VALUE settings, their values read as YAML."""
    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set needs NAME=VALUE, not {setting!r}")
        found[key] = from_yaml(f"--set {key}", value)
    return found


def explored(parameters: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """What of a profile's parameters the explorer's notebook takes, with NAME=VALUE settings put over them. Its methods
    stay its own, which are few, and its slider begins where λ is chosen.

    Raises:
        ValueError: a setting is not NAME=VALUE, or of no parameter of that notebook.
    """
    import papermill

    names = list(papermill.inspect_notebook(paths.NOTEBOOKS / f"{EXPLORER}.ipynb"))
    begin = dict(sparsity=parameters["damp_sparsity"]) if "damp_sparsity" in parameters else {}
    values = {name: value for name, value in parameters.items() if name in names and name != "methods"}
    asked = settings_of(settings)
    if unknown := asked.keys() - names:
        raise ValueError(f"unknown parameter {(wrong := min(unknown))!r}{disk.meant(wrong, names)}")
    return values | begin | asked


def execute(source: Path, parameters: dict[str, Any]) -> Path:
    """Runs a notebook with parameters (`profile` among them); returns the executed copy, also if it failed.

    Raises:
        papermill.PapermillExecutionError: a cell raised.
        nbclient.exceptions.DeadKernelError: the process that ran its cells was killed.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    out = paths.runs(parameters["profile"]) / source.name
    out.parent.mkdir(parents=True, exist_ok=True)
    disk.sweep(out.parent)
    os.environ[progress.ENVIRONMENT] = progress.terminal()
    os.environ["OVIT_STUDY_DIR"] = str(paths.home())  # the kernel starts in another folder
    options = dict(kernel_name="python3", language="python", progress_bar=False, cwd=str(paths.ROOT))
    # Else the kernel tells of networks, and of being ended; cells say what they raise.
    options |= dict(extra_arguments=["--log-level=50"])
    with disk.scratch(out.parent) as folder:  # papermill writes in pieces, and through links
        page = folder / out.name
        try:
            # nbclient would take the signals of the main thread, and answer them with an asyncio traceback.
            stop.in_thread(lambda: papermill.execute_notebook(source, page, parameters, **options))
        except (papermill.PapermillExecutionError, DeadKernelError):
            page.replace(out)
            raise
        except OSError as error:
            raise disk.cannot_write(out, error) from error
        page.replace(out)
    return out
