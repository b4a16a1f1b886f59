"""Ablation B's figures: accuracy by dataset, errors relative to dense, upstream accuracy as a predictor, classes."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ovit_core.ablations.transfer.analysis import PROTOCOLS, beside_upstream, correlation, error_increase, telling
from ovit_core.ablations.transfer.parameters import FLOORS
from ovit_core.study import statistics
from ovit_core.study.ablation import Drawing
from ovit_core.study.plots import STYLE, curves, intervals, legend, percent, reference

FLOOR_STYLE = {"random_init": ":", "raw_pixels": (0, (1, 3)), "from_scratch": (0, (3, 1, 1, 1))}
METRICS = {"top1": "top-1", "mean_per_class": "mean per class"}


def transfer(rows: pd.DataFrame, phase: str) -> Figure | None:
    """Accuracy of one protocol against sparsity, a panel per dataset, dense and the floors as lines."""
    found = statistics.accuracy(rows[rows.phase == phase])
    if found.empty:
        return None
    methods = _methods(found)
    sparsities = sorted(set(found.sparsity_target) - {0})
    fig, axes = _panels(found, lambda dataset: f"{dataset}\n{METRICS[_metric(rows, dataset)]}")
    for dataset, ax in axes.items():
        here = found[found.dataset == dataset]
        reference(ax, here, "dense", "dense")
        for floor in FLOORS[phase]:
            reference(ax, here, floor, floor.replace("_", " "), FLOOR_STYLE[floor])
        _against_sparsity(ax, here, sparsities, methods)
    fig.supylabel(f"test accuracy, {PROTOCOLS[phase]}", fontsize="medium")
    legend(fig, axes.values(), 3 * len(axes))
    return fig


def errors(rows: pd.DataFrame) -> Figure | None:
    """The relative increase in error, averaged over the datasets that can tell, a panel per protocol."""
    found = error_increase(rows)
    if found.empty:
        return None
    phases = list(dict.fromkeys(found.phase))
    fig, axes = plt.subplots(1, len(phases), figsize=(1.5 + 3.6 * len(phases), 3.6), squeeze=False)
    for phase, ax in zip(phases, axes[0]):
        here = found[found.phase == phase]
        ax.axhline(0, color="black", ls="--", lw=1, label="dense")
        _against_sparsity(ax, here, sorted(set(here.sparsity_target)), _methods(here), accuracy=False)
        names = ", ".join(telling(rows, phase))
        ax.set_title(f"{PROTOCOLS[phase].capitalize()}\n{names}", fontsize="medium")
    axes[0, 0].set_ylabel("errors relative to dense, mean over datasets")
    legend(fig, axes.flat, 3 * axes.size)
    return fig


def upstream(rows: pd.DataFrame) -> Figure | None:
    """Transfer accuracy against upstream top-1: a point per pruned model (mean and intervals over seeds), a panel per
    dataset, linear probe filled and full finetuning hollow, the floors as lines; the rank correlation above, and where
    no claim is made because dense does not beat its floor.
    """
    both = beside_upstream(rows)
    if both[both.sparsity_target > 0].empty:
        return None
    key = ["phase", "dataset", "method", "sparsity_target"]
    found = both.groupby(key, sort=False).agg(
        mean=("value", "mean"), half=("value", statistics.t_interval),
        x=("upstream_top1", "mean"), x_half=("upstream_top1", statistics.t_interval),
    ).reset_index()  # fmt: skip
    rho = correlation(rows).set_index(["phase", "dataset"])
    levels = statistics.accuracy(rows)
    fig, axes = _panels(found, lambda dataset: dataset)
    for dataset, ax in axes.items():
        said = []
        for phase in [p for p in PROTOCOLS if p in set(found.phase)]:
            for method in ["dense", *_methods(found)]:
                f = found[(found.dataset == dataset) & (found.phase == phase) & (found.method == method)]
                colour, marker = STYLE.get(method, ("black", "*"))
                ax.errorbar(
                    f.x, f["mean"], xerr=f.x_half.fillna(0), yerr=f.half.fillna(0), ls="", marker=marker, ms=6, lw=0.7,
                    color=colour, mfc=colour if phase == "linear" else "white",
                    label=method if phase == found.phase.iloc[0] else None,
                )  # fmt: skip
            here = levels[(levels.dataset == dataset) & (levels.phase == phase)]
            for floor in FLOORS[phase]:
                reference(ax, here, floor, floor.replace("_", " "), FLOOR_STYLE[floor])
            note = []
            if (phase, dataset) in rho.index:
                r = rho.loc[(phase, dataset)]
                note.append(f"ρ {statistics.spread(r['mean'], r.half, '+.2f', 1)}")
            if dataset not in telling(rows, phase):
                note.append("no claim")
            said += [f"{phase}: {', '.join(note)}"] * bool(note)
        ax.set_title("\n".join([dataset, "; ".join(said)]), fontsize="small")
        percent(ax)
        ax.set_xlabel("upstream top-1 (test)")
    fig.supylabel("transfer accuracy (test); hollow: full finetuning", fontsize="medium")
    legend(fig, axes.values(), 3 * len(axes))
    return fig


def _panels(found: pd.DataFrame, title):
    """A panel per dataset, up to three in a row; the figure, and dataset -> axes."""
    datasets = list(dict.fromkeys(found.dataset))
    columns = min(3, len(datasets))
    lines = -(-len(datasets) // columns)
    size = (1.0 + 3.0 * columns, 0.6 + 3.2 * lines)
    fig, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(datasets) :]:
        ax.set_visible(False)
    for ax, dataset in zip(axes.flat, datasets):
        ax.set_title(title(dataset), fontsize="medium")
    return fig, dict(zip(datasets, axes.flat))


def _against_sparsity(ax, here: pd.DataFrame, sparsities: list[float], methods: list[str], accuracy=True) -> None:
    """Curves over several sparsities, or marks side by side at the only one."""
    if len(sparsities) > 1:
        curves(ax, here, methods)
        percent(ax, accuracy)
        ax.set_xlabel("sparsity")
    else:
        intervals(ax, here, sparsities, "sparsity_target", methods)
        percent(ax, accuracy)
        ax.set(xlabel=f"{100 * sparsities[0]:g} % sparsity", xticks=[])


def _methods(found: pd.DataFrame) -> list[str]:
    return [m for m in STYLE if m in set(found.method)]


def _metric(rows: pd.DataFrame, dataset: str) -> str:
    return statistics.accuracies(rows[rows.dataset == dataset]).metric.iloc[0]


FIGURES = {
    "transfer_linear": Drawing(
        lambda rows: transfer(rows, "linear"), "Linear probe", "A linear classifier on frozen features."
    ),
    "transfer_full": Drawing(lambda rows: transfer(rows, "full"), "Full finetuning", "All kept weights trained, masks held."),
    "transfer_errors": Drawing(
        errors, "All datasets together", "Errors relative to dense, over the datasets where dense beats its floor."
    ),
    "transfer_upstream": Drawing(
        upstream, "Does upstream accuracy predict transfer?",
        "A point per pruned model; the rank correlation is over the models of a seed.",
    ),
}  # fmt: skip
