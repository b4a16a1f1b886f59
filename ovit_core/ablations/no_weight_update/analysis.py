"""Where oViT's gain over magnitude comes from: the score, the update, or the two together; and what ablation A says.

With a(score, update) the accuracy of a method, paired by seed:

    score        a(s, none) - a(magnitude, none)
    update       a(magnitude, joint) - a(magnitude, none)
    interaction  what is left of a(s, joint) - a(magnitude, none)

The other path adds the update first; the Shapley parts are the means of both. Parts can be negative.
"""

from itertools import product

import pandas as pd

from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate, regime_of
from ovit_core.methods import METHODS
from ovit_core.study import statistics, store
from ovit_core.study.statistics import WHERE, accuracies, difference, main, spread, summary, t_interval, verdict

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
SWEPT = dict(block_size="the block size", gradients="the number of gradients", gradient_batch="the images per gradient", damp="λ")  # fmt: skip
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


def asked(rows: pd.DataFrame, config: NoWeightUpdate) -> pd.Series:
    """Which rows the parameters ask for: of the points those of the regimes, and the sweeps."""
    regimes = {(allocation, str(pattern)) for allocation, pattern in map(regime_of, config.regimes)}
    regime = pd.Series(list(zip(rows.allocation, rows.pattern)), index=rows.index)
    wanted = store.asked(rows, config)
    wanted &= regime.isin(regimes) | (rows.phase != "one_shot") | (rows.score == "")
    sweep = (rows.experiment == "sensitivity") & (rows.sparsity_target == config.sensitivity_sparsity)
    for column, values in config.sweeps.items():
        wanted |= sweep & (rows.scope_name == column) & rows[column].isin(values)
    return wanted


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
    key = [*WHERE, "sparsity_target", "score_kind", "part"]
    if not parts:
        return pd.DataFrame(columns=[*key, "mean", "half", "seeds"])
    return summary(pd.concat(parts).groupby(key, sort=False).value)


def parts_table(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The parts of oViT's own gain by phase and sparsity, "mean ± half" in points; None without the rows for it."""
    found = attribution(rows)
    found = found[found.score_kind == "greedy"]
    if found.empty:
        return None
    text = [spread(mean, half) for mean, half in zip(found["mean"], found.half)]
    wide = found.assign(text=text).pivot(index=["phase", "part"], columns="sparsity_target", values="text")
    wide = wide.loc[[(phase, part) for phase in dict.fromkeys(found.phase) for part in PARTS]].fillna("")
    wide = wide.rename(columns=lambda s: f"{100 * s:g} %").rename_axis(columns="points of top-1")
    return wide.rename(index=TITLES, level="phase").rename(index=PARTS, level="part")


def sweeps(rows: pd.DataFrame) -> pd.DataFrame:
    """Top-1 of every sweep: `column` (what was varied), `setting`, `method`, `seed`, `value`.

    The study's own block size, gradients and gradient batch are a point of each sweep. Its lambda is none: it is
    chosen for each seed, where a sweep of lambda holds one for all.
    """
    varied = rows[(rows.experiment == "sensitivity") & (rows.metric == "top1")]
    own = accuracies(main(rows[rows.phase == "one_shot"]))
    own = own[own.sparsity_target.isin(varied.sparsity_target) & own.method.isin(varied.method)]
    out = [pd.DataFrame(columns=["column", "setting", "method", "seed", "value"])]
    for column in dict.fromkeys(varied.scope_name):
        here = varied[varied.scope_name == column]
        here = here if column == "damp" else pd.concat([here, own])
        found = here[[column, "method", "seed", "value"]].rename(columns={column: "setting"})
        out.append(found.assign(column=column))
    return pd.concat(out[1:] or out, ignore_index=True)


def sensitivity(rows: pd.DataFrame) -> pd.DataFrame:
    """The update's gain at oViT's mask (ovit minus ovit_mask_only): `mean`, `half`, `seeds` per column and setting."""
    wide = sweeps(rows).pivot_table(
        index=["column", "setting", "seed"], columns="method", values="value", sort=False, aggfunc="first"
    )
    if not {"ovit", "ovit_mask_only"} <= set(wide.columns):
        return pd.DataFrame(columns=["column", "setting", "mean", "half", "seeds"])
    gain = (wide["ovit"] - wide["ovit_mask_only"]).dropna()
    return summary(gain.groupby(["column", "setting"], sort=False))


def answers(rows: pd.DataFrame) -> list[str]:
    """What ablation A found, one sentence per comparison, from the rows alone."""
    said = [say(rows) for say in (answer_differences, answer_attribution, answer_sensitivity, answer_layers)]
    return sum(said, []) + answer_prediction(rows) or ["No pair of methods to compare was run."]


def _spoken(rows: pd.DataFrame) -> list[float]:
    """The sparsities the sentences speak of: those of trained models, else the two highest one-shot."""
    rows = accuracies(main(rows))
    rows = rows[rows.sparsity_target > 0]
    trained = rows[rows.phase.isin(("recovered", "gradual"))]
    return sorted(set(trained.sparsity_target)) or sorted(set(rows.sparsity_target))[-2:]


def answer_differences(rows: pd.DataFrame) -> list[str]:
    """oViT against its forms without an update and against its rivals, in each phase and regime."""
    out, spoken = [], _spoken(rows)
    for phase, (other, what) in product(TITLES, RIVALS.items()):
        for _, r in difference(rows[rows.phase == phase], "ovit", other).iterrows():
            if r.pattern == "unstructured" and r.sparsity_target not in spoken:
                continue
            regime = f"{100 * r.sparsity_target:g} %" if r.pattern == "unstructured" else r.pattern
            regime += " in every weight" if r.pattern == "unstructured" and r.allocation == "uniform" else ""
            out.append(f"{TITLES[phase]}, {regime}, {what}: {verdict(r['mean'], r.half, '`ovit`', f'`{other}`')}.")
    return out


def answer_attribution(rows: pd.DataFrame) -> list[str]:
    """Where oViT's gain over magnitude comes from at each sparsity, in one sentence per phase and sparsity."""
    found, out, spoken = attribution(rows), [], _spoken(rows)
    found = found[(found.score_kind == "greedy") & found.sparsity_target.isin(spoken)]
    for (phase, at), part in found.groupby(["phase", "sparsity_target"], sort=False):
        say = {name: spread(mean, half) for name, mean, half in zip(part.part, part["mean"], part.half)}
        out.append(
            f"{TITLES[phase]}, {100 * at:g} %: of oViT's {say['total']} points over magnitude, the score alone brings "
            f"{say['score']}, the update alone {say['update']}, the two together {say['interaction']} more; "
            f"averaged over both orders (Shapley), score {say['score_shapley']} and update {say['update_shapley']}."
        )
    return out


def answer_sensitivity(rows: pd.DataFrame) -> list[str]:
    """Where in each sweep the update brings least and most; and what the mask alone reaches at the lambda that suits it."""
    found, out = sensitivity(rows), []
    for column in dict.fromkeys(found.column):
        here = found[found.column == column]
        low, high = (here.loc[pick] for pick in (here["mean"].idxmin(), here["mean"].idxmax()))
        if len(here) > 1:
            out.append(
                f"As {SWEPT[column]} varies, the update at oViT's mask brings from {spread(low['mean'], low.half)} "
                f"(at {low.setting:g}) to {spread(high['mean'], high.half)} points (at {high.setting:g})."
            )
    masked = sweeps(rows)
    masked = masked[(masked.column == "damp") & (masked.method == "ovit_mask_only")]
    at = rows[rows.experiment == "sensitivity"].sparsity_target
    plain = accuracies(main(rows[(rows.phase == "one_shot") & (rows.method == "magnitude")]))
    if len(masked) and len(plain := plain[plain.sparsity_target.isin(at)]):
        best = masked.groupby("setting").value.mean().idxmax()
        gain = masked[masked.setting == best].set_index("seed").value - plain.set_index("seed").value
        sentence = verdict(gain.mean(), t_interval(gain.dropna()), "`ovit_mask_only`", "`magnitude`")
        out.append(f"At the λ of the sweep that suits the mask alone best ({best:.0e}), {sentence}.")
    return out


def answer_layers(rows: pd.DataFrame) -> list[str]:
    """The layer whose kept weights the correction moves most, at the highest sparsity spoken of."""
    spoken = _spoken(rows)
    rows = rows[(rows.scope == "layer") & (rows.metric == "correction_share") & rows.sparsity_target.isin(spoken)]
    rows = rows[rows.sparsity_target == rows.sparsity_target.max()]
    if rows.empty:
        return []
    top = summary(rows.groupby("scope_name").value).sort_values("mean").iloc[-1]
    return [
        f"At {100 * rows.sparsity_target.iloc[0]:g} % the largest share of the correction's squared norm is in "
        f"`{top.scope_name.removesuffix('.weight')}`: {spread(top['mean'], top.half, '.0f')} %."
    ]


def answer_prediction(rows: pd.DataFrame) -> list[str]:
    """The loss increase oViT's score predicts beside the measured one."""
    spoken = _spoken(rows)
    rows = main(rows)
    rows = rows[(rows.phase == "one_shot") & (rows.scope == "all") & (rows.experiment != "sensitivity")]
    loss = rows[rows.metric == "cross_entropy"]
    dense = loss[loss.method == "dense"].set_index("seed").value
    out = []
    for at in spoken:
        here = rows[(rows.method == "ovit") & (rows.sparsity_target == at)]
        predicted = here[here.metric == "predicted_loss_increase"].value
        measured = (here[here.metric == "cross_entropy"].set_index("seed").value - dense).dropna()
        if len(predicted) and len(measured):
            out.append(
                f"oViT's score at {100 * at:g} % predicts an increase of the loss by {predicted.mean():.1e} (mean over seeds); "
                f"on test images it is {spread(measured.mean(), t_interval(measured), '+.2g', 1)}."
            )
    return out


def budgets(config: NoWeightUpdate) -> str:
    """How many training images recovery and gradual pruning see."""
    recovery = f"Recovery: {config.recovery_epochs} × {config.recovery_images} images at most."
    cycle = f"{config.gradual_cycles} cycles of {config.gradual_epochs} × {config.gradual_images} images at most"
    return f"{recovery} Gradual pruning: {cycle}. The dense control sees the same."


def not_run(config: NoWeightUpdate) -> str:
    """Which parts of ablation A the parameters leave out, so that what is not on the page is not taken for no effect."""
    phases = dict(recovered="after recovery", gradual="pruned gradually")
    out = []
    if missing := [m for m in METHODS if m not in config.methods]:
        out.append(f"one-shot: {', '.join(f'`{m}`' for m in missing)}")
    for phase, (methods, sparsities) in config.points.items():
        if phase == "one_shot":
            continue
        missing = [m for m in config.methods if m not in methods]
        fewer = [s for s in config.sparsities if s not in sparsities]
        what = [", ".join(f"`{m}`" for m in missing)] * bool(missing)
        what += [", ".join(f"{100 * s:g} %" for s in fewer)] * bool(fewer and methods)
        out += [f"{phases[phase]}: {' and '.join(what)}"] * bool(what)
    trained = [p for p in phases if config.points[p][0]]
    rest = [r for r in ("uniform", "2:4") if r in config.regimes]
    if trained and rest:
        out.append(f"{' and '.join(rest)} other than one-shot")
    if absent := [r for r in ("uniform", "2:4") if r not in config.regimes]:
        out.append(f"the regimes {', '.join(absent)}")
    if absent := [name.replace("_", " ") for name, values in config.sweeps.items() if not values]:
        out.append(f"sensitivity to {', '.join(absent).replace('damp', 'λ')}")
    return f"Not run: {'; '.join(out)}." if out else ""


def tables(rows: pd.DataFrame, config: NoWeightUpdate) -> str:
    """Mean and interval of every method, sparsity, phase and regime, as Markdown."""
    return statistics.tables(rows, config.points, [config.upstream])
