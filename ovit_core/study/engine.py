"""Profiles read and notebooks run: what the command line does, without its printing."""

import os
from pathlib import Path
from typing import Any

import yaml

from ovit_core import disk, progress
from ovit_core.study import paths, stop
from ovit_core.study.ablation import Ablation
from ovit_core.study.parameters import Parameters

Asked = tuple[Ablation, Parameters]


def read_profile(name: str, settings: list[str]) -> dict[str, Any]:
    """A profile's parameters, with NAME=VALUE settings (values in YAML) put over them.

    Raises:
        ValueError: no such profile, or a setting is not NAME=VALUE.
    """
    path = paths.PROFILES / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in paths.PROFILES.glob("*.yaml")))
        raise ValueError(f"no profile {name!r} in {paths.PROFILES}; there are {there}")
    parameters = _yaml(f"profile {path}", path.read_text()) or {}
    if not isinstance(parameters, dict):
        raise ValueError(f"profile {path} must map parameters to values, and holds a {type(parameters).__name__}")
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set needs NAME=VALUE, not {setting!r}")
        parameters[key] = _yaml(f"--set {key}", value)
    return parameters


def _yaml(where: str, text: str) -> Any:
    """What a text says in YAML; ValueError, in one line, where it is none, or asks for Python objects."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # the latter of days there are not
        raise ValueError(f"{where}: {text.strip()[:60]!r} is no YAML: {' '.join(str(error).split())[:160]}") from None


def execute(source: Path, parameters: dict[str, Any]) -> Path:
    """Runs a notebook with parameters (`profile` among them); returns the executed copy, also if it failed.

    Raises:
        papermill.PapermillExecutionError: a cell raised.
    """
    import papermill

    out = paths.runs(parameters["profile"]) / source.name
    out.parent.mkdir(parents=True, exist_ok=True)
    os.environ[progress.ENVIRONMENT] = progress.terminal()
    os.environ["OVIT_STUDY_DIR"] = str(paths.home())  # the kernel starts in another folder
    options = dict(kernel_name="python3", language="python", progress_bar=False, cwd=str(paths.ROOT))
    options |= dict(extra_arguments=["--log-level=40"])  # errors: the kernel's warnings are about networks
    try:
        # nbclient would take the signals of the main thread, and answer them with an asyncio traceback.
        stop.in_thread(lambda: papermill.execute_notebook(source, out, parameters, **options))
    except OSError as error:
        raise disk.cannot_write(out, error) from error
    return out
