"""A profile's report from its results alone: no model, no data, seconds. `python -m ovit_core.study report PROFILE`."""

import html
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pandas as pd

from ovit_core import disk
from ovit_core.study import export, parameters, paths, per_image, plots, provenance, registry
from ovit_core.study.ablation import Results, Text

REVISION = Text(
    "> **Under revision.** The forms without an update were measured at the λ that suits oViT, and finetuning was short. "
    "Both are being measured anew, the transfer on photographs."
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; } table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; }
th, td { padding: 0.15rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } code { background: #f3f3f3; padding: 0 0.2em; }
.jp-OutputArea-output { overflow-x: auto; } .anchor-link { display: none; }
"""
COLUMN, PAGE = 3.5, 7.16  # inches: one and two columns of the usual two-column paper
PRINT = {"font.size": 7, "lines.linewidth": 1, "lines.markersize": 3, "pdf.fonttype": 42}  # TrueType, embedded whole


def load(profile: str) -> dict[str, Results]:
    """ablation -> its rows and its parameters, as the study exported them to runs/PROFILE, else as they were published.

    Raises:
        ValueError: no profile can have this name, or what was exported is damaged; names the file.
        FileNotFoundError: nothing has been exported; says which command does it.
    """
    try:
        parameters.check_name(profile)
    except ValueError as error:
        raise ValueError(f"profile {error}") from None
    if (folder := paths.exported(profile)) is None:
        found = {p.parent.name for where in (paths.runs(), paths.figures()) for p in where.glob("*/results.csv")}
        there, first = ", ".join(sorted(found)) or "none", f"run `python -m ovit_core.study {profile}` first"
        where = f"{paths.runs(profile)} or {paths.figures(profile)}"
        raise FileNotFoundError(f"no results of profile {profile!r} in {where} (there: {there}); {first}")
    rows = export.read(folder / "results.csv")
    images = per_image.read(folder / per_image.FILE, rows)
    results = {}
    for name, ablation in registry.ablations().items():
        mine = rows[rows.experiment.isin(ablation.experiments)]
        if len(mine):
            # As they were when the rows were exported; unchecked, for rules may have changed since.
            values = export.parameters_of(folder / f"{name}.parameters.json") | dict(profile=profile)
            failures, _ = tuple(values.pop("failures", ())), values.pop("dense", ())
            config, behind = ablation.parameters.model_construct(**values), [images[line] for line in mine.index]
            results[name] = Results.of(ablation, config, mine.reset_index(drop=True), behind, failures)
    return results


def origin(results: dict[str, Results]) -> Text:
    """Where the numbers come from, as a Markdown table."""
    rows = pd.concat([r.rows for r in results.values()])
    columns = ("profile", "model", "upstream", "seed", "device", "commit", "versions")
    known = {column: provenance.distinct(rows[column]) for column in columns}
    known["rows"] = f"{len(rows)} in results.csv"
    return Text("| | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in known.items()))


def is_old(results: dict[str, Results]) -> bool:
    """Whether rows are from before lambda was chosen by a rule that they tell."""
    rows = pd.concat([mine.rows for mine in results.values()])
    return bool((rows.damp.notna() & (rows.damp_rule == "")).any())


def contents(results: dict[str, Results], picture: Callable[[Results, str], object | None]) -> Iterator[object]:
    """All of the report in order: texts, and what `picture` makes of each figure of each ablation there is."""
    if is_old(results):
        yield REVISION
    for name, ablation in registry.ablations().items():
        yield Text(f"## {ablation.title}")
        if name not in results:
            yield Text("*Not run in this profile.*")
            continue
        mine = results[name]
        yield mine.answers()
        yield mine.setting()
        for figure, drawing in ablation.figures.items():
            if (drawn := picture(mine, figure)) is not None:
                yield Text(f"### {drawing.title}\n\n{drawing.caption}")
                yield drawn
        yield Text("### Tables")
        yield mine.tables()


def show(results: dict[str, Results]) -> None:
    """Shows the report's contents on a notebook's page."""
    from IPython.display import display

    display(*contents(results, lambda mine, name: mine.figure(name, save=False)))


def write_markdown(results: dict[str, Results], out: Path, command: str) -> Path:
    """The report's texts and tables as Markdown, with links to the figures where they are published."""

    def link(mine: Results, name: str) -> Text | None:
        folder, file = paths.exported(mine.config.profile), f"{name}.png"
        if folder is None or not (folder / file).is_file():
            return None
        published = os.path.relpath(paths.figures(mine.config.profile) / file, out.resolve().parent)
        return Text(f"![{mine.ablation.figures[name].title}]({published})")

    head = (Text(f"# Results\n\nWritten from the rows by `{command}`."), origin(results))
    disk.write(out, "\n\n".join(map(str, chain(head, contents(results, link)))) + "\n")
    return out


def write_html(executed: Path, out: Path, title: str) -> Path:
    """An executed notebook as one HTML file that needs no network: code left out, pictures inside."""
    import nbformat
    from nbconvert import HTMLExporter

    # "basic" is the bare body; the full templates load scripts from the network.
    hidden = dict(exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = HTMLExporter(template_name="basic", **hidden).from_notebook_node(nbformat.read(executed, as_version=4))
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><link rel="icon" href="data:,">'
    head = f"<head>{head}<style>{STYLE}</style></head>"
    disk.write(out, f"<!doctype html>\n<html lang=en>{head}\n<body>{body}</body></html>\n")
    return out


def write_prints(results: dict[str, Results], folder: Path) -> list[Path]:
    """Every figure as PDF: single panels one column wide, others two."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for mine in results.values():
        origin = "; ".join(f"{k}: {v}" for k, v in plots.provenance(mine.rows).items())
        for name in mine.ablation.figures:
            with plots.style(**PRINT):
                if (fig := mine.figure(name, save=False, **PRINT)) is not None:
                    width, height = fig.get_size_inches()
                    wanted = COLUMN if width <= 6 else PAGE
                    fig.set_size_inches(wanted, height * max(wanted / width, 0.72))
                    fig.savefig(folder / f"{name}.pdf", metadata={"Subject": origin, "CreationDate": None})
    return sorted(folder.iterdir())
