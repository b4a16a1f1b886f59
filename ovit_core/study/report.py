"""A profile's report from its results alone: no model, no data, seconds. `python -m ovit_core.study report PROFILE`."""

import html
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ovit_core.study import parameters, paths, registry, store
from ovit_core.study.ablation import Ablation, Results, Text
from ovit_core.study.parameters import Parameters

NOT_RUN = Text("*Not run in this profile.*")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; } table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; }
th, td { padding: 0.15rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } code { background: #f3f3f3; padding: 0 0.2em; }
.jp-OutputArea-output { overflow-x: auto; } .anchor-link { display: none; }
"""


def load(profile: str) -> dict[str, Results]:
    """ablation -> its rows and its parameters, as the study exported them to figures/PROFILE.

    Raises:
        ValueError: no profile can have this name.
        FileNotFoundError: nothing has been exported; says which command does it.
    """
    folder = paths.figures(parameters.check_name(profile))
    if not (folder / "results.csv").is_file():
        there = ", ".join(sorted(p.parent.name for p in paths.figures().glob("*/results.csv"))) or "none"
        raise FileNotFoundError(
            f"no results of profile {profile!r} in {folder} (there: {there}); run `python -m ovit_core.study {profile}` first"
        )
    rows = store.read(folder / "results.csv")
    results = {}
    for name, ablation in registry.ablations().items():
        mine = rows[rows.experiment.isin(ablation.experiments)].reset_index(drop=True)
        if len(mine):
            results[name] = Results(ablation, _parameters(folder / f"{name}.parameters.json", ablation), mine)
    return results


def _parameters(path: Path, ablation: Ablation) -> Parameters:
    """Parameters as they were when the rows were exported; unchecked, for rules may have changed since."""
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: run `python -m ovit_core.study {path.parent.name}` again, it exports it")
    return ablation.parameters.model_construct(**json.loads(path.read_text()))


def origin(results: dict[str, Results]) -> Text:
    """Where the numbers come from, as a Markdown table."""
    rows = pd.concat([r.rows for r in results.values()])
    one = lambda column: ", ".join(sorted({str(v) for v in rows[column] if str(v)}))
    known = dict(
        profile=one("profile"), model=one("model"), upstream=one("upstream"), seeds=one("seed"), device=one("device"),
        commit=one("commit"), versions=one("versions"), rows=f"{len(rows)} in figures/{one('profile')}/results.csv",
    )  # fmt: skip
    return Text("| | |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in known.items()))


def contents(results: dict[str, Results]) -> Iterator[object]:
    """All of the report in order: texts and figures, those of every ablation there is."""
    for name, ablation in registry.ablations().items():
        yield Text(f"## {ablation.title}")
        if name not in results:
            yield NOT_RUN
            continue
        mine = results[name]
        yield mine.answers()
        yield mine.setting()
        for figure, drawing in ablation.figures.items():
            if (fig := mine.figure(figure, save=False)) is not None:
                yield Text(f"### {drawing.title}\n{drawing.caption}")
                yield fig
        yield Text("### Tables")
        yield mine.tables()


def show(results: dict[str, Results]) -> None:
    """Shows the report's contents on a notebook's page."""
    from IPython.display import display

    for part in contents(results):
        display(part)


def write_html(executed: Path, out: Path, title: str) -> Path:
    """An executed notebook as one HTML file that needs no network: code left out, pictures inside."""
    import nbformat
    from nbconvert import HTMLExporter

    # "basic" is the bare body; the full templates load scripts from the network.
    exporter = HTMLExporter(
        template_name="basic", exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True
    )
    body, _ = exporter.from_notebook_node(nbformat.read(executed, as_version=4))
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style>'
    paths.write_atomically(out, f"<!doctype html>\n<html lang=en><head>{head}</head>\n<body>{body}</body></html>\n")
    return out
