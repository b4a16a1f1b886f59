"""What ablation A says beside its comparisons: how sure the settings are, what a setting changes, what was not run."""

from typing import TYPE_CHECKING

import pandas as pd

from ovit_core.ablations.no_weight_update.families import families
from ovit_core.ablations.no_weight_update.finding import in_words
from ovit_core.ablations.no_weight_update.guide import guide
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.ablations.no_weight_update.published import published
from ovit_core.ablations.no_weight_update.scales import answer as scales
from ovit_core.ablations.no_weight_update.sweeps import SWEPT
from ovit_core.methods import METHODS
from ovit_core.study import lambdas, tuning
from ovit_core.study.statistics import main, summary
from ovit_core.study.statistics import tables as every_table
from ovit_core.study.tasks import VALIDATION
from ovit_core.study.tuning import LONG_ENOUGH
from ovit_core.study.wording import share

__all__ = [
    "answers",
    "budgets",
    "chosen_at",
    "families",
    "guide",
    "headline",
    "not_run",
    "tables",
]
if TYPE_CHECKING:
    from ovit_core.study.ablation import Results

TITLES = dict(one_shot="One-shot", recovered="After recovery", gradual="Pruned gradually")


def headline(results: "Results") -> str:
    """What score and update are worth, in a sentence."""
    return in_words(results) or "Score and update are not compared in these rows."


def tables(rows: pd.DataFrame) -> str:
    """Accuracy by method and sparsity, a table a phase and regime; and what others have published, where it was run."""
    parts = every_table(rows, rows.phase.unique(), rows.dataset.unique()), published(rows)
    return "\n\n".join(filter(None, parts))


def chosen_at(rows: pd.DataFrame) -> float:
    """The sparsity at which lambda was chosen first, with one threshold: that which a page speaks of; NaN where rows do
    not say.
    """
    return main(rows[rows.phase == lambdas.PHASE]).sparsity_target.head(1).max()


def answers(rows: pd.DataFrame) -> list[str]:
    """What the comparisons rest on: the scale, and whether training was long enough, lists wide and images many enough."""
    return [*scales(rows), *_length(rows), *_edges(rows), *_moved(rows), *_draws(rows)]


def _length(rows: pd.DataFrame) -> list[str]:
    """The half-length test of the dense model."""
    found = rows[(rows.phase == "dense_length") & (rows.metric == VALIDATION)].sort_values("epochs")
    if len(found) < 2:
        return []
    half, full = found.iloc[0], found.iloc[-1]
    gain = full.value - half.value
    said = "trained long enough" if gain < LONG_ENOUGH else "not trained long enough"
    return [
        f"The dense model is {said}: with {full.epochs:g} epochs it has {100 * full.value:.1f} % on validation, with "
        f"{half.epochs:g}, on a schedule of their own, {100 * half.value:.1f} % (seed {half.seed}; the test asks for less "
        f"than {100 * LONG_ENOUGH:g} point)."
    ]


def _edges(rows: pd.DataFrame) -> list[str]:
    out = []
    for column, what in (("damp", "λ"), ("lr", "learning rates")):
        if flagged := tuning.edges(rows, column):
            out.append(f"At the edge of their list of {what}: {'; '.join(flagged)}. A wider list may suit them better.")
    return out


def _moved(rows: pd.DataFrame) -> list[str]:
    """What it costs that lambda was chosen at one sparsity: the check at others, in points of validation top-1."""
    found = main(tuning.searched(rows, "damp"))
    found = found[found.passes == 1]
    own = main(rows[(rows.phase == "one_shot") & (rows.damp_rule == "own") & (rows.experiment != "sensitivity")])
    chosen = own.groupby("method").damp.first()
    found = found[found.method.isin(chosen.index) & (found.block_size == own.block_size.max())]
    if found.sparsity_target.nunique() < 2:
        return []
    at, out = chosen_at(rows), []
    tried = main(rows[(rows.phase == "lambda_search") & (rows.passes == 1)])
    for other, lines in found[found.sparsity_target != at].groupby("sparsity_target"):
        here = tried[tried.sparsity_target == other]
        lost = {
            line.method: line.value - here[(here.method == line.method) & (here.damp == chosen[line.method])].value.mean()
            for line in lines.itertuples() if line.best != chosen[line.method]
        }  # fmt: skip
        told = ", ".join(f"`{method}` {100 * points:.1f}" for method, points in lost.items())
        out.append(
            f"at {share(other)} another λ would suit {told} points better"
            if lost
            else f"at {share(other)} none would suit better"
        )
    return [f"λ was chosen at {share(at)}. By validation, {'; '.join(out)}."]


def _draws(rows: pd.DataFrame) -> list[str]:
    """How much of the spread between seeds is the choice of the curvature's images: other draws for the same model."""
    drawn = rows[(rows.scope_name == "gradient_seed") & (rows.metric == "top1")]
    own = main(rows[(rows.phase == "one_shot") & (rows.metric == "top1") & (rows.scope == "all")])
    own = own[(own.experiment != "sensitivity") & own.sparsity_target.isin(drawn.sparsity_target)]
    both, out = pd.concat([drawn, own[own.method.isin(drawn.method) & (own.damp_rule != "shared")]]), []
    both = both[both.seed.isin(drawn.seed)]
    alone = both.dense_seed.nunique() < 2  # then seeds are draws too
    for method, found in both.groupby("method", sort=False):
        draws = found.groupby("seed").value.agg(["mean", "var", "count"])
        within, between = draws["var"].mean(), draws["mean"].var() - draws["var"].mean() / draws["count"].mean()
        if within == within and between == between:
            told = f"`{method}` {100 * within**0.5:.1f} between draws"
            told += "" if alone else f", {100 * max(between, 0) ** 0.5:.1f} more between dense models"
            (mean,) = summary(own[(own.method == method) & (own.damp_rule != "shared")], ["method"]).to_dict("records")
            if mean["N"]:
                told += f", {100 * mean['sigma'] / mean['N'] ** 0.5:.1f} of the mean from {mean['N']:,.0f} test images"
            out.append(told)
    said = "Standard deviations in points, for other images in the Fisher of the same dense model"
    return [f"{said}: {'; '.join(out)}."] if out else []


def budgets(config: NoWeightUpdate) -> str:
    """How many training images recovery and gradual pruning see."""
    lengths = ", ".join(f"{epochs} × {config.recovery_images:,}" for epochs in config.recovery_epochs)
    steps = ", ".join(map(share, config.gradual_steps))
    total = config.gradual_cycles * config.gradual_epochs
    return (
        f"Recovery: {lengths} images. Gradual pruning: steps to {steps}, each before {config.gradual_epochs} of {total} × "
        f"{config.recovery_images:,} images, the last {config.gradual_epochs} to hold. The dense control sees the same. "
        f"{_rates(config)}"
    )


def _rates(config: NoWeightUpdate) -> str:
    """How wide the lists of learning rates are."""
    at = f", at {config.recovery_search_epochs} × {config.recovery_images:,} images for all lengths"
    tried = {"recovery": (config.recovery_lrs, at), "gradual pruning": (config.gradual_lrs, "")}
    return " ".join(
        f"In {what} all have the same learning rate, {rates[0]:g}, which may suit some better than others."
        if len(rates) == 1
        else f"In {what} each has the best of {len(rates)} learning rates, by validation{at}."
        for what, (rates, at) in tried.items()
    )


def not_run(config: NoWeightUpdate) -> str:
    """Which parts of ablation A the parameters leave out, so that what is not shown is not taken for no effect."""
    out = []
    for phase, (methods, sparsities) in config.points.items():
        missing = [f"`{m}`" for m in (METHODS if phase == "one_shot" else config.methods) if m not in methods]
        fewer = [share(s) for s in config.sparsities if methods and s not in sparsities]
        if missing or fewer:
            what = " and ".join(", ".join(names) for names in (missing, fewer) if names)
            out.append(f"{TITLES[phase].lower()}: {what}")
    trained = config.recovery_methods or config.gradual_methods
    if trained and (others := [regime for regime in config.regimes if regime != "global"]):
        out.append(f"{' and '.join(others)} other than one-shot")
    if absent := [r for r in ("global", "uniform", "2:4") if r not in config.regimes]:
        out.append(f"the regimes {', '.join(absent)}")
    swept = config.sweeps | dict(damp=config.sensitivity_damps, passes=config.compute_passes)
    if absent := [SWEPT[column] for column, values in swept.items() if not values]:
        out.append(f"sensitivity to {', '.join(absent)}")
    if {*config.finetune_seeds} < {*config.seeds}:
        seeds = [seed for seed in config.seeds if seed not in config.finetune_seeds]
        out.append(
            f"anything trained after pruning for seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}, in this ablation"
        )
    return f"Not run: {'; '.join(out)}." if out else ""
