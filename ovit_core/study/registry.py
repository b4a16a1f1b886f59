"""The ablations there are. A third one is a folder, and a line here; nothing else names them.

Packages are imported when asked for, so arrows never point up from here. Ablations from outside are found as entry
points of the group `ovit_core.ablations`, or as folders in the one that OVIT_ABLATIONS names.
"""

import os
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from ovit_core import disk
from ovit_core.study import parameters
from ovit_core.study.ablation import Ablation
from ovit_core.study.parameters import P, Parameters

BUILT_IN = ("ovit_core.ablations.no_weight_update", "ovit_core.ablations.transfer")
GROUP = "ovit_core.ablations"
FOLDER = "OVIT_ABLATIONS"


def ablations() -> dict[str, Ablation]:
    """name -> ablation, in the order in which they run.

    Raises:
        ValueError: OVIT_ABLATIONS names no folder of packages, a package in it cannot be used, or two have one name.
    """
    records = [import_module(package).ABLATION for package in BUILT_IN]
    records += [point.load() for point in entry_points(group=GROUP)]
    if given := os.environ.get(FOLDER):
        folder = Path(given).absolute()
        if not folder.is_dir():
            raise ValueError(f"{FOLDER} must be a folder of packages, not {given!r}")
        if (folder / "__init__.py").is_file():
            raise ValueError(
                f"{FOLDER} must be a folder of packages, and {given!r} is one itself: name the folder it lies in"
            )
        os.environ[FOLDER] = str(folder)  # a notebook's kernel starts in another folder
        records += [_from_folder(path.parent) for path in sorted(folder.glob("*/__init__.py"))]
    known: dict[str, Ablation] = {}
    for record in records:
        if record.name in known:
            raise ValueError(
                f"{record.package}: an ablation {record.name!r} is there already, in {known[record.name].package}"
            )
        known[record.name] = record
    return known


def _from_folder(folder: Path) -> Ablation:
    """The ablation of a package that is not installed."""
    name = f"ovit_ablation_{folder.name}"
    if name not in sys.modules:
        spec = spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None and spec.loader is not None  # the file is there
        sys.modules[name] = module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except Exception as error:  # whatever somebody's own file makes of it
            del sys.modules[name]
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"{FOLDER}: {folder} cannot be imported: {disk.shown(what, 300)}") from error
    if not isinstance(record := getattr(sys.modules[name], "ABLATION", None), Ablation):
        raise ValueError(f"{FOLDER}: {folder / '__init__.py'} has no ABLATION, the record that CONTRIBUTING.md shows")
    return record


def get(name: str) -> Ablation:
    """Raises ValueError, with the names there are, if there is no such ablation."""
    known = ablations()
    if name not in known:
        raise ValueError(f"no ablation {name!r}; there are {', '.join(known)}")
    return known[name]


def has_parameters(ablation: Ablation, values: Mapping[str, Any]) -> bool:
    """Whether values are for an ablation too: they have a parameter that it alone has, or it must be given none."""
    others = [Parameters, *(a.parameters for a in ablations().values() if a.name != ablation.name)]
    shared = {name for kind in others for name in kind.model_fields}
    own = {name: field for name, field in ablation.parameters.model_fields.items() if name not in shared}
    return not own.keys().isdisjoint(values) or not any(field.is_required() for field in own.values())


def check_settings(ablation: Ablation, names: Iterable[str]) -> None:
    """Raises ValueError for the name of a parameter that others have, and the ablation, which is asked for alone, has not."""
    for name in names:
        if name not in ablation.parameters.model_fields:
            owners = [a.name for a in ablations().values() if name in a.parameters.model_fields]
            if owners:  # else it is none at all, which `build` says
                raise ValueError(f"{ablation.name} has no parameter {name!r}: it is of {', '.join(owners)}")


def build(kind: type[P], values: Mapping[str, Any]) -> P:
    """Parameters of a kind from a profile's values, which may hold those of other ablations too.

    Raises:
        ValueError: one line, the parameter's name first.
    """
    known = {name for ablation in ablations().values() for name in ablation.parameters.model_fields}
    return parameters.build(kind, values, known)


def from_notebook(kind: type[P], names: Mapping[str, Any], world: bool = True) -> P:
    """Parameters of a kind from a notebook's `globals()`, checked against data, models and devices too, which takes
    seconds, unless `world` is false: then whoever takes them does.

    In a notebook other names are the reader's own: unknown ones are refused only where papermill injected them, in the
    cell it heads "# Parameters".

    Raises:
        ValueError, FileNotFoundError: a parameter is unknown, missing, wrong, or asks for what is not there.
    """
    from ovit_core.study import checks

    injected = "\n".join(cell for cell in names.get("In", []) if cell.startswith("# Parameters\n"))
    asked = [line.partition("=")[0].strip() for line in injected.splitlines() if " = " in line]
    wanted = {*kind.model_fields, *(name for name in asked if name.isidentifier())}
    try:
        config = build(kind, {name: value for name, value in names.items() if name in wanted})
        if world:
            checks.check(config)
    except (ValueError, OSError) as error:
        said = [f"{type(error).__name__}: {error}"]
        error._render_traceback_ = lambda: said  # on a notebook's page a line is enough
        raise
    return config
