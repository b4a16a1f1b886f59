"""Where oViT's gain over magnitude comes from: the score, the update, or the two together; and what ablation A says.

With a(score, update) the accuracy of a method, paired by seed:

    score        a(s, none) - a(magnitude, none)
    update       a(magnitude, joint) - a(magnitude, none)
    interaction  what is left of a(s, joint) - a(magnitude, none)

The other path adds the update first; the Shapley parts are the means of both. Parts can be negative.
"""

from itertools import product

import pandas as pd

from ovit_core.ablations.no_weight_update.parameters import PAIR, NoWeightUpdate
from ovit_core.methods import METHODS
from ovit_core.study import statistics
from ovit_core.study.statistics import accuracies, difference, main, paired, share, spreads, summary, verdict

# score -> (method without update, method with the joint update)
SCORES = {
    "static": ("obert_mask_only", "obert_joint"),
    "greedy_frozen": ("ovit_no_update", "ovit_no_update_joint"),
    "greedy": ("ovit_mask_only", "ovit"),
}
# What oViT is compared with, and what the difference tells.
RIVALS = {
    "ovit_mask_only": "the weight update at oViT's own mask",
    "ovit_no_update": "the weight update in scores and weights",
    "magnitude": "oViT against magnitude",
    "obert": "oViT against oBERT",
}
TITLES = dict(one_shot="One-shot", recovered="After recovery", gradual="Pruned gradually")
SWEPT = dict(block_size="block size B", gradients="gradients m", gradient_batch="images per gradient", damp="λ")
PARTS = {
    "total": "ovit minus magnitude",
    "score": "score, without update",
    "update": "update, at magnitude's mask",
    "interaction": "interaction",
    "score_other": "score, with update",
    "update_other": "update, at oViT's mask",
    "score_shapley": "score, Shapley",
    "update_shapley": "update, Shapley",
}


def attribution(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of the parts of each score's gain (fractions) per phase, dataset, sparsity, `score_kind` and `part`."""
    index = [*statistics.WHERE, "sparsity_target", "seed"]
    a = accuracies(main(rows)).pivot_table(index=index, columns="method", values="value", sort=False)
    a = a.reindex(columns=list(METHODS))
    plain, corrected = a["magnitude"], a["magnitude_joint"]
    found = []
    for kind, (none, joint) in SCORES.items():
        parts = pd.DataFrame(dict(total=a[joint] - plain, score=a[none] - plain, update=corrected - plain))
        parts["interaction"] = parts["total"] - parts["score"] - parts["update"]
        parts["score_other"] = a[joint] - corrected
        parts["update_other"] = a[joint] - a[none]
        for part in ("score", "update"):
            parts[f"{part}_shapley"] = (parts[part] + parts[f"{part}_other"]) / 2
        found.append(parts.dropna().melt(var_name="part", ignore_index=False).reset_index().assign(score_kind=kind))
    return summary(pd.concat(found), [*index[:-1], "score_kind", "part"])


def parts_table(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The parts of oViT's own gain by phase and sparsity, "mean ± half" in points; None without the rows for it."""
    found = attribution(rows)
    found = found[found.score_kind == "greedy"]
    if found.empty:
        return None
    found = found.assign(text=spreads(found))
    wide = found.pivot(index=["phase", "part"], columns="sparsity_target", values="text").fillna("")
    wide = wide.loc[list(product(found.phase.unique(), PARTS))].rename(columns=share)
    return wide.rename(index=TITLES | PARTS).rename_axis(columns="points of top-1")


def sweeps(rows: pd.DataFrame) -> pd.DataFrame:
    """Top-1 of every sweep: `column` (what was varied), `setting`, `method`, `seed`, `value`.

    The study's own block size, gradients and gradient batch are a point of each sweep. Its lambda is none: it is
    chosen for each seed, where a sweep of lambda holds one for all.
    """
    varied = rows[(rows.experiment == "sensitivity") & (rows.metric == "top1")]
    own = accuracies(main(rows[rows.phase == "one_shot"]))
    own = own[own.sparsity_target.isin(varied.sparsity_target) & own.method.isin(PAIR)]
    columns = varied.scope_name.unique()
    points = [varied, *(own.assign(scope_name=column) for column in columns if column != "damp")]
    found = pd.concat(points).rename(columns=dict(scope_name="column"))
    found["setting"] = [row[row["column"]] for row in found.to_dict("records")]
    found = found.sort_values("column", key=lambda names: names.map(list(SWEPT).index), kind="stable")
    return found[["column", "setting", "method", "seed", "value"]]


def sensitivity(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of the update's gain at oViT's mask (ovit minus ovit_mask_only) per `column` and `setting`."""
    point = ["column", "setting", "seed"]
    found = sweeps(rows).drop_duplicates([*point, "method"])
    joint, none = (found[found.method == method] for method in PAIR)
    return summary(paired(joint, none, point), ["column", "setting"])


def answers(rows: pd.DataFrame) -> list[str]:
    """What ablation A found, one sentence per comparison, from the rows alone."""
    said = [say(rows) for say in (answer_differences, answer_attribution, answer_sensitivity)]
    return sum(said, []) or ["No pair of methods to compare was run."]


def _spoken(rows: pd.DataFrame) -> list[float]:
    """The sparsities the sentences speak of: those of trained models, else the two highest one-shot."""
    rows = accuracies(main(rows[rows.sparsity_target > 0]))
    trained = set(rows[rows.phase != "one_shot"].sparsity_target)
    return sorted(trained) or sorted(set(rows.sparsity_target))[-2:]


def answer_differences(rows: pd.DataFrame) -> list[str]:
    """oViT against its forms without an update and against its rivals, in each phase and regime."""
    out, spoken = [], _spoken(rows)
    for phase, (other, what) in product(TITLES, RIVALS.items()):
        for _, r in difference(rows[rows.phase == phase], "ovit", other).iterrows():
            regime = r.pattern
            if regime == "unstructured":
                regime = share(r.sparsity_target) + " in every weight" * (r.allocation == "uniform")
                if r.sparsity_target not in spoken:
                    continue
            out.append(f"{TITLES[phase]}, {regime}, {what}: {verdict(r['mean'], r.half, '`ovit`', f'`{other}`')}.")
    return out


def answer_attribution(rows: pd.DataFrame) -> list[str]:
    """Where oViT's gain over magnitude comes from at each sparsity, in one sentence per phase and sparsity."""
    found, out = attribution(rows), []
    found = found[(found.score_kind == "greedy") & found.sparsity_target.isin(_spoken(rows))]
    for (phase, at), parts in found.groupby(["phase", "sparsity_target"], sort=False):
        say = dict(zip(parts.part, spreads(parts)))
        out.append(
            f"{TITLES[phase]}, {share(at)}: of oViT's {say['total']} points over magnitude, the score alone brings "
            f"{say['score']}, the update alone {say['update']}, the two together {say['interaction']} more; "
            f"averaged over both orders (Shapley), score {say['score_shapley']} and update {say['update_shapley']}."
        )
    return out


def answer_sensitivity(rows: pd.DataFrame) -> list[str]:
    """Where in each sweep the update brings least and most; what the mask alone reaches at the lambda that suits it."""
    out = []
    for column, gains in sensitivity(rows).groupby("column", sort=False):
        if len(gains) > 1:
            gains = gains.assign(text=spreads(gains)).sort_values("mean")
            low, high = gains.iloc[0], gains.iloc[-1]
            out.append(
                f"In the sweep of {SWEPT[column]}, the update at oViT's mask brings from {low.text} "
                f"(at {low.setting:g}) to {high.text} points (at {high.setting:g})."
            )
    swept = sweeps(rows)
    masked = swept[(swept.column == "damp") & (swept.method == "ovit_mask_only")]
    plain = accuracies(main(rows[(rows.phase == "one_shot") & (rows.method == "magnitude")]))
    plain = plain[plain.sparsity_target.isin(rows[rows.experiment == "sensitivity"].sparsity_target)]
    for _, best in summary(paired(masked, plain, ["seed"]), ["setting"]).nlargest(1, "mean").iterrows():
        said = verdict(best["mean"], best.half, "`ovit_mask_only`", "`magnitude`")
        out.append(f"At the λ of the sweep that suits the mask alone best ({best.setting:.0e}), {said}.")
    return out


def budgets(config: NoWeightUpdate) -> str:
    """How many training images recovery and gradual pruning see."""
    recovery = f"Recovery: {config.recovery_epochs} × {config.recovery_images} images at most."
    cycle = f"{config.gradual_cycles} cycles of {config.gradual_epochs} × {config.gradual_images} images at most"
    return f"{recovery} Gradual pruning: {cycle}. The dense control sees the same."


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
    if absent := [SWEPT[column] for column, values in config.sweeps.items() if not values]:
        out.append(f"sensitivity to {', '.join(absent)}")
    return f"Not run: {'; '.join(out)}." if out else ""
