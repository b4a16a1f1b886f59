"""Where oViT's gain over magnitude comes from: the score, the update, or the two together; and what ablation A says.

With a(score, update) the accuracy of a method, paired by seed:

    score        a(s, none) - a(magnitude, none)
    update       a(magnitude, joint) - a(magnitude, none)
    interaction  what is left of a(s, joint) - a(magnitude, none)

The other path adds the update first; the Shapley parts are the means of both. Parts can be negative.
"""

import pandas as pd

from ovit_core.statistics import WHERE, accuracies, difference, main, points, t_interval, verdict

# score -> (method without update, method with the joint update)
SCORES = {
    "static": ("obert_mask_only", "obert_joint"),
    "greedy_frozen": ("ovit_no_update", "ovit_no_update_joint"),
    "greedy": ("ovit_mask_only", "ovit"),
}
TITLES = dict(one_shot="One-shot", recovered="After recovery", gradual="Pruned gradually")
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
    """The parts of every score's gain: `mean`, `half`, `seeds` (fractions) per phase, dataset, sparsity, score, part."""
    values = accuracies(main(rows))
    index = [*WHERE, "sparsity_target", "seed"]
    wide = values.pivot_table(index=index, columns="method", values="value")
    parts = []
    for score, (none, joint) in SCORES.items():
        if not {none, joint, "magnitude", "magnitude_joint"} <= set(wide.columns):
            continue
        w = wide[[none, joint, "magnitude", "magnitude_joint"]].dropna()
        base = w["magnitude"]
        found = pd.DataFrame(index=w.index)
        found["score"] = w[none] - base
        found["update"] = w["magnitude_joint"] - base
        found["total"] = w[joint] - base
        found["interaction"] = found.total - found.score - found["update"]
        found["score_other"] = w[joint] - w["magnitude_joint"]
        found["update_other"] = w[joint] - w[none]
        found["score_shapley"] = (found.score + found.score_other) / 2
        found["update_shapley"] = (found["update"] + found.update_other) / 2
        long = found.reset_index().melt(id_vars=index, var_name="part").assign(score_kind=score)
        parts.append(long)
    if not parts:
        return pd.DataFrame(columns=[*WHERE, "sparsity_target", "score_kind", "part", "mean", "half", "seeds"])
    groups = pd.concat(parts).groupby([*WHERE, "sparsity_target", "score_kind", "part"], sort=False).value
    return groups.agg(mean="mean", half=t_interval, seeds="count").reset_index()


def parts_table(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The parts of oViT's own gain by phase and sparsity, "mean ± half" in points; None without the rows for it."""
    found = attribution(rows)
    found = found[found.score_kind == "greedy"]
    if found.empty:
        return None
    text = [points(m, h) for m, h in zip(found["mean"], found.half)]
    wide = found.assign(text=text).pivot(index=["phase", "part"], columns="sparsity_target", values="text")
    order = [(phase, part) for phase in dict.fromkeys(found.phase) for part in PARTS]
    wide = wide.loc[order].rename(columns=lambda s: f"{100 * s:g} %").fillna("")
    return wide.rename(index=PARTS, level="part").rename_axis(columns="points of top-1")


def sensitivity(rows: pd.DataFrame) -> pd.DataFrame:
    """The update's gain at oViT's mask (ovit minus ovit_mask_only): `mean`, `half`, `seeds` per column and value.

    The study's own block size, gradients and gradient batch are a point of each sweep. Its lambda is none: it is
    chosen for each seed, where a sweep of lambda holds one for all.
    """
    varied = rows[(rows.experiment == "sensitivity") & (rows.metric == "top1")]
    own = accuracies(main(rows[rows.phase == "one_shot"]))
    own = own[own.sparsity_target.isin(varied.sparsity_target)]
    out = [pd.DataFrame(columns=["setting", "mean", "half", "seeds", "column"])]
    for column in dict.fromkeys(varied.scope_name):
        here = varied[varied.scope_name == column]
        here = here if column == "damp" else pd.concat([here, own])
        wide = here.pivot_table(index=[column, "seed"], columns="method", values="value")
        gain = (wide["ovit"] - wide["ovit_mask_only"]).dropna().groupby(column).agg(["mean", t_interval, "count"])
        gain.columns = ["mean", "half", "seeds"]
        out.append(gain.reset_index(names="setting").assign(column=column))
    return pd.concat([o for o in out if len(o)], ignore_index=True) if len(out) > 1 else out[0]


def answer_a(rows: pd.DataFrame) -> list[str]:
    """What ablation A found, one sentence per comparison, from the rows alone."""
    out = []
    for phase, title in TITLES.items():
        for other, what in (
            ("ovit_mask_only", "the weight update at oViT's own mask"),
            ("ovit_no_update", "the weight update in scores and weights"),
            ("magnitude", "oViT against magnitude"),
            ("obert", "oViT against oBERT"),
        ):
            found = difference(main(rows[rows.phase == phase]), "ovit", other)
            for _, r in found[found.sparsity_target.isin((0.8, 0.9))].iterrows():
                sentence = verdict(r["mean"], r.half, "`ovit`", f"`{other}`")
                out.append(f"{title}, {100 * r.sparsity_target:g} %, {what}: {sentence}.")
    return out


def answer_attribution(rows: pd.DataFrame) -> list[str]:
    """Where oViT's gain over magnitude comes from at each sparsity, in one sentence per phase and sparsity."""
    found, out = attribution(rows), []
    for phase in [p for p in TITLES if p in set(found.phase)]:
        here = found[(found.phase == phase) & (found.score_kind == "greedy")]
        for at in [s for s in (0.8, 0.9) if s in set(here.sparsity_target)]:
            part = here[here.sparsity_target == at].set_index("part")
            say = lambda name: points(part.loc[name, "mean"], part.loc[name, "half"])
            out.append(
                f"{TITLES[phase]}, {100 * at:g} %: of oViT's {say('total')} points over magnitude, the score alone brings "
                f"{say('score')}, the update alone {say('update')}, the two together {say('interaction')} more; "
                f"averaged over both orders (Shapley), score {say('score_shapley')} and update {say('update_shapley')}."
            )
    return out


def answer_prediction(rows: pd.DataFrame) -> list[str]:
    """The loss increase oViT's score predicts beside the measured one, means over seeds, at 80 and 90 %."""
    rows = main(rows)
    rows = rows[(rows.phase == "one_shot") & (rows.scope == "all") & (rows.experiment != "sensitivity")]
    mean = rows.groupby(["method", "metric", "sparsity_target"]).value.mean()
    out = []
    for at in (0.8, 0.9):
        if ("ovit", "predicted_loss_increase", at) in mean:
            predicted = mean["ovit", "predicted_loss_increase", at]
            measured = mean["ovit", "cross_entropy", at] - mean["dense", "cross_entropy", 0.0]
            out.append(
                f"oViT's score at {100 * at:g} % predicts an increase of the loss by {predicted:.1e}; on test images it "
                f"is {measured:.2g}."
            )
    return out


def answers(rows: pd.DataFrame) -> list[str]:
    """All of ablation A's sentences."""
    return answer_a(rows) + answer_attribution(rows) + answer_prediction(rows)
