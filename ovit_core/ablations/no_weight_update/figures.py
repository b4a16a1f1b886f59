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
from ovit_core.study.plots import STYLE, curves, intervals, percent, reference, shown

PART_COLOURS = dict(
    score=sns.color_palette("colorblind")[2], update=sns.color_palette("colorblind")[0], interaction="0.6"
)
SCORES = dict(static="oBERT's score", greedy_frozen="greedy score, never corrected", greedy="oViT's score")
AXES = dict(block_size="block size B", gradients="gradients m", gradient_batch="images per gradient", damp="λ")


def ablation_a(rows: pd.DataFrame) -> Figure:
    """Top-1 against sparsity one-shot (left), and after recovery (right)."""
    found = statistics.accuracy(statistics.main(rows))
    one, rec = (found[found.phase == phase] for phase in ("one_shot", "recovered"))
    methods = shown(found)
    if rec.empty:
        fig, left = plt.subplots(figsize=(6, 3.9))
        right = None
    else:
        fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), sharey=True, width_ratios=(3, 2))
    reference(left, one, "dense", "dense")
    curves(left, one, methods)
    left.set(
        title="One-shot",
        xlabel="sparsity (zeros / prunable weights)",
        ylabel=f"top-1 on {rows.upstream.iloc[0]} (test)",
    )
    percent(left)
    if right is not None:
        reference(right, rec, "dense", "dense, same training", "-.")
        groups = sorted(set(rec.sparsity_target) - {0})
        intervals(right, rec, groups, "sparsity_target", [m for m in methods if m in set(rec.method)])
        percent(right)
        right.set_xticks(range(len(groups)), [f"{100 * g:g} %" for g in groups])
        right.set(title="After recovery, masks fixed", xlabel="sparsity")
    # The left panel's lines stand for both, so that a method has one entry.
    handles = {label: handle for ax in (right, left) if ax for handle, label in zip(*ax.get_legend_handles_labels())}
    labels = sorted(handles, key=lambda label: (not label.startswith("dense"), label == "dense, same training"))
    fig.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=4 if right is None or len(labels) > 7 else len(labels),
        columnspacing=1.2,
    )
    return fig


def ablation_a_gain(rows: pd.DataFrame) -> Figure | None:
    """What the update brings one-shot: ovit minus each ablated form and rival, paired by seed."""
    rows = statistics.accuracies(statistics.main(rows[rows.phase == "one_shot"]))
    methods = [m for m in shown(rows) if m not in ("ovit", "dense")]
    if "ovit" not in set(rows.method) or not methods:
        return None
    fig, ax = plt.subplots(figsize=(6, 3.6))
    ax.axhline(0, color="black", lw=1)
    for method in methods:
        gain = statistics.difference(rows, "ovit", method).assign(method=method)
        curves(ax, gain, [method])
    ax.set(
        xlabel="sparsity (zeros / prunable weights)",
        ylabel="top-1 of ovit minus method, points",
        title="One-shot gain of oViT over",
    )
    percent(ax, accuracy=False)
    ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:+.0f}" if v else "0")
    fig.legend(loc="outside right center")
    return fig


def regimes(rows: pd.DataFrame) -> Figure | None:
    """One-shot with one threshold per weight, and with N:M patterns; a panel each, where they were run."""
    found = statistics.accuracy(rows)
    found = found[found.phase == "one_shot"]
    uniform = found[(found.allocation == "uniform") & (found.pattern == "unstructured")]
    patterns = found[found.pattern != "unstructured"]
    methods = shown(found)
    panels = [p for p in (uniform, patterns) if len(p)]
    if not panels:
        return None
    fig, axes = plt.subplots(1, len(panels), figsize=(1.2 + 3.9 * len(panels), 3.9), sharey=True, squeeze=False)
    for ax, here in zip(axes[0], panels):
        reference(ax, found, "dense", "dense")
        if here is uniform:
            curves(ax, here, methods)
            ax.set(title="Uniform: the same sparsity in every weight", xlabel="sparsity (zeros / prunable weights)")
            percent(ax)
        else:
            groups = sorted(set(here.pattern))
            intervals(ax, here, groups, "pattern", methods)
            percent(ax)
            names = [f"{g} (keeps {g.split(':')[0]} of {g.split(':')[1]})" for g in groups]
            ax.set_xticks(range(len(groups)), names)
            ax.set(title="N:M patterns")
    axes[0, 0].set_ylabel(f"top-1 on {rows.upstream.iloc[0]} (test), one-shot")
    handles = {label: h for ax in axes[0] for h, label in zip(*ax.get_legend_handles_labels())}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, columnspacing=1.2)
    return fig


def gradual(rows: pd.DataFrame) -> Figure | None:
    """Top-1 after gradual pruning beside recovery from one step."""
    found = statistics.accuracy(statistics.main(rows))
    phases = [p for p in ("recovered", "gradual") if p in set(found.phase)]
    if not phases:
        return None
    titles = dict(recovered="One step, then trained", gradual="Gradually, trained between steps")
    methods = shown(found[found.phase.isin(phases)])
    fig, axes = plt.subplots(1, len(phases), figsize=(4.5 * len(phases), 3.7), sharey=True, squeeze=False)
    for ax, phase in zip(axes[0], phases):
        here = found[found.phase == phase]
        reference(ax, here, "dense", "dense, same training", "-.")
        groups = sorted(set(here.sparsity_target) - {0})
        intervals(ax, here, groups, "sparsity_target", [m for m in methods if m in set(here.method)])
        percent(ax)
        ax.set_xticks(range(len(groups)), [f"{100 * g:g} %" for g in groups])
        ax.set(title=titles[phase], xlabel="sparsity")
    axes[0, 0].set_ylabel(f"top-1 on {rows.upstream.iloc[0]} (test)")
    handles = {label: h for ax in axes[0] for h, label in zip(*ax.get_legend_handles_labels())}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, columnspacing=1.2)
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
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, columnspacing=1.2)
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
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, columnspacing=1.2)
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


def prediction(rows: pd.DataFrame) -> Figure | None:
    """The loss increase that oViT's accumulated score predicts against the one measured on test images, log-log (a
    decrease cannot be shown).
    """
    at = ["sparsity_target", "seed"]
    rows = statistics.main(rows)
    rows = rows[(rows.phase == "one_shot") & (rows.scope == "all") & (rows.experiment != "sensitivity")]
    loss = rows[rows.metric == "cross_entropy"]
    dense = loss[loss.method == "dense"].set_index("seed").value
    predicted = rows[rows.metric == "predicted_loss_increase"].set_index(at).value
    if predicted.empty:
        return None
    fig, ax = plt.subplots(figsize=(5, 3.9))
    for method in ("ovit", "ovit_mask_only"):
        found = loss[loss.method == method].set_index(at).value
        both = pd.DataFrame(
            dict(predicted=predicted, measured=found - dense.reindex(found.index, level="seed"))
        ).dropna()
        colour, marker = STYLE[method]
        ax.plot(both.predicted, both.measured, ls="", marker=marker, ms=5, color=colour, label=method)
    low, high = predicted.min(), predicted.max()
    ax.plot([low, high], [low, high], color="black", lw=1, ls="--", label="as predicted for ovit")
    ax.set(xscale="log", yscale="log", xlabel="increase predicted for ovit (accumulated score)")
    ax.set_ylabel("measured increase of cross-entropy (test)")
    ax.legend()
    return fig


FIGURES = {
    "no_weight_update": Drawing(
        ablation_a, "Accuracy against sparsity",
        "Left one-shot, right after training with the masks fixed. Dashed: dense.",
    ),
    "no_weight_update_gain": Drawing(
        ablation_a_gain, "What the update is worth",
        "oViT minus each other method, paired by seed. Over `ovit_mask_only`, which has the same mask, it is the update "
        "alone.",
    ),
    "attribution": Drawing(
        lambda rows: parts(rows, "one_shot"), "Score, update, or both?",
        "The gain over magnitude split into what the score alone brings, what the update alone brings, and what only "
        "both bring.",
    ),
    "regimes": Drawing(
        regimes, "Uniform sparsity and N:M patterns",
        "One threshold per weight matrix, and N of every M consecutive inputs.",
    ),
    "gradual": Drawing(
        gradual, "When the model is trained", "One step then training, and several steps with training between."
    ),
    "attribution_trained": Drawing(
        lambda rows: parts(rows, "recovered", "gradual"), "The gain of trained models, taken apart",
        "As above, after training.",
    ),
    "sensitivity": Drawing(
        sensitivities, "What the gain depends on", "The update at oViT's mask as one setting varies."
    ),
    "layers": Drawing(
        layers, "Where it acts", "What oViT removes from each layer, and where its correction moves the kept weights."
    ),
    "prediction": Drawing(
        prediction, "The loss oViT predicts",
        "Its accumulated score against the measured increase; only the order is used.",
    ),
}  # fmt: skip
