"""Ablation A's figures: accuracy against sparsity, the update's worth, where the gain comes from, where it acts."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator

from ovit_core.ablations.no_weight_update.analysis import SWEPT, TITLES, attribution, sensitivity, sweeps
from ovit_core.study import statistics
from ovit_core.study.ablation import Drawing
from ovit_core.study.plots import curves, intervals, legend, percent, reference, shown

PART_COLOURS = dict(
    score=sns.color_palette("colorblind")[2], update=sns.color_palette("colorblind")[0], interaction="0.6"
)
SCORES = dict(static="oBERT's score", greedy_frozen="greedy score, never corrected", greedy="oViT's score")
AXES = dict(block_size="block size B", gradients="gradients m", gradient_batch="images per gradient", damp="λ")


def accuracies(rows: pd.DataFrame, *panels: tuple[str, str, str, str]) -> Figure | None:
    """Top-1 of every method, in panels of (title, phase, allocation, what is along x: `curve` over sparsities, or a
    column of groups); those that were not run are left out.
    """
    found = statistics.accuracy(rows)
    drawn = []
    for title, phase, allocation, along in panels:
        pattern = found.pattern != "unstructured" if along == "pattern" else found.pattern == "unstructured"
        here = found[(found.phase == phase) & (found.allocation == allocation) & pattern]
        if (here.method != "dense").any():
            drawn.append((title, here, found[(found.phase == phase) & (found.method == "dense")], along))
    if not drawn:
        return None
    methods = shown(pd.concat([here for _, here, _, _ in drawn]))
    fig, axes = plt.subplots(1, len(drawn), figsize=(1.5 + 3.9 * len(drawn), 3.9), sharey=True, squeeze=False)
    for ax, (title, here, dense, along) in zip(axes[0], drawn):
        trained = here.phase.iloc[0] != "one_shot"
        reference(ax, dense, "dense", "dense, same training" if trained else "dense", "-." if trained else "--")
        there = [m for m in methods if m in set(here.method)]
        groups = sorted(set(here[here.method != "dense"][along])) if along != "curve" else []
        curves(ax, here, there) if along == "curve" else intervals(ax, here, groups, along, there)
        percent(ax)
        if groups:
            names = [
                f"{100 * g:g} %" if along == "sparsity_target" else f"keeps {g.replace(':', ' of ')}" for g in groups
            ]
            ax.set_xticks(range(len(groups)), names)
        ax.set(title=title, xlabel="pattern" if along == "pattern" else "sparsity (zeros / prunable weights)")
    axes[0, 0].set_ylabel(f"top-1 on {rows.upstream.iloc[0]} (test)")
    legend(fig, axes.flat)
    return fig


def parts(rows: pd.DataFrame, *phases: str) -> Figure | None:
    """The gain over magnitude taken apart, a panel per phase and score: diverging bars with intervals, per sparsity."""
    found = attribution(rows)
    panels = [p for phase in phases for p in found[found.phase == phase].groupby("score_kind", sort=False)]
    if not panels:
        return None
    width = 1.2 + 2.8 * len(panels) if len(panels) > 1 else 6
    fig, axes = plt.subplots(1, len(panels), figsize=(width, 3.6), sharey=True, squeeze=False)
    for ax, (score, here) in zip(axes[0], panels):
        groups = sorted(set(here.sparsity_target))
        for k, (part, colour) in enumerate(PART_COLOURS.items()):
            p = here[here.part == part].set_index("sparsity_target").reindex(groups)
            x = np.arange(len(groups)) + (k - 1) * 0.26
            ax.bar(x, p["mean"], 0.24, color=colour, yerr=p.half.fillna(0), capsize=2, error_kw=dict(lw=1), label=part)
        total = here[here.part == "total"].set_index("sparsity_target").reindex(groups)
        ax.plot(np.arange(len(groups)), total["mean"], "kD", ms=4, label="sum: joint minus magnitude")
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xticks(range(len(groups)), [f"{100 * g:g}" for g in groups])
        title = SCORES[score] if len(phases) == 1 else f"{TITLES[here.phase.iloc[0]]}, {SCORES[score]}"
        ax.set(title=title, xlabel="sparsity, %")
        ax.grid(axis="x", visible=False)
        ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:+.3g}" if v else "0")
    axes[0, 0].set_ylabel("gain over magnitude, points of top-1")
    legend(fig, axes.flat)
    return fig


def sensitivities(rows: pd.DataFrame) -> Figure | None:
    """Against each setting that was varied, a column each: above, oViT with and without its update at the same mask,
    beside magnitude and dense; below, the difference.
    """
    gain, levels = sensitivity(rows), sweeps(rows)
    if gain.empty:
        return None
    levels = levels.groupby(["column", "setting", "method"]).value.agg(mean="mean", half=statistics.t_interval)
    levels = levels.reset_index().rename(columns=dict(setting="sparsity_target"))  # what `curves` draws along x
    plain = statistics.accuracy(statistics.main(rows))
    at = rows[rows.experiment == "sensitivity"].sparsity_target.iloc[0]
    plain = plain[(plain.phase == "one_shot") & plain.sparsity_target.isin((0, at))]
    columns = [c for c in SWEPT if c in set(gain.column)]
    size = (1.2 + 2.6 * len(columns), 5.4)
    fig, axes = plt.subplots(2, len(columns), figsize=size, sharex="col", sharey="row", squeeze=False)
    for (top, bottom), column in zip(axes.T, columns):
        reference(top, plain, "dense", "dense")
        reference(top, plain, "magnitude", "magnitude", ":")
        curves(top, levels[levels.column == column], ["ovit", "ovit_mask_only"])
        f = gain[gain.column == column].sort_values("setting")
        bottom.errorbar(f.setting, f["mean"], yerr=f.half.fillna(0), marker="o", ms=4.5, capsize=2.5, color="0.3")
        bottom.axhline(0, color="black", lw=0.8)
        percent(top)
        bottom.set(xscale="log", xlabel=AXES[column])
        if column != "damp":
            bottom.set_xticks(f.setting, [f"{v:g}" for v in f.setting])
            bottom.set_xticks([], minor=True)
        else:
            bottom.xaxis.set_major_locator(LogLocator())
            bottom.xaxis.set_major_formatter(LogFormatterSciNotation())
        bottom.yaxis.set_major_formatter(lambda v, _: f"{100 * v:+.0f}" if v else "0")
    axes[0, 0].set_ylabel(f"top-1 at {100 * at:g} % (test)")
    axes[1, 0].set_ylabel("the update: difference, points")
    legend(fig, axes.flat)
    return fig


def layers(rows: pd.DataFrame) -> Figure | None:
    """Heat maps, layers by sparsity, means over seeds: what oViT removes, and where its correction acts."""
    rows = rows[rows.scope == "layer"]
    if rows.empty:
        return None
    order = list(dict.fromkeys(rows.scope_name))
    titles = dict(sparsity="Sparsity", correction_share="Share of the correction's squared norm")
    fig, axes = plt.subplots(1, 2, figsize=(9, 1 + 0.24 * len(order)), sharey=True)
    for ax, (metric, title) in zip(axes, titles.items()):
        table = rows[rows.metric == metric].pivot_table(index="scope_name", columns="sparsity_target", values="value")
        table = table.reindex(order).rename(columns=lambda s: f"{100 * s:g} %")
        table.index = [n.removesuffix(".weight") for n in table.index]
        sns.heatmap(100 * table, ax=ax, cmap="cividis", annot=True, fmt=".0f", annot_kws=dict(size="x-small"),
                    cbar_kws=dict(label="%"))  # fmt: skip
        ax.set(title=title, xlabel="sparsity of the model", ylabel="")
        ax.grid(False)
    return fig


ONE_SHOT = ("One-shot", "one_shot", "global", "curve")
RECOVERED = ("One step, then trained, masks fixed", "recovered", "global", "sparsity_target")
GRADUAL = ("Gradually, trained between steps", "gradual", "global", "sparsity_target")
UNIFORM = ("The same sparsity in every weight", "one_shot", "uniform", "curve")
PATTERNS = ("N:M patterns", "one_shot", "uniform", "pattern")
FIGURES = {
    "no_weight_update": Drawing(
        lambda rows: accuracies(rows, ONE_SHOT, RECOVERED), "Accuracy against sparsity",
        "Left one-shot, right after training with the masks fixed. Dashed: dense.",
    ),
    "attribution": Drawing(
        lambda rows: parts(rows, "one_shot"), "Score, update, or both?",
        "The gain over magnitude split into what the score alone brings, what the update alone brings, and what only "
        "both bring.",
    ),
    "regimes": Drawing(
        lambda rows: accuracies(rows, UNIFORM, PATTERNS), "Uniform sparsity and N:M patterns",
        "One threshold per weight matrix, and N of every M consecutive inputs.",
    ),
    "gradual": Drawing(
        lambda rows: accuracies(rows, RECOVERED, GRADUAL), "When the model is trained",
        "One step then training, and several steps with training between.",
    ),
    "attribution_trained": Drawing(
        lambda rows: parts(rows, "recovered", "gradual"), "The gain of trained models, taken apart",
        "As above, after training.",
    ),
    "sensitivity": Drawing(sensitivities, "What the gain depends on", "The update at oViT's mask as one setting varies."),
    "layers": Drawing(
        layers, "Where it acts", "What oViT removes from each layer, and where its correction moves the kept weights."
    ),
}  # fmt: skip
