"""Ablation B's figures: accuracy by dataset, errors relative to dense, upstream accuracy as a predictor."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovit_core.ablations.transfer.analysis import PROTOCOLS, beside_upstream, correlation, error_increase, floors
from ovit_core.ablations.transfer.parameters import FLOORS
from ovit_core.study.ablation import Drawing
from ovit_core.study.plots import STYLE, against, legend, percent, reference, shown
from ovit_core.study.statistics import accuracies, accuracy, spreads, summary

FLOOR_STYLE = {"random_init": ":", "raw_pixels": (0, (1, 3)), "from_scratch": (0, (3, 1, 1, 1))}
METRICS = {"top1": "top-1", "mean_per_class": "mean per class"}


def transfer(rows: pd.DataFrame, phase: str) -> Figure | None:
    """Accuracy of one protocol against sparsity, a panel per dataset, dense and the floors as lines."""
    rows = accuracies(rows[rows.phase == phase])
    if rows.empty:
        return None
    fig, axes = _panels(rows.dataset.unique())
    for dataset, ax in axes.items():
        here = rows[rows.dataset == dataset]
        found = accuracy(here)
        reference(ax, found, "dense", "dense")
        _floors(ax, found, phase)
        against(ax, found[found.sparsity_target > 0])
        percent(ax)
        ax.set_title(f"{dataset}\n{METRICS[here.metric.iloc[0]]}", fontsize="medium")
    fig.supylabel(f"test accuracy, {PROTOCOLS[phase]}", fontsize="medium")
    legend(fig)
    return fig


def errors(rows: pd.DataFrame) -> Figure | None:
    """The relative increase in error, averaged over the datasets that can tell, a panel per protocol."""
    found, sets = list(error_increase(rows).groupby("phase", sort=False)), floors(rows)
    if not found:
        return None
    fig, axes = plt.subplots(1, len(found), figsize=(1.5 + 3.6 * len(found), 3.6), squeeze=False)
    for (phase, more), ax in zip(found, axes[0]):
        ax.axhline(0, color="black", ls="--", lw=1, label="dense")
        against(ax, more)
        percent(ax, accuracy=False)
        names = sets[sets.tells].loc[phase].index
        ax.set_title(f"{PROTOCOLS[phase].capitalize()}\n{', '.join(names)}", fontsize="medium")
    axes[0, 0].set_ylabel("errors relative to dense")
    legend(fig)
    return fig


def upstream(rows: pd.DataFrame) -> Figure | None:
    """Transfer accuracy against upstream top-1: a point per model, a panel per dataset, linear probe filled and full
    finetuning hollow, the floors as lines; above, the rank correlation, or that dense barely beats a floor.
    """
    both = beside_upstream(rows)
    if both[both.sparsity_target > 0].empty:
        return None
    key = ["phase", "dataset", "method", "sparsity_target"]
    found = summary(both, key).merge(
        summary(both.assign(value=both.upstream_top1, each=None), key), on=key, suffixes=("", "_x")
    )
    sets, levels = floors(rows), accuracy(rows)
    ranks = correlation(rows).set_index(["phase", "dataset"])
    ranks = dict(zip(ranks.index, spreads(ranks, "+.2f", 1)))
    fig, axes = _panels(found.dataset.unique())
    for dataset, ax in axes.items():
        title = dataset
        for phase, here in found[found.dataset == dataset].groupby("phase", sort=False):
            for method in ("dense", *shown(here)):
                f = here[here.method == method].fillna(0)
                colour, marker = STYLE.get(method, ("black", "*"))
                label = method if phase == found.phase.iloc[0] else None
                look = dict(ls="", marker=marker, ms=6, lw=0.7, color=colour, label=label)
                ax.errorbar(f.mean_x, f["mean"], f.half, f.half_x, mfc=colour if phase == "linear" else "white", **look)
            _floors(ax, levels[(levels.dataset == dataset) & (levels.phase == phase)], phase)
            rank = ranks.get((phase, dataset), "of too few models")
            title += f"\n{phase}: " + (f"ρ {rank}" if sets.tells[phase, dataset] else "no claim")
        ax.set_title(title, fontsize="small")
        percent(ax)
        ax.set_xlabel("upstream top-1 (test)")
    fig.supylabel("transfer accuracy (test); hollow: full finetuning", fontsize="medium")
    legend(fig)
    return fig


def _panels(datasets: Iterable[str]) -> tuple[Figure, dict[str, Axes]]:
    """A panel per dataset, up to three in a row; the figure, and dataset -> axes."""
    columns = min(3, len(datasets))
    lines = -(-len(datasets) // columns)
    fig, axes = plt.subplots(lines, columns, figsize=(1.0 + 3.0 * columns, 0.6 + 3.2 * lines), squeeze=False)
    for ax in axes.flat[len(datasets) :]:
        ax.remove()
    return fig, dict(zip(datasets, axes.flat))


def _floors(ax: Axes, found: pd.DataFrame, phase: str) -> None:
    for floor in FLOORS[phase]:
        reference(ax, found, floor, floor.replace("_", " "), FLOOR_STYLE[floor])


FIGURES = {
    "transfer_linear": Drawing(
        lambda rows: transfer(rows, "linear"), "Linear probe", "A linear classifier on frozen features."
    ),
    "transfer_full": Drawing(
        lambda rows: transfer(rows, "full"), "Full finetuning", "All kept weights trained, masks held."
    ),
    "transfer_errors": Drawing(
        errors, "All datasets together", "Errors relative to dense, over the datasets where dense beats its floor."
    ),
    "transfer_upstream": Drawing(
        upstream, "Does upstream accuracy predict transfer?",
        "A point per pruned model; the rank correlation is over the models of a seed.",
    ),
}  # fmt: skip
