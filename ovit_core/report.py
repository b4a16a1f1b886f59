"""A profile's report from its results alone: no model, no data, seconds. `python -m ovit_core.study report PROFILE`."""

import html
import json
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
from matplotlib.figure import Figure

from ovit_core import attribution, downstream, figures, results, statistics
from ovit_core import config as configs
from ovit_core.config import Config
from ovit_core.results import FIGURES
from ovit_core.transfer import FLOORS

Study = dict[str, tuple[pd.DataFrame, Config]]  # experiment -> its rows and parameters
PHASES = {"no_weight_update": ["one_shot", "recovered", "gradual"], "transfer": ["linear", "full"]}
NOT_RUN = "*Not run in this profile.*"

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; } table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; }
th, td { padding: 0.15rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } code { background: #f3f3f3; padding: 0 0.2em; }
.jp-OutputArea-output { overflow-x: auto; } .anchor-link { display: none; }
"""


def load(profile: str) -> Study:
    """experiment -> its rows and its parameters, as the study exported them to figures/PROFILE.

    Raises:
        FileNotFoundError: nothing has been exported; says which command does it.
    """
    folder = FIGURES / configs.check_name(profile)
    if not (folder / "results.csv").is_file():
        there = ", ".join(sorted(p.parent.name for p in FIGURES.glob("*/results.csv"))) or "none"
        raise FileNotFoundError(
            f"no results of profile {profile!r} in {folder} (there: {there}); run `python -m ovit_core.study {profile}` first"
        )
    rows = results.read(folder / "results.csv")
    notebook = rows.experiment.replace("sensitivity", "no_weight_update")
    return {
        name: (rows[notebook == name].reset_index(drop=True), _parameters(folder / f"{name}.parameters.json", kind))
        for kind, name in configs.EXPERIMENTS.items()
        if (notebook == name).any()
    }


def _parameters(path: Path, kind: type[Config]) -> Config:
    """A config as it was when the rows were exported; unchecked, for the data need not be here."""
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: run `python -m ovit_core.study {path.parent.name}` again, it exports it")
    config = object.__new__(kind)
    config.__dict__.update(json.loads(path.read_text()))
    return config


def origin(study: Study) -> str:
    """Where the numbers come from, as a Markdown table."""
    rows = pd.concat([r for r, _ in study.values()])
    one = lambda column: ", ".join(sorted({str(v) for v in rows[column] if str(v)}))
    known = dict(
        profile=one("profile"), model=one("model"), upstream=one("upstream"), seeds=one("seed"), device=one("device"),
        commit=one("commit"), versions=one("versions"), rows=f"{len(rows)} in figures/{one('profile')}/results.csv",
    )  # fmt: skip
    return "| | |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in known.items())


def answers(study: Study, experiment: str) -> str:
    """What an ablation found, and in what setting, as Markdown."""
    if experiment not in study:
        return NOT_RUN
    rows, config = study[experiment]
    if experiment == "transfer":
        said, rest = downstream.answers(rows, FLOORS), downstream.not_run(config)
    else:
        said, rest = attribution.answers(rows), statistics.not_run(config)
    return "\n".join(f"- {s}" for s in said) + f"\n\n{statistics.setting(rows, config)}\n\n{rest}"


def figure(study: Study, name: str) -> Figure | None:
    """A figure of `figures.FIGURES`; None where its rows were not run."""
    for experiment, makers in figures.FIGURES.items():
        if name in makers and experiment in study:
            fig = makers[name](study[experiment][0])
            plt.close(fig)  # shown once, as the cell's value
            return fig
    return None


def tables(study: Study, experiment: str) -> str:
    """Mean and interval of every method, sparsity, phase and dataset, as Markdown."""
    if experiment not in study:
        return NOT_RUN
    rows, config = study[experiment]
    datasets = getattr(config, "datasets", [config.upstream])
    out = statistics.tables(rows, PHASES[experiment], datasets)
    if (regimes := statistics.regimes_table(rows, config.upstream)) is not None:
        out += f"\n\n**{config.upstream}, uniform and N:M, one_shot**\n\n{statistics.markdown(regimes)}"
    return out


def write_html(executed: Path, out: Path, title: str) -> Path:
    """An executed notebook as one HTML file that needs no network: code left out, pictures inside."""
    from nbconvert import HTMLExporter

    page = nbformat.read(executed, as_version=4)
    # "basic" is the bare body; the full templates load scripts from the network.
    exporter = HTMLExporter(
        template_name="basic", exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True
    )
    body, _ = exporter.from_notebook_node(page)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style>'
    results.write_atomically(out, f"<!doctype html>\n<html lang=en><head>{head}</head>\n<body>{body}</body></html>\n")
    return out
