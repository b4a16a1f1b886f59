"""Ablation A's figures: accuracy against sparsity, where the gain comes from, what training leaves of it, what it depends
on, where it acts.
"""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ovit_core.ablations.no_weight_update.analysis import SWEPT, compute, sensitivity, sweeps
from ovit_core.ablations.no_weight_update.attribution import SCORES, UPDATES, attribution, cells
from ovit_core.ablations.no_weight_update.parameters import PAIR
from ovit_core.study.ablation import Drawing
from ovit_core.study.plots import STYLE, against, curves, legend, percent, reference, shown
from ovit_core.study.statistics import accuracy, main, same_seeds, share, spread, summary, under

BLUE, _, GREEN = sns.color_palette("colorblind")[:3]
BARS = dict(score=GREEN, update=BLUE, interaction="0.6", total="white")
RULES = dict(own="each at its own λ", shared="all at oViT's λ")
DRAWN = {  # more would be too many to tell apart; all are in the tables
    "global": ("ovit", "ovit_mask_only", "ovit_no_update", "obert", "magnitude", "magnitude_joint", "diag_fisher"),
    "uniform": ("ovit", "ovit_mask_only", "obc", "obc_mask_only", "obc_sequential", "wanda", "magnitude"),
}
SCORE_WORDS = dict(
    magnitude="magnitude", diagonal="diagonal Fisher", static="static (oBERT)", greedy_frozen="greedy, not corrected",
    greedy="greedy (oViT)",
)  # fmt: skip


def accuracies(rows: pd.DataFrame, *panels: tuple[str, str, str]) -> Figure | None:
    """One-shot top-1 of every method, in panels of (title, allocation, what is along x: sparsity_target or pattern);
    those that were not run are left out.
    """
    found, drawn = accuracy(rows[rows.phase == "one_shot"]), []
    for title, allocation, along in panels:
        here = found[(found.allocation == allocation) & found.method.isin(DRAWN[allocation])]
        here = here[(here.pattern != "unstructured") == (along == "pattern")]
        if len(here):
            drawn.append((title, here, along))
    if not drawn:
        return None
    fig, axes = plt.subplots(1, len(drawn), figsize=(1.5 + 3.9 * len(drawn), 3.9), squeeze=False)
    for ax, (title, here, along) in zip(axes[0], drawn):
        reference(ax, found, "dense", "dense")
        against(ax, here, along)
        percent(ax)
        ax.set_title(title)
    axes[0, 0].set_ylabel(f"top-1 on {rows.upstream.iloc[0]} (test)")
    legend(fig)
    return fig


def calibration(rows: pd.DataFrame) -> Figure | None:
    """Cross-entropy and expected calibration error of one-shot models against sparsity: they separate methods where
    top-1 does not.
    """
    known = main(under(rows, "own"))
    known = known[(known.phase == "one_shot") & (known.scope == "all") & (known.experiment != "sensitivity")]
    titles = dict(cross_entropy="Cross-entropy", expected_calibration_error="Expected calibration error")
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.7))
    for ax, (metric, title) in zip(axes, titles.items()):
        found = summary(known[known.metric == metric], ["method", "sparsity_target"])
        pruned = found[found.sparsity_target > 0]
        if pruned.empty:
            plt.close(fig)
            return None
        reference(ax, found, "dense", "dense")
        against(ax, pruned)
        ax.set(title=title, yscale="log" if metric == "cross_entropy" else "linear")
        percent(ax, accuracy=False, axes="x")
        if metric == "cross_entropy":
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:.3g}")
    legend(fig)
    return fig


def parts(rows: pd.DataFrame) -> Figure | None:
    """oViT's one-shot gain over magnitude taken apart, a panel per rule of lambda: diverging bars with intervals."""
    rules = [rule for rule in RULES if rule == "own" or (rows.damp_rule == rule).any()]
    found = {rule: attribution(rows[rows.phase == "one_shot"], rule, ["greedy"]) for rule in rules}
    found = {rule: here for rule, here in found.items() if len(here)}
    if not found:
        return None
    fig, axes = plt.subplots(1, len(found), figsize=(1.6 + 3.6 * len(found), 3.6), sharey=True, squeeze=False)
    for ax, (rule, here) in zip(axes[0], found.items()):
        groups = sorted(set(here.sparsity_target))
        for k, (part, colour) in enumerate(BARS.items()):
            p = here[here.part == part]
            x = p.sparsity_target.map(groups.index) + 0.2 * (k - 1.5)
            look = dict(color=colour, edgecolor="black", lw=0.6, capsize=2, error_kw=dict(lw=1), label=part)
            ax.bar(x, p["mean"], 0.2, yerr=p.half.fillna(0), **look)
        _points(ax)
        ax.set_xticks(range(len(groups)), [share(g) for g in groups])
        ax.set(title=RULES[rule], xlabel="sparsity")
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("gain over magnitude, points of top-1")
    legend(fig)
    return fig


def heat(rows: pd.DataFrame) -> Figure | None:
    """Every score with every update at its own lambda, a panel per sparsity: mean and half of the interval."""
    found = cells(rows[rows.phase == "one_shot"])
    at = sorted(set(found.sparsity_target))[-3:]
    if found.empty:
        return None
    fig, axes = plt.subplots(1, len(at), figsize=(2.4 + 2.9 * len(at), 3.2), sharey=True, squeeze=False)
    for ax, sparsity in zip(axes[0], at):
        here = found[found.sparsity_target == sparsity]
        words = here.assign(text=[spread(m, h, ".1f") for m, h in zip(here["mean"], here.half)])
        wide, text = (
            words.pivot(index="score", columns="update", values=value).reindex(index=SCORES, columns=UPDATES)
            for value in ("mean", "text")
        )
        wide, text = (table.dropna(how="all", axis=0).dropna(how="all", axis=1) for table in (wide, text))
        look = dict(cmap="cividis", fmt="", annot_kws=dict(size="x-small"), cbar=False)
        sns.heatmap((100 * wide).rename(index=SCORE_WORDS), annot=text.fillna("").to_numpy(), ax=ax, **look)
        ax.set(title=share(sparsity), xlabel="update", ylabel="score" if ax is axes[0, 0] else "")
        ax.grid(False)
    return fig


def trained(rows: pd.DataFrame) -> Figure | None:
    """Top-1 against the images that models were trained on after pruning, a panel per sparsity; at the right edge those
    that were pruned gradually.
    """
    rows = rows[rows.seed.isin(rows[rows.phase == "recovered"].seed)]  # the same models before and after
    found = accuracy(main(rows))
    curve = found[found.phase.isin(("one_shot", "recovered"))].assign(epochs=found.epochs.fillna(0))
    gradual = found[found.phase == "gradual"]
    at = sorted(set(curve[(curve.phase == "recovered") & (curve.sparsity_target > 0)].sparsity_target))
    if not at:
        return None
    fig, axes = plt.subplots(1, len(at), figsize=(1.8 + 4.4 * len(at), 3.9), squeeze=False)
    for ax, sparsity in zip(axes[0], at):
        lengths = sorted(set(curve.epochs))
        here = curve[curve.sparsity_target.isin((0, sparsity))]
        here = here[here.method.isin(curve[curve.phase == "recovered"].method)]
        place = {length: i for i, length in enumerate(lengths)}
        for k, method in enumerate(methods := ("dense", *shown(here))):
            f = here[here.method == method].sort_values("epochs")
            colour, marker = STYLE.get(method, ("black", ""))
            look = dict(color=colour, marker=marker, ms=5, lw=1.3, capsize=2.5, ls="--" if method == "dense" else "-")
            aside = 0.3 * (k / len(methods) - 0.5)  # intervals side by side
            ax.axvline(len(lengths) - 0.5, color="0.85", lw=0.8)
            ax.errorbar(f.epochs.map(place) + aside, f["mean"], f.half.fillna(0), label=method, **look)
        after = gradual[gradual.sparsity_target.isin((0, sparsity))]
        after = after if (after.sparsity_target == sparsity).any() else after[:0]
        gradually = [m for m in ("dense", *shown(after)) if (after.method == m).any()]
        for i, method in enumerate(gradually):
            f, (colour, marker) = after[after.method == method], STYLE.get(method, ("black", "o"))
            x = len(lengths) + 0.5 * ((i + 0.5) / len(gradually) - 0.5)
            ax.errorbar([x], f["mean"], f.half.fillna(0), color=colour, marker=marker, ms=5, capsize=2.5, mfc="white")
        ticks = [*(f"{length:g}" for length in lengths), *(["gradual"] if len(after) else [])]
        ax.set_xticks(range(len(ticks)), ticks)
        ax.set(title=f"Pruned to {share(sparsity)}", xlabel="epochs of training after pruning")
        percent(ax)
    axes[0, 0].set_ylabel(f"top-1 on {rows.upstream.iloc[0]} (test)")
    legend(fig)
    return fig


def sensitivities(rows: pd.DataFrame) -> Figure | None:
    """Against each setting that was varied, a column each: above, oViT with and without its update beside magnitude and
    dense, each point at its own lambda; below, the difference, at its own and at a fixed lambda.
    """
    gains = list(sensitivity(rows).groupby("column", sort=False))
    if not gains:
        return None
    swept = same_seeds(sweeps(rows), ["column"], ["setting"])
    levels = summary(swept, ["column", "rule", "setting", "method"]).rename(columns=dict(setting="sparsity_target"))
    at = swept.sparsity_target.iloc[0]
    plain = accuracy(main(rows[(rows.phase == "one_shot") & rows.sparsity_target.isin((0, at))]))
    size = (1.2 + 2.6 * len(gains), 5.4)
    fig, axes = plt.subplots(2, len(gains), figsize=size, sharex="col", sharey="row", squeeze=False)
    for (top, bottom), (column, gain) in zip(axes.T, gains):
        reference(top, plain, "dense", "dense")
        reference(top, plain, "magnitude", "magnitude", ":")
        main_rule = "fixed" if column == "damp" else "own"
        curves(top, levels[(levels.column == column) & (levels.rule == main_rule)], PAIR)
        percent(top)
        for rule, look in dict(own=dict(color="0.2", marker="o"), fixed=dict(color="0.6", marker="s", ls=":")).items():
            mine = gain[gain.rule == rule].sort_values("setting")
            if mine.empty:  # against lambda itself there is none of one's own
                continue
            label = "update, own λ at each point" if rule == "own" else "update, both at the same λ"
            bottom.errorbar(mine.setting, mine["mean"], mine.half.fillna(0), ms=4.5, capsize=2.5, label=label, **look)
        _points(bottom)
        ticks = sorted(set(gain.setting))
        bottom.set(xscale="log", xlabel=SWEPT[column])
        bottom.set_xticks(ticks, [f"{v:g}" if v >= 1 else f"{v:.0e}".replace("e-0", "e-") for v in ticks], rotation=45)
        bottom.set_xticks([], minor=True)
    axes[0, 0].set_ylabel(f"top-1 at {share(at)} (test)")
    axes[1, 0].set_ylabel("the update: difference, points")
    legend(fig)
    return fig


def equal_compute(rows: pd.DataFrame) -> Figure | None:
    """Methods with as many gradients in all, in one pass or shared out among several."""
    found = compute(rows)
    if found.empty:
        return None
    fig, ax = plt.subplots(figsize=(4.6, 3.6))
    curves(ax, found.rename(columns=dict(setting="sparsity_target")), shown(found))
    ticks = sorted(set(found.setting))
    ax.set(xscale="log", xlabel=SWEPT["passes"], ylabel=f"top-1 on {rows.upstream.iloc[0]} (test)")
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
    legend(fig)
    return fig


def layers(rows: pd.DataFrame) -> Figure | None:
    """Heat maps, layers by methods, means over seeds: what each removes, and where corrections move the kept weights."""
    rows = rows[(rows.scope == "layer") & (rows.damp_rule != "shared")]
    if rows.empty:
        return None
    titles = dict(sparsity="Sparsity", correction_share="Share of the correction's squared norm")
    widths = [rows[rows.metric == metric].method.nunique() for metric in titles]
    size = (3 + 0.42 * sum(widths), 1.9 + 0.24 * rows.scope_name.nunique())
    fig, axes = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=[max(w, 1) for w in widths])
    for ax, (metric, title) in zip(axes, titles.items()):
        here = rows[rows.metric == metric].assign(layer=rows.scope_name.str.removesuffix(".weight"))
        table = 100 * here.pivot_table(index="layer", columns="method", values="value", sort=False)
        look = dict(cmap="cividis", annot=True, fmt=".0f", annot_kws=dict(size="x-small"), cbar=False)
        sns.heatmap(table[[m for m in STYLE if m in table]], ax=ax, **look)
        ax.set(title=f"{title}, %", xlabel="", ylabel="")
        ax.grid(False)
    return fig


def overlap(rows: pd.DataFrame) -> Figure | None:
    """Heat map, methods by methods, means over seeds: intersection over union of what two methods keep."""
    rows = rows[rows.metric == "mask_overlap"]
    if rows.empty:
        return None
    both = pd.concat([rows, rows.assign(method=rows.scope_name, scope_name=rows.method)])
    names = [m for m in STYLE if m in set(both.method)]
    table = both.pivot_table(index="method", columns="scope_name", values="value").reindex(index=names, columns=names)
    fig, ax = plt.subplots(figsize=(2.2 + 0.45 * len(names), 1.6 + 0.4 * len(names)))
    look = dict(cmap="cividis", annot=True, fmt=".0f", annot_kws=dict(size="x-small"), cbar=False)
    sns.heatmap(100 * table, mask=table.isna(), ax=ax, **look)
    at = rows.sparsity_target.iloc[0]
    ax.set(title=f"Kept by both at {share(at)}, % of kept by either (by chance {100 * (1 - at) / (1 + at):.0f})")
    ax.set(xlabel="", ylabel="")
    ax.grid(False)
    return fig


def _points(ax: Axes) -> None:
    """Differences in points of accuracy."""
    ax.axhline(0, color="black", lw=0.8)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:+.3g}" if v else "0")


ONE_SHOT = ("One threshold for the model", "global", "sparsity_target")
UNIFORM = ("The same sparsity in every weight", "uniform", "sparsity_target")
PATTERNS = ("N:M patterns", "uniform", "pattern")
FIGURES = {
    "no_weight_update": Drawing(
        lambda rows: accuracies(rows, ONE_SHOT), "Accuracy against sparsity",
        "One-shot, each method at its own λ; the others are in the table. Dashed: dense.",
    ),
    "calibration": Drawing(
        calibration, "Where accuracy cannot tell yet", "Cross-entropy (logarithmic) and calibration of the same models. Bands of oViT's cross-entropy, with and without its update, cover new images too; all others new seeds only."
    ),
    "attribution": Drawing(
        parts, "Score, update, or both?",
        "oViT's gain over magnitude: what its score alone, the update alone, and only both of them bring.",
    ),
    "cells": Drawing(
        heat, "Every score with every update", "Top-1 in percent, each cell at its own λ."
    ),
    "recovery": Drawing(
        trained, "What training leaves of it", "Masks fixed; hollow: pruned in several steps with training between them."
    ),
    "regimes": Drawing(
        lambda rows: accuracies(rows, UNIFORM, PATTERNS), "Uniform sparsity and N:M patterns",
        "One threshold per weight matrix, and N of every M consecutive inputs; λ chosen for each. Others: the table.",
    ),
    "sensitivity": Drawing(
        sensitivities, "What the update's worth depends on", "oViT's score with and without the update."
    ),
    "compute": Drawing(
        equal_compute, "At equal compute", "As many gradients in all, curvature estimated once or anew on the way."
    ),
    "layers": Drawing(layers, "Where methods act", "Each layer's sparsity, and where corrections move kept weights."),
    "overlap": Drawing(overlap, "Which weights", "Intersection over union of what two methods keep."),
}  # fmt: skip
