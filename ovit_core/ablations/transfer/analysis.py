"""What ablation B's rows say: which sets can tell anything, errors relative to dense, upstream top-1 as a predictor."""

import numpy as np
import pandas as pd

from ovit_core.ablations.transfer.parameters import NOTHING, Transfer
from ovit_core.methods import METHODS
from ovit_core.study import statistics
from ovit_core.study.statistics import accuracies, accuracy, difference, share, spread, spreads, summary, verdict

PROTOCOLS = dict(linear="linear probe", full="full finetuning")
MARGIN = 0.05  # dense must beat its best floor by this much for a set to say anything about transfer
# What oViT is compared with: what is lost, what the update brings in two ways, and the plain rival.
RIVALS = ("dense", "ovit_mask_only", "ovit_no_update", "magnitude")


def floors(rows: pd.DataFrame) -> pd.DataFrame:
    """Per protocol and dataset the mean accuracy of `dense` and of its best `floor`, and whether the set `tells`: dense
    beats the floor by MARGIN. No claim is made about the others.
    """
    found = accuracy(rows[rows.phase.isin(PROTOCOLS)]).set_index(["phase", "dataset"])
    out = found[found.method == "dense"][["mean"]].rename(columns=dict(mean="dense"))
    out["floor"] = found[found.method.isin(NOTHING)].groupby(["phase", "dataset"])["mean"].max()
    return out.assign(tells=out.dense >= out.floor + MARGIN)


def error_increase(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of (error - dense error) / dense error (0.1 is a tenth more errors), averaged over the telling datasets
    of each seed, with their number as `datasets`, per phase, method and sparsity_target.
    """
    key, sets = ["phase", "method", "sparsity_target"], floors(rows)
    told = accuracies(rows).merge(sets[sets.tells].reset_index()[["phase", "dataset"]])
    more = statistics.paired(told[told.sparsity_target > 0], told[told.method == "dense"], ["phase", "dataset", "seed"])
    # A dense model without errors has none to be relative to: such a set is left out, of every seed.
    more = more[more.groupby(["phase", "dataset"]).other.transform("max") < 1]
    more["value"] = -more.value / (1 - more.other)
    found = summary(more.groupby([*key, "seed"], sort=False).value.mean().reset_index(), key)
    return found.assign(datasets=found.phase.map(more.groupby("phase").dataset.nunique()))


def beside_upstream(rows: pd.DataFrame) -> pd.DataFrame:
    """Every model's transfer accuracy beside its upstream top-1: `value`, `upstream_top1` per phase, dataset, method,
    sparsity_target and seed.
    """
    model = ["method", "sparsity_target", "seed"]
    top1 = accuracies(rows[rows.phase == "one_shot"]).rename(columns=dict(value="upstream_top1"))
    return accuracies(rows[rows.phase.isin(PROTOCOLS)]).merge(top1[[*model, "upstream_top1"]], on=model)


def correlation(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of Spearman's rank correlation of transfer and upstream accuracy over the pruned models of a seed, with
    their number as `models`, per phase and dataset. Five models at least.
    """
    both, key = beside_upstream(rows), ["phase", "dataset", "models"]
    pruned = both[both.sparsity_target > 0].groupby(["phase", "dataset", "seed"], sort=False)
    seeds = [
        (phase, dataset, len(models), models.value.corr(models.upstream_top1, method="spearman"))
        for (phase, dataset, _), models in pruned
        if len(models) >= 5
    ]
    return summary(pd.DataFrame(seeds, columns=[*key, "value"]).dropna(), key)


def answers(rows: pd.DataFrame) -> list[str]:
    """What ablation B found, a sentence per comparison; where dense barely beats its floor, that nothing is claimed."""
    sets, out = floors(rows), []
    for (phase, dataset), level in sets.iterrows():
        if not level.tells:
            out.append(
                f"{dataset}, {PROTOCOLS[phase]}: dense ({100 * level.dense:.1f} %) does not beat the best floor "
                f"({100 * level.floor:.1f} %) by {100 * MARGIN:g} points, so nothing is claimed about transfer here."
            )
            continue
        here = _headline(rows[(rows.phase == phase) & (rows.dataset == dataset)])
        for rival in RIVALS:
            for _, r in difference(here, "ovit", rival).iterrows():
                said = verdict(r["mean"], r.half, "`ovit`", f"`{rival}`")
                out.append(f"{dataset}, {PROTOCOLS[phase]}, {share(r.sparsity_target)}: {said}.")
    if (compared := sum("`" in sentence for sentence in out)) > 1:
        out.append(
            f"These are {compared} comparisons, each with an interval of 95 % of its own: of twenty without a "
            "difference, one would be called resolved by chance."
        )
    for phase, more in error_increase(rows).groupby("phase", sort=False):
        more = _headline(more)
        at, count = more.sparsity_target.iloc[0], more.datasets.iloc[0]
        parts = ", ".join(f"`{method}` {text} %" for method, text in zip(more.method, spreads(more, "+.0f")))
        out.append(
            f"{PROTOCOLS[phase].capitalize()}, {share(at)}, errors relative to dense over the "
            f"{count} dataset{'s' if count > 1 else ''} that can tell: {parts}."
        )
    for _, r in correlation(rows).iterrows():
        if sets.tells[r.phase, r.dataset]:
            said = _predicts(r["mean"], r.half)
            out.append(f"{r.dataset}, {PROTOCOLS[r.phase]}: {said} over the {r.models} pruned models.")
    return out


def _headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that sentences speak of: at 90 % where it was run, else at the highest sparsity; and dense."""
    at = 0.9 if (rows.sparsity_target == 0.9).any() else rows.sparsity_target.max()
    return rows[rows.sparsity_target.isin((0, at))]


def _predicts(rho: float, half: float) -> str:
    """Whether upstream top-1 predicts transfer, in words that follow the interval."""
    if np.isnan(half):
        return f"the rank correlation of upstream top-1 and transfer accuracy is {rho:+.2f} (one seed, no interval)"
    size = f"rank correlation {spread(rho, half, '+.2f', 1)}"
    if abs(rho) <= half:
        return f"no relation of upstream top-1 and transfer accuracy is resolved ({size})"
    return f"transfer accuracy {'rises' if rho > 0 else 'falls'} with upstream top-1 ({size})"


def not_run(config: Transfer) -> str:
    """Which parts of ablation B the parameters leave out."""
    out = [name for phase, name in PROTOCOLS.items() if phase not in config.protocols]
    fewer = [share(s) for s in config.transfer_sparsities if s not in config.full_sparsities]
    if fewer and "full" in config.protocols:
        out.append(f"{PROTOCOLS['full']} at {', '.join(fewer)}")
    if others := [f"`{m}`" for m in METHODS if m not in config.transfer_methods]:
        out.append(", ".join(others))
    return f"Not run: {'; '.join(out)}." if out else ""
