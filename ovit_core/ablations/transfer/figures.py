"""Ablation B's figures: accuracy by dataset and source, few-shot curves, errors relative to dense, and what goes with
transfer. Grey is a dataset that tells nothing by a protocol. Means are over the seeds that all of a panel's points have.
"""

from collections.abc import Callable, Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovit_core.ablations.transfer.families import SOURCES
from ovit_core.ablations.transfer.parameters import FLOORS
from ovit_core.ablations.transfer.relations import (
    MODEL,
    beside_similarity,
    beside_upstream,
    correlation,
    error_increase,
    headline,
    transferred,
)
from ovit_core.ablations.transfer.telling import NAMES, POINT, Protocol, of, protocol, sets
from ovit_core.study.ablation import Drawing
from ovit_core.study.plots import STYLE, against, legend, percent, reference, shown
from ovit_core.study.statistics import same_seeds, share, summary

FLOOR_STYLE = {"random_init": ":", "raw_pixels": (0, (1, 3)), "from_scratch": (0, (3, 1, 1, 1))}
METRICS = {"top1": "top-1", "mean_per_class": "mean per class"}
GREY = "0.72"


def transfer(rows: pd.DataFrame, phase: str) -> Figure | None:
    """Accuracy of a protocol on all images against sparsity: a column per dataset, a line for models as pruned and one
    for recovered ones, dense (trained as long) and the floors as lines.
    """
    one = Protocol(phase)
    here = transferred(of(rows, one))
    sources = [source for source in SOURCES if (here.sparsity_target > 0)[here.source_phase == source].any()]
    if not sources:
        return None
    datasets, tells, silent = list(here.dataset.unique()), telling(rows, one), []
    fig, grid = _grid(len(sources), len(datasets), sharey="col")
    for source, line in zip(sources, grid):
        for dataset, ax in zip(datasets, line):
            mine = here[(here.dataset == dataset) & here.source_phase.isin((source, ""))]
            found = summary(same_seeds(mine, ["dataset"], ["method", "sparsity_target"]), ["method", "sparsity_target"])
            reference(ax, found, "dense", "dense, the same source")
            _floors(ax, found, mine.method)
            against(ax, found[found.sparsity_target > 0])
            percent(ax)
            if source == sources[0]:
                ax.set_title(f"{dataset}\n{METRICS[mine.metric.iloc[0]]}", fontsize="medium")
            silent += [] if dataset in tells else [ax]
        line[0].set_ylabel(f"models {SOURCES[source]}")
    fig.supylabel(f"test accuracy, {one.words}", fontsize="medium")
    legend(fig)
    grey(silent)
    return fig


def few(rows: pd.DataFrame) -> Figure | None:
    """Accuracy of linear probes against the images a class that they learn from, at the sparsity that sentences speak of."""
    here = transferred(rows[rows.phase == "linear"])
    pruned = here[here.sparsity_target > 0]
    if pruned.empty or here.shots.isna().all():
        return None
    at = headline(rows, pruned)
    here = here[here.sparsity_target.isin((0, at))]
    sources = [source for source in SOURCES if (pruned.source_phase == source).any()]
    datasets, lengths = list(here.dataset.unique()), [*sorted(here.shots.dropna().unique()), np.nan]
    tells = {shots: telling(rows, Protocol("linear", 0 if np.isnan(shots) else int(shots))) for shots in lengths}
    fig, grid = _grid(len(sources), len(datasets), sharey="col")
    for source, line in zip(sources, grid):
        for dataset, ax in zip(datasets, line):
            mine = here[(here.dataset == dataset) & here.source_phase.isin((source, ""))]
            found = summary(same_seeds(mine, ["dataset"], ["method", "shots"]), ["method", "shots"])
            found["x"] = found.shots.fillna(0).map({0 if np.isnan(s) else s: i for i, s in enumerate(lengths)})
            drawn = ("dense", *FLOORS["linear"], *shown(found))
            for i, method in enumerate(drawn):
                f = found[found.method == method].sort_values("x")
                colour, marker = STYLE.get(method, ("black", ""))
                look = dict(color=colour, marker=marker, ms=4.5, lw=1.3, ls=FLOOR_STYLE.get(method, "-"))
                label = "dense, the same source" if method == "dense" else method.replace("_", " ")
                x = f.x + 0.3 * ((i + 0.5) / len(drawn) - 0.5)
                ax.errorbar(x, f["mean"], f.half.fillna(0), label=method if method in STYLE else label, **look)
            silent = [i for i, shots in enumerate(lengths) if dataset not in tells[shots]]
            for i in silent:
                ax.axvspan(i - 0.4, i + 0.4, color=GREY, alpha=0.35, lw=0)
            ax.set_xticks(range(len(lengths)), ["all" if np.isnan(s) else f"{s:g}" for s in lengths])
            ax.set_xlabel("training images a class")
            percent(ax)
            if source == sources[0]:
                ax.set_title(dataset, fontsize="medium")
        line[0].set_ylabel(f"models {SOURCES[source]}")
    fig.supylabel(f"test accuracy of linear probes, pruned to {share(at)}", fontsize="medium")
    legend(fig)
    return fig


def errors(rows: pd.DataFrame) -> Figure | None:
    """The relative increase in error, averaged over the datasets that can tell: a column per protocol, a line per
    source.
    """
    found = error_increase(rows)
    if found.empty:
        return None
    kinds = list(found.groupby(["phase", "shots"], sort=False, dropna=False))
    sources = [source for source in SOURCES if (found.source_phase == source).any()]
    fig, grid = _grid(len(sources), len(kinds), sharey="row")
    for source, line in zip(sources, grid):
        for ((phase, shots), more), ax in zip(kinds, line):
            here = more[more.source_phase == source]
            if here.empty:
                ax.axis("off")
                continue
            ax.axhline(0, color="black", ls="--", lw=1, label="dense, the same source")
            against(ax, here)
            percent(ax, accuracy=False)
            if source == sources[0]:
                words = protocol(pd.Series(dict(phase=phase, shots=shots))).words
                ax.set_title(f"{words[0].upper()}{words[1:]}\n{more.datasets.iloc[0]}", fontsize="small")
        line[0].set_ylabel(f"models {SOURCES[source]}")
    fig.supylabel("errors relative to dense", fontsize="medium")
    legend(fig)
    return fig


def beside(rows: pd.DataFrame, make: Callable[[pd.DataFrame], pd.DataFrame], column: str, label: str) -> Figure | None:
    """Transfer accuracy against another number: a point per model, filled as pruned, hollow recovered; a column per
    dataset, a line per protocol on all images; above, the rank correlation, or that the set tells nothing.
    """
    both = make(rows)
    both = same_seeds(both[both.shots.isna()], POINT, MODEL)
    if both[both.sparsity_target > 0].empty:
        return None
    key, known = [*POINT, *MODEL], sets(rows)
    xs = summary(both.assign(value=both[column], each=None, labels=None), key)
    found = summary(both, key).merge(xs, on=key, suffixes=("", "_x"))
    ranks = {tuple(r[:3]): r for r in correlation(both.assign(shots=0), column).itertuples(index=False)}
    phases, datasets = [p for p in NAMES if (found.phase == p).any()], list(found.dataset.unique())
    silent = []
    fig, grid = _grid(len(phases), len(datasets))
    for phase, line in zip(phases, grid):
        tells = set(of(known, Protocol(phase)).query("tells").dataset)
        for dataset, ax in zip(datasets, line):
            here = found[(found.phase == phase) & (found.dataset == dataset)]
            if here.empty:
                ax.axis("off")
                continue
            for method in ("dense", *shown(here)):
                colour, marker = STYLE.get(method, ("black", "*"))
                for source in SOURCES:
                    f = here[(here.method == method) & (here.source_phase == source)].fillna(0)
                    face = colour if source == "one_shot" else "white"
                    look = dict(ls="", marker=marker, ms=6, lw=0.7, color=colour, mfc=face)
                    ax.errorbar(f.mean_x, f["mean"], f.half, f.half_x, label=method if len(f) else None, **look)
            ax.set_title(f"{dataset}\n{_rank(ranks.get((phase, 0, dataset)))}", fontsize="small")
            percent(ax)
            ax.set_xlabel(label)
            silent += [] if dataset in tells else [ax]
        line[0].set_ylabel(NAMES[phase])
    fig.supylabel("transfer accuracy (test); hollow: recovered", fontsize="medium")
    legend(fig)
    grey(silent)
    return fig


def _rank(line) -> str:
    """A rank correlation as a title tells it."""
    if line is None:
        return "too few models"
    return f"ρ {line.rho:+.2f} [{line.low:+.2f}, {line.high:+.2f}]" if line.rho == line.rho else "ρ: nothing varies"


def telling(rows: pd.DataFrame, one: Protocol) -> set[str]:
    """The datasets that tell something by a protocol."""
    found = of(sets(rows), one)
    return set(found[found.tells].dataset)


def grey(panels: Iterable[Axes]) -> None:
    """Takes the colours out of panels whose models no sentence compares, once there is a legend."""
    for ax in panels:
        for line in ax.lines:
            hollow = line.get_markerfacecolor() == "white"
            line.set(color=GREY, markeredgecolor=GREY, markerfacecolor="white" if hollow else GREY)
        for bars in ax.collections:
            bars.set_color(GREY)
        ax.text(0.02, 0.02, "tells nothing", transform=ax.transAxes, color="0.45", fontsize="small")


def _grid(lines: int, columns: int, **shared: str) -> tuple[Figure, np.ndarray]:
    """(lines, columns) panels."""
    return plt.subplots(lines, columns, figsize=(1.2 + 2.9 * columns, 0.7 + 2.7 * lines), squeeze=False, **shared)


def _floors(ax: Axes, found: pd.DataFrame, methods: Iterable[str]) -> None:
    for floor, look in FLOOR_STYLE.items():
        if floor in set(methods):
            reference(ax, found, floor, floor.replace("_", " "), look)


FIGURES = {
    "transfer_linear": Drawing(
        lambda rows: transfer(rows, "linear"), "Linear probe", "A linear classifier on frozen features."
    ),
    "transfer_few": Drawing(few, "A few images a class", "Linear probes that learn from 5 or 20 images a class."),
    "transfer_knn": Drawing(
        lambda rows: transfer(rows, "knn"), "Nearest neighbours", "The vote of 20 neighbours by cosine: nothing is tuned."
    ),
    "transfer_full": Drawing(
        lambda rows: transfer(rows, "full"), "Full finetuning", "All kept weights trained, masks held."
    ),
    "transfer_errors": Drawing(
        errors, "All datasets together", "Errors relative to dense, over the datasets where dense beats its floor."
    ),
    "transfer_upstream": Drawing(
        lambda rows: beside(rows, beside_upstream, "upstream_top1", "upstream top-1 (test)"),
        "Does upstream accuracy predict transfer?", "A point per model; the rank correlation is over the pruned ones, "
        "not corrected for the number of panels.",
    ),
    "transfer_similarity": Drawing(
        lambda rows: beside(rows, beside_similarity, "cka", "CKA with dense's features"),
        "Do features that stay alike transfer?", "Likeness of a model's features to dense's, beside its accuracy.",
    ),
}  # fmt: skip
