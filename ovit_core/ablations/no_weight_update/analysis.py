"""What ablation A says beside its comparisons: how sure the settings are, what a setting changes, what was not run."""

import math

import pandas as pd

from ovit_core.ablations.no_weight_update.families import families
from ovit_core.ablations.no_weight_update.parameters import COMPUTE, PAIR, NoWeightUpdate
from ovit_core.methods import METHODS
from ovit_core.study import tuning
from ovit_core.study.statistics import ACCURACIES, contrast, main, share, summary
from ovit_core.study.tasks import VALIDATION

__all__ = ["answers", "budgets", "compute", "families", "not_run", "sensitivity", "sweeps"]
TITLES = dict(one_shot="One-shot", recovered="After recovery", gradual="Pruned gradually")
SWEPT = dict(
    block_size="block size B", gradients="gradients m", gradient_batch="images per gradient", damp="λ",
    passes="passes that share the gradients",
)  # fmt: skip
LONG_ENOUGH = 0.01  # a dense model trained for half as long lies less than this below


def sweeps(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of every sweep, with `column` (what was varied), `setting` (its value) and `rule` ("own": lambda chosen
    anew at every point, "fixed": oViT's at the study's own setting). The study's own setting is a point of each.
    """
    known = rows[rows.metric.isin(ACCURACIES) & (rows.scope == "all")]
    varied = known[(known.experiment == "sensitivity") & known.scope_name.isin(list(SWEPT))]
    own = main(known[(known.experiment != "sensitivity") & (known.phase == "one_shot")])
    own = own[own.sparsity_target.isin(varied.sparsity_target) & own.method.isin(varied.method)]
    # At the study's own setting oViT's lambda is its own.
    shared = own[(own.damp_rule == "shared") | ((own.method == PAIR[0]) & (own.damp_rule == "own"))]
    mine = own[own.damp_rule != "shared"]
    points = [varied.assign(rule=varied.damp_rule.replace("shared", "fixed"), column=varied.scope_name)]
    for column in varied.scope_name.unique():
        points += [mine.assign(rule="own", column=column)] if column != "damp" else []
        points += [shared.assign(rule="fixed", column=column)] if column not in ("damp", "passes") else []
    found = pd.concat(points)
    return found.assign(setting=[row[row["column"]] for row in found.to_dict("records")])


def sensitivity(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of the update's gain with oViT's score (ovit minus ovit_mask_only) per `column`, `rule`, `setting`."""
    found, point = sweeps(rows), ["column", "rule", "setting"]
    found = found[found.column != "passes"]
    return summary(contrast(found, {PAIR[0]: 1, PAIR[1]: -1}, point), point)


def compute(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of the accuracy per `method` and `setting`, the number of passes that share the gradients."""
    found = sweeps(rows)
    found = found[(found.column == "passes") & (found.rule == "own") & found.method.isin(COMPUTE)]
    return summary(found, ["method", "setting"])


def answers(rows: pd.DataFrame) -> list[str]:
    """What the comparisons rest on: whether training was long enough, lists wide enough, images many enough."""
    return [*_length(rows), *_edges(rows), *_moved(rows), *_draws(rows)]


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
        if flagged := tuning.edges(tuning.searched(rows, column)):
            out.append(f"At the edge of their list of {what}: {'; '.join(flagged)}. A wider list may suit them better.")
    return out


def _moved(rows: pd.DataFrame) -> list[str]:
    """Methods whose lambda would be another one had it been chosen at another sparsity."""
    found = tuning.searched(rows, "damp")
    found = main(found[found.passes == 1])
    if found.empty or found.sparsity_target.nunique() < 2:
        return []
    at = found.sparsity_target.mode().iloc[0]
    told = [
        f"`{method}` by up to {ratio:.0f} decade{'s' * (ratio >= 1.5)}"
        for method, lines in found.groupby("method", sort=False)
        if (ratio := _decades(lines.drop_duplicates("sparsity_target").best)) > 0.5
    ]
    others = ", ".join(share(s) for s in sorted({*found.sparsity_target} - {at}))
    said = "moves " + ", ".join(told) if told else "stays where it is for every method"
    return [f"Chosen at {others} instead of {share(at)}, λ {said}."]


def _decades(damps: pd.Series) -> float:
    return math.log10(damps.max() / damps.min())


def _draws(rows: pd.DataFrame) -> list[str]:
    """How much of the spread between seeds is the choice of the curvature's images: other draws for the same model."""
    drawn = rows[(rows.scope_name == "gradient_seed") & (rows.metric == "top1")]
    own = main(rows[(rows.phase == "one_shot") & (rows.metric == "top1") & (rows.scope == "all")])
    own = own[
        (own.experiment != "sensitivity")
        & own.sparsity_target.isin(drawn.sparsity_target)
        & (own.damp_rule != "shared")
    ]
    both, out = pd.concat([drawn, own[own.method.isin(drawn.method)]]), []
    for method, found in both.groupby("method", sort=False):
        within = found.groupby("seed").value.var().mean() ** 0.5
        between = found.groupby("seed").value.mean().std()
        if within == within and between == between:
            out.append(f"`{method}` {100 * within:.1f} between draws, {100 * between:.1f} between seeds")
    said = "Standard deviations in points, other images for the Fisher of the same dense model against other seeds"
    return [f"{said}: {'; '.join(out)}."] if out else []


def budgets(config: NoWeightUpdate) -> str:
    """How many training images recovery and gradual pruning see."""
    lengths = ", ".join(f"{epochs} × {config.recovery_images:,}" for epochs in config.recovery_epochs)
    steps = ", ".join(map(share, config.gradual_steps))
    total = config.gradual_cycles * config.gradual_epochs
    return (
        f"Recovery: {lengths} images. Gradual pruning: steps to {steps}, each before {config.gradual_epochs} of {total} × "
        f"{config.recovery_images:,} images, the last {config.gradual_epochs} to hold. The dense control sees the same. "
        "Each has the learning rate that suits it."
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
        out.append(f"anything trained after pruning for seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
    return f"Not run: {'; '.join(out)}." if out else ""
