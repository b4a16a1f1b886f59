"""What of a run is to be committed, copied from runs/PROFILE to figures/PROFILE, where nothing else writes.

Only what a publication made is ever removed there: tables and pages by their names, a figure by its provenance.
"""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pandas as pd
from PIL import Image

from ovit_core import disk
from ovit_core.study import export, grid, identity, paths, per_image, registry, released
from ovit_core.study.ablation import Asked
from ovit_core.study.parameters import Parameters
from ovit_core.study.store import Store
from ovit_core.study.tasks import KEY, NUMBERS

DIFFERENCES = "differences.csv"
TABLES = ("results.csv", DIFFERENCES, per_image.FILE)
FIGURE = ("png", "svg", "json")
ORIGIN = {"command", "commit", "device", "seeds", "versions", "runs"}  # what a figure's JSON tells
INTRODUCTION = "how_it_works.ipynb"  # of no ablation; published where somebody ran it into the same folder


class Published(NamedTuple):
    """What a publication copied, by kind, and removed."""

    copied: dict[str, list[Path]]
    removed: list[Path]


def publish(profile: str, incomplete: bool = False, dirty: bool = False, pages: bool = True) -> Published:
    """Makes figures/PROFILE what the profile's run in runs/PROFILE is; other files there stay as they are.

    Args:
        profile: whose run.
        incomplete: publish also what was not measured, or not drawn, to its end.
        dirty: publish also what no commit can make again.
        pages: whether what is said from the rows is published, too: pages, figures, tables of means and of differences.
            Else what is there stays for ablations of which the run has the very rows that were published.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: it is incomplete or of changed files, and that was not asked for; or damaged, then names the file.
    """
    paths.check_profile(profile)
    run, to = paths.runs(profile), paths.figures(profile)
    if not (run / "results.csv").is_file():
        raise FileNotFoundError(
            f"no run of profile {profile!r} in {run}: `python -m ovit_core.study {profile}` makes one"
        )
    with disk.locked(paths.results() / f"{profile}.export", "exports rows"):
        rows = export.read(run / "results.csv")
        per_image.read(run / per_image.FILE, rows)  # raises if it does not belong to them
        names = [name for name, a in registry.ablations().items() if rows.experiment.isin(a.experiments).any()]
        if (lacks := list(_lacks(run, names))) and not incomplete:
            more = f" (and {len(lacks) - 1} more)" if len(lacks) > 1 else ""
            raise ValueError(
                f"{run} is incomplete: {lacks[0]}{more}; run the study to its end, or publish it as it is by --incomplete"
            )
        odd = sorted(commit for commit in set(rows.commit) if commit.endswith("+") or commit == "unknown")
        if odd and not dirty:
            raise ValueError(
                f"{run} has rows of commit {', '.join(odd)}: of files that no commit holds; commit and measure anew, or "
                "publish them as they are by --dirty"
            )
        copied = {kind: [run / name for name in there] for kind, there in _parts(run, names, pages).items()}
        before, stay = made_by_publishing(to), [] if pages else _unchanged(run, to)
        kept = _said(to, stay)
        if stay and (to / DIFFERENCES).is_file():
            compared = pd.read_csv(to / DIFFERENCES, dtype=str, keep_default_na=False)
            if len(mine := compared[compared.experiment.isin(stay)]):
                disk.write(to / DIFFERENCES, mine.to_csv(index=False))
                kept.add(to / DIFFERENCES)
        for file in (file for files in copied.values() for file in files):
            disk.write(to / file.name, light(file, profile) if file.suffix == ".ipynb" else file.read_bytes())
        removed = sorted(before - kept - {to / file.name for files in copied.values() for file in files})
        for file in removed:
            file.unlink()
        told = {kind: [to / file.name for file in files] for kind, files in copied.items()}
        told["dense models"], older = released.publish(profile, _dense(run, names))
    return Published(told, removed + older)


def rows_so_far(asked: Sequence[Asked], incomplete: bool = False, dirty: bool = False) -> Published:
    """Makes figures/PROFILE hold what a study has so far, and nothing that is said from it: the rows that it asks for and
    that are there, and its finished dense models. `take` goes on from them, elsewhere too. Of an ablation whose rows are
    those that were published, pages and figures stay.

    Args:
        asked: the study, with the parameters that it was run with.
        incomplete: also where that loses rows, pages or figures that are published.
        dirty: as `publish` takes it.

    Raises:
        FileNotFoundError: there are neither rows nor a finished dense model.
        ValueError: something would be lost, or the rows that there are are of other parameters; and as `publish` does.
    """
    config, found = asked[0][1], []
    for ablation, mine in asked:
        with suppress(RuntimeError):  # nothing of this one
            found.append(grid.read(ablation, mine))
    if not found:
        return Published({"dense models": _dense_alone(config)}, [])
    for results in found:
        export.export(results)
    if not incomplete and (lost := _lost(paths.runs(config.profile), paths.figures(config.profile))):
        raise ValueError(
            f"{paths.figures(config.profile)} would lose {lost}: `take {config.profile}` and run the study first, or lose "
            "them by --incomplete"
        )
    return publish(config.profile, incomplete=True, dirty=dirty, pages=False)


def _dense_alone(config: Parameters) -> list[Path]:
    """The files of the finished dense models of a study that has no rows yet, published beside others."""
    if count := len(Store(config.profile).rows()):
        raise ValueError(
            f"none of the {count} rows in {paths.rows(config.profile)} is of these parameters: give those of the run, by "
            "--set and --only"
        )
    files, _ = released.publish(config.profile, identity.about_dense(config), keep=True)
    if not files:
        raise FileNotFoundError(f"profile {config.profile!r} has neither rows nor a finished dense model yet")
    return files


def _lost(run: Path, to: Path) -> str:
    """What of a publication would have no successor in the rows of a run; "" where nothing is lost."""
    tables = {to / name for name in (*TABLES, *(f"{name}.parameters.json" for name in registry.ablations()))}
    if drawn := made_by_publishing(to) - tables - _said(to, _unchanged(run, to)):
        return f"{len(drawn)} files of pages, figures and means"
    lost = _keys(to) - _keys(run) if (to / "results.csv").is_file() else ()
    return f"{len(lost)} rows" if lost else ""


def _unchanged(run: Path, to: Path) -> list[str]:
    """The ablations of a publication whose rows and parameters are those of a run."""
    if not (to / "results.csv").is_file():
        return []
    rows, found = [export.read(folder / "results.csv") for folder in (run, to)], []
    for name, ablation in registry.ablations().items():
        mine, theirs = (every[every.experiment.isin(ablation.experiments)].reset_index(drop=True) for every in rows)
        about = [folder / f"{name}.parameters.json" for folder in (run, to)]
        if len(mine) and mine.equals(theirs) and len({file.read_bytes() for file in about if file.is_file()}) == 1:
            found.append(name)
    return found


def _said(to: Path, names: Sequence[str]) -> set[Path]:
    """The files of a publication that say something from the rows of some ablations."""
    found = {f"{name}.{suffix}" for name in names for suffix in ("csv", "ipynb")}
    found |= {f"{figure}.{suffix}" for name in names for figure in registry.get(name).figures for suffix in FIGURE}
    return {to / name for name in found if (to / name).is_file()}


def _keys(folder: Path) -> set[tuple]:
    """What identifies each of the rows that were exported to a folder."""
    numbers = [column for column in KEY if column in NUMBERS]
    keys = export.read(folder / "results.csv")[[*KEY]].astype(dict.fromkeys(numbers, float))
    return {*keys.fillna(dict.fromkeys(numbers, -1.0)).itertuples(index=False, name=None)}  # NaN is equal to nothing


def made_by_publishing(folder: Path) -> set[Path]:
    """The files in a folder of figures/ that come from a run."""
    ablations = {file.name.removesuffix(".parameters.json") for file in folder.glob("*.parameters.json")}
    names = {*TABLES}
    for name in ablations | {*registry.ablations()}:
        names |= {f"{name}.parameters.json", f"{name}.csv", f"{name}.ipynb"}
    for about in folder.glob("*.json"):
        if _tells_provenance(about):
            names |= {f"{about.stem}.{suffix}" for suffix in FIGURE}
    return {folder / name for name in names if (folder / name).is_file()}


def light(page: Path, profile: str) -> str:
    """An executed notebook as it is committed: no place of the machine it ran on, no word of its kernel's, and pictures of
    256 colours, which is enough for plots and a third of the size.
    """
    notebook = nbformat.read(page, as_version=4)
    if about := notebook.metadata.get("papermill"):
        about |= dict(input_path=f"notebooks/{page.name}", output_path=f"figures/{profile}/{page.name}")
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for data in (output.data for output in cell.outputs if "image/png" in output.get("data", {})):
                data["image/png"] = _smaller(data["image/png"])
    return nbformat.writes(notebook) + "\n"


def _smaller(png: str) -> str:
    """A picture, base64, in 256 colours."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _parts(run: Path, names: list[str], pages: bool) -> dict[str, list[str]]:
    """kind -> the files of a run that belong to its rows, with or without those that only a notebook makes."""
    tables = [name for name in TABLES if pages or name != DIFFERENCES]
    kinds = dict(tables=[*tables, *(f"{name}.parameters.json" for name in names)])
    if pages:
        kinds["tables"] += [f"{name}.csv" for name in names]
        kinds["pages"] = [*(f"{name}.ipynb" for name in names), INTRODUCTION]
        kinds["figures"] = [
            f"{figure}.{suffix}" for n in names for figure in registry.get(n).figures for suffix in FIGURE
        ]
    return {kind: [name for name in there if (run / name).is_file()] for kind, there in kinds.items()}


def _dense(run: Path, names: list[str]) -> list[dict[str, Any]]:
    """What is noted of the dense models that a run's rows are of."""
    told = [export.parameters_of(run / f"{name}.parameters.json").get("dense", ()) for name in names]
    return list({about["file"]: about for noted in told for about in noted if "file" in about}.values())


def _lacks(run: Path, names: list[str]) -> Iterator[str]:
    """What a run has not, a line each: measurements, ablations, pages."""
    for name in registry.ablations():
        if name not in names:
            yield f"{name} was not run"
            continue
        about, page = run / f"{name}.parameters.json", run / f"{name}.ipynb"
        failures = export.parameters_of(about).get("failures", [])
        if failures:
            yield f"{len(failures)} of {name} could not be measured; the first: {disk.shown(failures[0])}"
        if not page.is_file() or page.stat().st_mtime_ns < about.stat().st_mtime_ns:
            yield f"the notebook {name} was not run to its end over these rows"


def _tells_provenance(about: Path) -> bool:
    """Whether a file is what `plots.save` writes beside a figure."""
    try:
        told: Any = json.loads(about.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.keys() >= ORIGIN
