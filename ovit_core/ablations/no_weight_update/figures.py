"""Ablation A's figures: accuracy against sparsity, where the gain comes from, what training leaves of it, what it depends
on, where it acts.
"""

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ovit_core.ablations.no_weight_update.acting import layers, overlap
from ovit_core.ablations.no_weight_update.analysis import chosen_at
from ovit_core.ablations.no_weight_update.families import further
from ovit_core.ablations.no_weight_update.parameters import PAIR
from ovit_core.ablations.no_weight_update.planes import finding, planes
from ovit_core.ablations.no_weight_update.sweeps import SWEPT, compute, sensitivity, sweeps
from ovit_core.ablations.no_weight_update.tasks import ALONE
from ovit_core.study.ablation import Drawing
from ovit_core.study.forest import forest
from ovit_core.study.plots import COLUMN, PAGE, against, curves, legend, look, percent, reference, shown
from ovit_core.study.provenance import added
from ovit_core.study.statistics import accuracy, main, same_seeds, summary, under
from ovit_core.study.tuning import decimal
from ovit_core.study.wording import seeds, share, spreads

if TYPE_CHECKING:
    from ovit_core.study.ablation import Results

DRAWN = {  # more would be too many to tell apart, but for methods that were added; all are in the tables
    "global": ("ovit", "ovit_mask_only", "obert", "magnitude", "magnitude_joint", "diag_fisher", "diagonal_joint"),
    "uniform": ("ovit", "ovit_mask_only", "obc", "wanda", "magnitude", "magnitude_joint", "diagonal_joint"),
}
AFTER = dict(one_shot="as pruned", recovered="trained", gradual="pruned gradually")
VARIED = (*PAIR, ALONE)


def accuracies(rows: pd.DataFrame, *panels: tuple[str, str, str]) -> Figure | None:
    """One-shot top-1 of every method, in panels of (title, allocation, what is along x: sparsity_target or pattern);
    those that were not run are left out.
    """
    found, drawn = accuracy(rows[rows.phase == "one_shot"]), []
    for title, allocation, along in panels:
        here = found[(found.allocation == allocation) & found.method.isin({*DRAWN[allocation], *added()})]
        here = here[(here.pattern != "unstructured") == (along == "pattern")]
        if len(here):
            drawn.append((title, here, along))
    if not drawn:
        return None
    fig, axes = plt.subplots(1, len(drawn), figsize=(COLUMN if len(drawn) == 1 else PAGE, 3), squeeze=False)
    for ax, (title, here, along) in zip(axes[0], drawn):
        reference(ax, found, "dense", "dense")
        against(ax, here, along)
        percent(ax, axes="y")
        ax.set_title(title)
    axes[0, 0].set_ylabel(f"top-1 on {rows.upstream.iloc[0]} (test)")
    legend(fig)
    fig.set_label(" ".join(f"{title}: {levels(here, along, chosen_at(rows))}" for title, here, along in drawn))
    return fig


def levels(
    found: pd.DataFrame, along: str, wanted: float, form: str = ".1f", scale: float = 100, place: str = ""
) -> str:
    """The methods' means in words, accuracies in percent, at the wanted sparsity or the last point there is."""
    at = wanted if (found[along] == wanted).any() else found[along].max()
    here = found[found[along] == at].sort_values("mean", ascending=False)
    told = ", ".join(f"{method} {text}" for method, text in zip(here.method, spreads(here, form, scale)))
    return f"{place or 'at ' + (share(at) if along == 'sparsity_target' else str(at))}: {told}."


def calibration(rows: pd.DataFrame) -> Figure | None:
    """Cross-entropy and expected calibration error of one-shot models against sparsity: the first separates methods where
    top-1 does not.
    """
    known = main(under(rows, "own"))
    known = known[(known.phase == "one_shot") & (known.scope == "all") & (known.experiment != "sensitivity")]
    titles = dict(
        cross_entropy="Cross-entropy, nats (log axis)", expected_calibration_error="Expected calibration error"
    )
    fig, axes = plt.subplots(1, 2, figsize=(PAGE, 2.7))
    told = []
    for ax, (metric, title) in zip(axes, titles.items()):
        found = summary(known[known.metric == metric], ["method", "sparsity_target"])
        pruned = found[(found.sparsity_target > 0) & found.method.isin(DRAWN["global"])]
        if pruned.empty:
            plt.close(fig)
            return None
        reference(ax, found, "dense", "dense")
        against(ax, pruned)
        ax.set(title=title, yscale="log" if metric == "cross_entropy" else "linear")
        if metric == "cross_entropy":
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:.3g}")
        told.append(f"{title}, {levels(pruned, 'sparsity_target', chosen_at(rows), '.2f', 1)}")
    legend(fig)
    fig.set_label(" ".join(told))
    return fig


def trained(results: "Results") -> Figure | None:
    """Top-1 before training, after each length of it, and of models that were pruned gradually: a panel each, on one
    axis, so that it is seen how differences shrink. A line per sparsity.
    """
    rows, images = results.rows, results.config.recovery_images
    rows = rows[rows.seed.isin(rows[rows.phase == "recovered"].seed)]  # the same models before and after
    found = accuracy(main(rows)).assign(epochs=lambda f: f.epochs.where(f.phase == "recovered"))
    recovered = found[(found.phase == "recovered") & (found.sparsity_target > 0)]
    at = sorted(set(recovered.sparsity_target))
    if not at:
        return None
    gradual = found[(found.phase == "gradual") & found.sparsity_target.isin(at)]
    columns = [("one_shot", np.nan), *(("recovered", length) for length in sorted(set(recovered.epochs)))]
    columns += [("gradual", np.nan)] if len(gradual) else []
    methods = shown(recovered)
    size = (PAGE, 0.45 + len(at) * (0.35 + 0.19 * len(methods)))
    fig, grid = plt.subplots(len(at), len(columns), figsize=size, squeeze=False, sharex=True, sharey=True)
    grid[0, 0].set_yticks(range(len(methods)), methods)
    grid[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    for sparsity, line in zip(at, grid):
        for (phase, length), ax in zip(columns, line):
            here = found[(found.phase == phase) & ((found.epochs == length) | (found.epochs.isna() & np.isnan(length)))]
            pruned = here[here.sparsity_target == sparsity].set_index("method")
            if pruned.empty:
                ax.set_axis_off()
                continue
            reference(ax, here, "dense", "dense", across=False)
            for y, method in enumerate(methods):
                if method in pruned.index:
                    one = pruned.loc[method]
                    ax.errorbar(one["mean"], y, xerr=np.nan_to_num(one.half), **look(method, line=False))
            ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g} %")
            ax.tick_params(labelbottom=True)  # the panel below may not be there
            ax.set_title(AFTER[phase] + (f" on\n{length * images:,.0f} images" if length == length else ""))
        line[0].set_ylabel(f"pruned to {share(sparsity)}")
    about = f"top-1 on {rows.upstream.iloc[0]} (test), {seeds(rows.seed.nunique())}"
    fig.supxlabel(f"{about}; line: dense, as long trained", fontsize=7)
    last = recovered[(recovered.epochs == recovered.epochs.max()) & recovered.sparsity_target.eq(at[-1])]
    fig.set_label(f"After the longest training, {levels(last, 'sparsity_target', at[-1])}")
    return fig


def sensitivities(rows: pd.DataFrame) -> Figure | None:
    """Top-1 with and without the update against each setting that was varied, a column each: at a lambda chosen at each
    point, and faint at a fixed one, beside magnitude and dense.
    """
    swept = same_seeds(sweeps(rows), ["column"], ["setting"])
    # Passes have a figure of their own.
    swept = swept[swept.method.isin(VARIED) & swept.rule.isin(("own", "fixed")) & (swept.column != "passes")]
    swept = swept[swept.groupby(["column", "rule", "method"]).setting.transform("nunique") > 1]
    if swept.empty:
        return None
    levels = summary(swept, ["column", "rule", "setting", "method"])
    varied = list(levels.groupby("column", sort=False))
    at = swept.sparsity_target.iloc[0]
    plain = rows[(rows.phase == "one_shot") & rows.sparsity_target.isin((0, at)) & rows.seed.isin(swept.seed)]
    plain = accuracy(main(plain))  # of the same seeds
    size = (COLUMN if len(varied) == 1 else PAGE, 2.6)
    fig, axes = plt.subplots(1, len(varied), figsize=size, sharey=True, squeeze=False)
    for ax, (column, here) in zip(axes[0], varied):
        reference(ax, plain, "dense", "dense")
        reference(ax, plain, "magnitude", "magnitude", ":")
        for rule in ("fixed", "own"):
            faint = dict(alpha=0.45) if rule == "fixed" and column != "damp" else {}
            for method in VARIED:
                f = here[(here.rule == rule) & (here.method == method)]
                f, label = f.sort_values("setting"), f"{method}, fixed λ" if faint else method
                if len(f):
                    ax.errorbar(f.setting, f["mean"], f.half.fillna(0), label=label, **look(method), **faint)
        ticks = sorted(set(here.setting))
        ax.set(xscale="log", xlabel=SWEPT[column])
        ax.set_xticks(ticks, [f"{v:g}" if v >= 1 else decimal(v) for v in ticks], rotation=45)
        ax.set_xticks([], minor=True)
        percent(ax, axes="y")
    axes[0, 0].set_ylabel(f"top-1 at {share(at)} (test), {seeds(swept.seed.nunique())}")
    legend(fig)
    gains = sensitivity(rows)
    gains = gains[gains.column.isin(levels.column) & gains.rule.isin(("own", "fixed"))].drop_duplicates(
        ["column", "setting"]
    )
    told = [f"{g.column} {g.setting:g}: {text}" for g, text in zip(gains.itertuples(), spreads(gains))]
    fig.set_label(f"The update brings, in points at {share(at)}, by {'; '.join(told)}.")
    return fig


def equal_compute(rows: pd.DataFrame) -> Figure | None:
    """Methods with as many gradients in all, in one pass or shared out among several."""
    found = compute(rows)
    if found.empty:
        return None
    fig, ax = plt.subplots(figsize=(COLUMN, 2.6))
    curves(ax, found, shown(found), "setting")
    swept = rows[rows.seed.isin(rows[rows.scope_name == "passes"].seed) & (rows.phase == "one_shot")]
    reference(ax, accuracy(main(swept)), "dense", "dense")
    most = found.setting.max()
    fig.set_label(f"In several passes, {levels(found, 'setting', most, place=f'with {most:g}')}")
    ticks = sorted(set(found.setting))
    about = f"{SWEPT['passes']}; {seeds(found.seeds.max())}"
    ax.set(xscale="log", xlabel=about, ylabel=f"top-1 on {rows.upstream.iloc[0]} (test)")
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    percent(ax, axes="y")
    legend(fig)
    return fig


ONE_SHOT = ("One-shot, one threshold for the model", "global", "sparsity_target")
UNIFORM = ("The same sparsity in every weight", "uniform", "sparsity_target")
PATTERNS = ("N:M patterns", "uniform", "pattern")


def effects(results: "Results", beyond: bool) -> Figure | None:
    """The comparisons of one-shot pruning at the study's own setting, or those `beyond` it."""
    names = {family.name for family in further(results.config)} if results.families else set()
    listed = [family for family in results.families if (family.name in names) == beyond]
    return forest(listed, results.differences())


FIGURES = {
    "finding": Drawing(
        finding, "What each part is worth",
        "Score × update, each cell at its own λ, so that a score's mask may differ along its line; arrows and slopes are "
        "paired differences with 95 % intervals; hollow: what both parts alone add up to, where "
        "that is below dense.", True,
    ),
    "effects": Drawing(
        lambda results: effects(results, beyond=False), "What each part brings in one shot",
        "Paired differences with 95 % intervals, in the families in which they are judged; grey: the margin of no "
        "difference.", True,
    ),
    "no_weight_update": Drawing(
        lambda rows: accuracies(rows, ONE_SHOT), "Accuracy against sparsity",
        "Each method at its own λ; solid: kept weights corrected, dashed: left alone, dash-dotted: each removed weight made "
        "up for by itself.",
    ),
    "sensitivity": Drawing(
        sensitivities, "What the update's worth depends on",
        "oViT's score with and without the update, by block size the update alone, too. Where λ itself is not varied, each "
        "point has its own; faint: one for all. Rows shorter than a block are one block. Bands: intervals of dense and of "
        "magnitude.",
    ),
    "planes": Drawing(
        planes, "Every score, with and without the update",
        "Above each cell at its own λ, below all at oViT's; every column has its own axis.",
    ),
    "calibration": Drawing(
        calibration, "Where accuracy cannot tell yet",
        "Cross-entropy and calibration of the same models. Intervals cover new seeds only, but for the cross-entropy of "
        "methods whose losses are compared.",
    ),
    "recovery": Drawing(
        trained, "What training leaves of it",
        "Top-1 as pruned, trained on with masks fixed, and pruned in several steps with training between them. Band: interval "
        "of dense. Levels share what varies between dense models; differences are in the next figure.", True,
    ),
    "effects_trained": Drawing(
        lambda results: effects(results, beyond=True), "What is left of it after training, and at other settings",
        "The same of models that were trained after pruning, at other settings of the curvature, and at equal compute.", True,
    ),
    "regimes": Drawing(
        lambda rows: accuracies(rows, UNIFORM, PATTERNS), "Uniform sparsity and N:M patterns",
        "One threshold per weight matrix, and N of every M consecutive inputs; λ chosen for each.",
    ),
    "compute": Drawing(
        equal_compute, "At as many gradients",
        "As many gradients in all, curvature estimated once or anew on the way; each pass costs an elimination.",
    ),
    "layers": Drawing(
        layers, "Where methods act", "By kind of layer and depth: what is left of it, and how much of the correction it has."
    ),
    "overlap": Drawing(overlap, "Which weights", "How much of their masks methods have in common, in percent."),
}  # fmt: skip
