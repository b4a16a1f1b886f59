"""Ablation A's figures: accuracy against sparsity, where the gain comes from, what it depends on, where it acts."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ovit_core.ablations.no_weight_update.analysis import SWEPT, TITLES, attribution, sensitivity, sweeps
from ovit_core.ablations.no_weight_update.parameters import PAIR
from ovit_core.study.ablation import Drawing
from ovit_core.study.plots import against, curves, legend, percent, reference
from ovit_core.study.statistics import accuracy, main, share, summary

BLUE, _, GREEN = sns.color_palette("colorblind")[:3]
BARS = dict(score=GREEN, update=BLUE, interaction="0.6", total="white")
SCORES = dict(static="oBERT's score", greedy_frozen="greedy score, never corrected", greedy="oViT's score")


def accuracies(rows: pd.DataFrame, *panels: tuple[str, str, str, str], sharey: bool = False) -> Figure | None:
    """Top-1 of every method, in panels of (title, phase, allocation, what is along x: sparsity_target or pattern);
    those that were not run are left out.
    """
    found, drawn = accuracy(rows), []
    for title, phase, allocation, along in panels:
        here = found[(found.phase == phase) & (found.allocation == allocation) & (found.method != "dense")]
        here = here[(here.pattern != "unstructured") == (along == "pattern")]
        if len(here):
            drawn.append((title, phase, here, along))
    if not drawn:
        return None
    size = (1.5 + 3.9 * len(drawn), 3.9)
    fig, axes = plt.subplots(1, len(drawn), figsize=size, sharey=sharey, squeeze=False)
    for ax, (title, phase, here, along) in zip(axes[0], drawn):
        look = ("dense", "--") if phase == "one_shot" else ("dense, same training", "-.")
        reference(ax, found[found.phase == phase], "dense", *look)
        against(ax, here, along)
        percent(ax)
        ax.set_title(title)
    axes[0, 0].set_ylabel(f"top-1 on {rows.upstream.iloc[0]} (test)")
    legend(fig)
    return fig


def parts(rows: pd.DataFrame, *phases: str) -> Figure | None:
    """The gain over magnitude taken apart, a panel per phase and score: diverging bars with intervals, per sparsity."""
    found = attribution(rows)
    found = found[found.phase.isin(phases)]
    panels = list(found.groupby(["phase", "score_kind"], sort=False))
    if not panels:
        return None
    size = (max(6, 1.2 + 2.8 * len(panels)), 3.6)
    fig, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for ax, ((phase, score), here) in zip(axes[0], panels):
        groups = sorted(set(here.sparsity_target))
        for k, (part, colour) in enumerate(BARS.items()):
            p = here[here.part == part]
            x = p.sparsity_target.map(groups.index) + 0.2 * (k - 1.5)
            look = dict(color=colour, edgecolor="black", lw=0.6, capsize=2, error_kw=dict(lw=1), label=part)
            ax.bar(x, p["mean"], 0.2, yerr=p.half.fillna(0), **look)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xticks(range(len(groups)), [share(g) for g in groups])
        ax.set(title=SCORES[score] if len(phases) == 1 else f"{TITLES[phase]}, {SCORES[score]}", xlabel="sparsity")
        ax.grid(axis="x", visible=False)
        ax.yaxis.set_major_formatter(lambda v, _: f"{100 * v:+.3g}" if v else "0")
    axes[0, 0].set_ylabel("gain over magnitude, points of top-1")
    legend(fig)
    return fig


def sensitivities(rows: pd.DataFrame) -> Figure | None:
    """Against each setting that was varied, a column each: above, oViT with and without its update at the same mask,
    beside magnitude and dense; below, the difference.
    """
    gains = list(sensitivity(rows).groupby("column", sort=False))
    if not gains:
        return None
    levels = summary(sweeps(rows), ["column", "setting", "method"]).rename(columns=dict(setting="sparsity_target"))
    at = rows[rows.experiment == "sensitivity"].sparsity_target.iloc[0]
    plain = accuracy(main(rows[(rows.phase == "one_shot") & rows.sparsity_target.isin((0, at))]))
    size = (1.2 + 2.6 * len(gains), 5.4)
    fig, axes = plt.subplots(2, len(gains), figsize=size, sharex="col", sharey="row", squeeze=False)
    for (top, bottom), (column, gain) in zip(axes.T, gains):
        reference(top, plain, "dense", "dense")
        reference(top, plain, "magnitude", "magnitude", ":")
        curves(top, levels[levels.column == column], PAIR)
        percent(top)
        gain = gain.sort_values("setting")
        bottom.errorbar(gain.setting, gain["mean"], gain.half.fillna(0), marker="o", ms=4.5, capsize=2.5, color="0.3")
        bottom.axhline(0, color="black", lw=0.8)
        bottom.set(xscale="log", xlabel=SWEPT[column])
        bottom.set_xticks(gain.setting, [f"{v:g}" if v >= 1 else f"{v:.0e}".replace("e-0", "e-") for v in gain.setting])
        bottom.set_xticks([], minor=True)
        bottom.yaxis.set_major_formatter(lambda v, _: f"{100 * v:+.0f}" if v else "0")
    axes[0, 0].set_ylabel(f"top-1 at {share(at)} (test)")
    axes[1, 0].set_ylabel("the update: difference, points")
    legend(fig)
    return fig


def layers(rows: pd.DataFrame) -> Figure | None:
    """Heat maps, layers by sparsity, means over seeds: what oViT removes, and where its correction acts."""
    rows = rows[rows.scope == "layer"]
    if rows.empty:
        return None
    titles = dict(sparsity="Sparsity", correction_share="Share of the correction's squared norm")
    fig, axes = plt.subplots(1, 2, figsize=(9, 1 + 0.24 * rows.scope_name.nunique()), sharey=True)
    for ax, (metric, title) in zip(axes, titles.items()):
        here = rows[rows.metric == metric].assign(layer=rows.scope_name.str.removesuffix(".weight"))
        table = 100 * here.pivot_table(index="layer", columns="sparsity_target", values="value", sort=False)
        look = dict(cmap="cividis", annot=True, fmt=".0f", annot_kws=dict(size="x-small"), cbar_kws=dict(label="%"))
        sns.heatmap(table.sort_index(axis=1).rename(columns=share), ax=ax, **look)
        ax.set(title=title, xlabel="sparsity of the model", ylabel="")
        ax.grid(False)
    return fig


ONE_SHOT = ("One-shot", "one_shot", "global", "sparsity_target")
RECOVERED = ("One step, then trained, masks fixed", "recovered", "global", "sparsity_target")
GRADUAL = ("Gradually, trained between steps", "gradual", "global", "sparsity_target")
UNIFORM = ("The same sparsity in every weight", "one_shot", "uniform", "sparsity_target")
PATTERNS = ("N:M patterns", "one_shot", "uniform", "pattern")
FIGURES = {
    "no_weight_update": Drawing(
        lambda rows: accuracies(rows, ONE_SHOT, RECOVERED), "Accuracy against sparsity",
        "Left one-shot, right after training with the masks fixed. Dashed: dense.",
    ),
    "attribution": Drawing(
        lambda rows: parts(rows, "one_shot"), "Score, update, or both?",
        "The gain over magnitude split into what the score alone, the update alone, and only both of them bring.",
    ),
    "regimes": Drawing(
        lambda rows: accuracies(rows, UNIFORM, PATTERNS), "Uniform sparsity and N:M patterns",
        "One threshold per weight matrix, and N of every M consecutive inputs.",
    ),
    "gradual": Drawing(
        lambda rows: accuracies(rows, RECOVERED, GRADUAL, sharey=True), "When the model is trained",
        "One step then training, and several steps with training between.",
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
}  # fmt: skip
