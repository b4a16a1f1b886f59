"""Figures from rows alone: mean and interval, never a lone line; every file carries where it came from."""

import json
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ovit_core import statistics
from ovit_core.results import FIGURES, write_atomically

COMMAND = "OVIT_COMMAND"  # where `study` leaves its own command line for the figures' provenance
# Seaborn's colour-blind safe palette; one colour and one marker per method, the same in every figure.
_PALETTE = sns.color_palette("colorblind")
STYLE = {
    "ovit": (_PALETTE[0], "o"),
    "ovit_mask_only": (_PALETTE[1], "s"),
    "ovit_no_update": (_PALETTE[2], "^"),
    "obert": (_PALETTE[4], "D"),
    "magnitude": (_PALETTE[3], "v"),
    "ovit_no_update_joint": (_PALETTE[5], "P"),
    "obert_mask_only": (_PALETTE[6], "X"),
    "obert_joint": (_PALETTE[9], "*"),
    "magnitude_joint": (_PALETTE[8], "<"),
    "diag_fisher": ("0.35", "p"),
    "random": ("0.6", "."),
}
FLOOR_STYLE = {"random_init": ":", "raw_pixels": (0, (1, 3)), "from_scratch": ":"}
plt.rcParams |= {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "ovit", "figure.constrained_layout.use": True,
}  # fmt: skip


def _curves(ax, found: pd.DataFrame, methods: list[str]) -> None:
    for method in methods:
        f = found[found.method == method].sort_values("sparsity_target")
        colour, marker = STYLE[method]
        half = f.half.fillna(0)
        ax.fill_between(f.sparsity_target, f["mean"] - half, f["mean"] + half, color=colour, alpha=0.18, lw=0)
        ax.plot(f.sparsity_target, f["mean"], color=colour, marker=marker, ms=4.5, lw=1.5, label=method)


def _reference(ax, found: pd.DataFrame, method: str, label: str, style="--") -> None:
    f = found[found.method == method]
    if len(f):
        mean, half = f["mean"].iloc[0], f.half.fillna(0).iloc[0]
        ax.axhspan(mean - half, mean + half, color="black", alpha=0.07, lw=0)
        ax.axhline(mean, color="black", ls=style, lw=1, label=label)


def _percent(ax, accuracy: bool = True) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    if accuracy:  # an interval may pass 0 or 100 %, the axis should not
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -0.03), min(high, 1.03))


def _intervals(ax, found: pd.DataFrame, groups: list, key: str, methods: list[str]) -> None:
    """Means with error bars side by side: one group per value of `key`, one mark per method."""
    width = 0.7 / max(1, len(methods))
    for i, method in enumerate(methods):
        f = found[found.method == method].set_index(key).reindex(groups)
        colour, marker = STYLE.get(method, ("0.45", "_"))
        x = np.arange(len(groups)) + (i - (len(methods) - 1) / 2) * width
        ax.errorbar(
            x,
            f["mean"],
            yerr=f.half.fillna(0),
            color=colour,
            marker=marker,
            ms=5.5,
            ls="",
            capsize=2.5,
            lw=1.2,
            label=method,
        )
    for edge in np.arange(len(groups) - 1) + 0.5:
        ax.axvline(edge, color="0.85", lw=0.8)
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.grid(axis="x", visible=False)


def ablation_a(rows: pd.DataFrame) -> Figure:
    """Top-1 against sparsity one-shot (left), and after recovery (right)."""
    found = statistics.accuracy(rows)
    one, rec = found[found.phase == "one_shot"], found[found.phase == "recovered"]
    methods = [m for m in STYLE if m in set(found.method)]
    if rec.empty:
        fig, left = plt.subplots(figsize=(6, 3.9))
        right = None
    else:
        fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), sharey=True, width_ratios=(3, 2))
    _reference(left, one, "dense", "dense")
    _curves(left, one, methods)
    left.set(
        title="One-shot",
        xlabel="sparsity (zeros / prunable weights)",
        ylabel=f"top-1 on {rows.upstream.iloc[0]} (test)",
    )
    _percent(left)
    if right is not None:
        _reference(right, rec, "dense", "dense, same training", "-.")
        groups = sorted(set(rec.sparsity_target) - {0})
        _intervals(right, rec, groups, "sparsity_target", methods)
        _percent(right)
        right.set_xticks(range(len(groups)), [f"{100 * g:g} %" for g in groups])
        right.set(title="After recovery, masks fixed", xlabel="sparsity")
    # The left panel's lines stand for both, so that a method has one entry.
    handles = {label: handle for ax in (right, left) if ax for handle, label in zip(*ax.get_legend_handles_labels())}
    labels = sorted(handles, key=lambda label: (not label.startswith("dense"), label == "dense, same training"))
    fig.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 7 if right else 4),
        columnspacing=1.2,
    )
    return fig


def ablation_a_gain(rows: pd.DataFrame) -> Figure:
    """What the update brings one-shot: ovit minus each ablated form and rival, paired by seed."""
    methods = [m for m in STYLE if m in set(rows.method) and m != "ovit"]
    fig, ax = plt.subplots(figsize=(6, 3.6))
    ax.axhline(0, color="black", lw=1)
    for method in methods:
        gain = statistics.difference(rows[rows.phase == "one_shot"], "ovit", method).assign(method=method)
        _curves(ax, gain, [method])
    ax.set(
        xlabel="sparsity (zeros / prunable weights)",
        ylabel="top-1 of ovit minus method, points",
        title="One-shot gain of oViT over",
    )
    _percent(ax, accuracy=False)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:+.0f}" if v else "0")
    fig.legend(loc="outside right upper")
    return fig


def transfer_linear(rows: pd.DataFrame, floors: tuple[str, ...]) -> Figure:
    """Linear-probe accuracy against sparsity, a panel per dataset, dense and the floors as lines."""
    found = statistics.accuracy(rows)
    found = found[found.phase == "linear"]
    datasets = list(dict.fromkeys(found.dataset))
    methods = [m for m in STYLE if m in set(found.method)]
    fig, axes = plt.subplots(1, len(datasets), figsize=(1.2 + 2.9 * len(datasets), 3.7), squeeze=False)
    for ax, dataset in zip(axes[0], datasets):
        here = found[found.dataset == dataset]
        _reference(ax, here, "dense", "dense")
        for floor in floors:
            _reference(ax, here, floor, floor.replace("_", " "), FLOOR_STYLE[floor])
        _curves(ax, here, methods)
        ax.set(title=dataset, xlabel="sparsity")
        _percent(ax)
    axes[0, 0].set_ylabel(f"{_metric(rows, 'linear')}, linear probe (test)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), columnspacing=1.2, handletextpad=0.5)
    return fig


def transfer_full(rows: pd.DataFrame, floors: tuple[str, ...]) -> Figure:
    """Accuracy after full finetuning at the highest sparsity run, a panel per dataset, dense and floor as lines."""
    found = statistics.accuracy(rows)
    found = found[found.phase == "full"]
    top = found.sparsity_target.max()
    datasets = list(dict.fromkeys(found.dataset))
    methods = [m for m in STYLE if m in set(found.method)]
    fig, axes = plt.subplots(1, len(datasets), figsize=(1.2 + 2.9 * len(datasets), 3.4), squeeze=False)
    for ax, dataset in zip(axes[0], datasets):
        here = found[found.dataset == dataset]
        _reference(ax, here, "dense", "dense, finetuned")
        for floor in floors:
            _reference(ax, here, floor, floor.replace("_", " "), FLOOR_STYLE[floor])
        _intervals(ax, here[here.sparsity_target == top], [top], "sparsity_target", methods)
        _percent(ax)
        ax.set(title=dataset, xlabel=f"{100 * top:g} % sparsity", xticks=[])
    axes[0, 0].set_ylabel(f"{_metric(rows, 'full')}, full finetuning (test)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), columnspacing=1.2, handletextpad=0.5)
    return fig


def _metric(rows: pd.DataFrame, phase: str) -> str:
    names = set(rows[rows.phase == phase].metric)
    return {"top1": "top-1", "mean_per_class": "mean per class"}[names.pop()] if len(names) == 1 else "accuracy"


def provenance(rows: pd.DataFrame) -> dict[str, str]:
    """Where a figure's numbers come from: command, commit, device, seeds, versions."""
    one = lambda column: ", ".join(sorted(set(map(str, rows[column]))))
    return dict(
        command=os.environ.get(COMMAND, f"notebooks/{one('experiment')}.ipynb with profile {one('profile')}"),
        commit=one("commit"), device=one("device"), seeds=one("seed"), versions=one("versions"), runs=one("run_id"),
    )  # fmt: skip


def save(fig: Figure, name: str, rows: pd.DataFrame) -> Figure:
    """Writes figures/PROFILE/NAME.png, .svg and .json (provenance, also inside both pictures); returns the figure."""
    folder = FIGURES / rows.profile.iloc[0]
    origin = provenance(rows)
    footer = f"seeds {origin['seeds']} · commit {origin['commit']} · {origin['device']}"
    fig.suptitle(footer, x=0.995, ha="right", fontsize=6, color="0.5")
    write_atomically(folder / f"{name}.json", json.dumps(origin, indent=1) + "\n")
    text = "; ".join(f"{k}: {v}" for k, v in origin.items())
    fig.savefig(folder / f"{name}.png", dpi=160, bbox_inches="tight", metadata={"Description": text})
    fig.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Description": text, "Date": None})
    plt.close(fig)  # shown once, as the cell's value
    return fig
