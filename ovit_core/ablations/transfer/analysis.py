"""What ablation B's rows say: which sets can tell anything, errors relative to dense, upstream accuracy as a predictor,
the classes that lose, and the sentences.
"""

import numpy as np
import pandas as pd

from ovit_core.ablations.transfer.parameters import FLOORS, Transfer
from ovit_core.methods import METHODS
from ovit_core.study import statistics
from ovit_core.study.statistics import accuracies, accuracy, difference, spread, summary, verdict
from ovit_core.study.store import asked as asked

PROTOCOLS = dict(linear="linear probe", full="full finetuning")
MARGIN = 0.05  # dense must beat its best floor by this much for a set to say anything about transfer
# What the sentences compare: what is lost to dense, what the update brings in two ways, and the plain rival.
PAIRS = (("ovit", "dense"), ("ovit", "ovit_mask_only"), ("ovit", "ovit_no_update"), ("ovit", "magnitude"))


def telling(rows: pd.DataFrame, phase: str) -> list[str]:
    """The datasets where dense beats its best floor by MARGIN, means over seeds; no claim is made about the others."""
    found = accuracy(rows[rows.phase == phase])
    mean = found.pivot_table(index="dataset", columns="method", values="mean", sort=False)
    floor = mean[[f for f in FLOORS[phase] if f in mean]].max(axis=1)
    return list(mean.index[mean["dense"] >= floor + MARGIN])


def error_increase(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of (error - dense error) / dense error (0.1 is a tenth more errors), averaged over the telling datasets
    of each seed, with their number as `datasets`, per phase, method and sparsity_target.
    """
    key = ["phase", "method", "sparsity_target"]
    out = [pd.DataFrame(columns=[*key, "mean", "half", "seeds", "datasets"])]
    for phase in _phases(rows):
        values = accuracies(rows[(rows.phase == phase) & rows.dataset.isin(telling(rows, phase))])
        dense = values[values.method == "dense"].set_index(["dataset", "seed"]).value
        # A dense model without errors has none to be relative to: such a set is left out, of every seed.
        faultless = dense.index[dense == 1].get_level_values("dataset")
        pruned = values[(values.sparsity_target > 0) & ~values.dataset.isin(faultless)]
        if pruned.empty:
            continue
        base = 1 - dense.reindex(pd.MultiIndex.from_frame(pruned[["dataset", "seed"]])).to_numpy()
        seeds = pruned.assign(more=(1 - pruned.value - base) / base).groupby([*key, "seed"], sort=False).more.mean()
        out.append(summary(seeds.groupby(key, sort=False)).assign(datasets=pruned.dataset.nunique()))
    return pd.concat(out[1:] or out, ignore_index=True)


def beside_upstream(rows: pd.DataFrame) -> pd.DataFrame:
    """Every pruned model's transfer accuracy beside its upstream top-1: `value`, `upstream_top1` per phase, dataset,
    method, sparsity_target and seed.
    """
    top1 = rows[(rows.phase == "one_shot") & (rows.metric == "top1") & (rows.scope == "all")]
    top1 = top1[["method", "sparsity_target", "seed", "value"]].rename(columns=dict(value="upstream_top1"))
    return accuracies(rows[rows.phase.isin(PROTOCOLS)]).merge(top1, on=["method", "sparsity_target", "seed"])


def correlation(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of Spearman's rank correlation of transfer and upstream accuracy over the pruned models of a seed, with
    their number as `models`, per phase and dataset. Five models at least.
    """
    both, key = beside_upstream(rows), ["phase", "dataset", "models"]
    seeds = [
        dict(phase=phase, dataset=dataset, models=len(f), rho=f.value.corr(f.upstream_top1, method="spearman"))
        for (phase, dataset, _), f in both[both.sparsity_target > 0].groupby(["phase", "dataset", "seed"], sort=False)
        if len(f) >= 5
    ]
    if not seeds:
        return pd.DataFrame(columns=[*key, "mean", "half", "seeds"])
    return summary(pd.DataFrame(seeds).dropna().groupby(key, sort=False).rho)


def answers(rows: pd.DataFrame) -> list[str]:
    """What ablation B found, one sentence per comparison, from the rows alone; silent where dense barely beats its floor,
    and says so.
    """
    found, out = accuracy(rows), []
    for phase in _phases(rows):
        at = _headline(rows, phase)
        name, sets = PROTOCOLS[phase], telling(rows, phase)
        for dataset in dict.fromkeys(rows[rows.phase == phase].dataset):
            here = rows[(rows.phase == phase) & (rows.dataset == dataset)]
            mean = found[(found.phase == phase) & (found.dataset == dataset)].set_index("method")["mean"]
            if dataset not in sets:
                floor = max(mean[f].max() for f in FLOORS[phase])
                out.append(
                    f"{dataset}, {name}: dense ({100 * mean['dense']:.1f} %) does not beat the best floor "
                    f"({100 * floor:.1f} %) by {100 * MARGIN:g} points, so nothing is claimed about transfer here."
                )
                continue
            for a, b in PAIRS:
                gains = difference(here, a, b) if {a, b} <= set(here.method) else found.iloc[:0]
                for _, r in gains[gains.sparsity_target == at].iterrows():
                    out.append(f"{dataset}, {name}, {100 * at:g} %: {verdict(r['mean'], r.half, f'`{a}`', f'`{b}`')}.")
    if (compared := sum("`" in sentence for sentence in out)) > 1:
        out.append(
            f"These are {compared} comparisons, each with an interval of 95 % of its own: of twenty without a "
            "difference, one would be called resolved by chance."
        )
    more = error_increase(rows)
    for (phase, count), here in more.groupby(["phase", "datasets"], sort=False):
        at = _headline(rows, phase)
        here = here[here.sparsity_target == at]
        parts = [f"`{r.method}` {spread(r['mean'], r.half, '+.0f')} %" for _, r in here.iterrows()]
        sets = f"{count} dataset{'s' if count > 1 else ''} that can tell"
        out.append(
            f"{PROTOCOLS[phase].capitalize()}, {100 * at:g} %, errors relative to dense over the {sets}: {', '.join(parts)}."
        )
    for _, r in correlation(rows).iterrows():
        if r.dataset in telling(rows, r.phase):
            out.append(
                f"{r.dataset}, {PROTOCOLS[r.phase]}: {_tells(r['mean'], r.half)} over the {r.models} pruned models."
            )
    return out


def not_run(config: Transfer) -> str:
    """Which parts of ablation B the parameters leave out."""
    out = [name for phase, name in PROTOCOLS.items() if phase not in config.protocols]
    if "full" in config.protocols and (
        fewer := [s for s in config.transfer_sparsities if s not in config.full_sparsities]
    ):
        out.append(f"{PROTOCOLS['full']} at {', '.join(f'{100 * s:g} %' for s in fewer)}")
    if others := [m for m in METHODS if m not in config.transfer_methods]:
        out.append(", ".join(f"`{m}`" for m in others))
    return f"Not run: {'; '.join(out)}." if out else ""


def tables(rows: pd.DataFrame, config: Transfer) -> str:
    """Mean and interval of every method, sparsity, protocol and dataset, as Markdown."""
    return statistics.tables(rows, list(config.protocols), list(config.datasets))


def _phases(rows: pd.DataFrame) -> list[str]:
    return [p for p in PROTOCOLS if p in set(rows.phase)]


def _headline(rows: pd.DataFrame, phase: str) -> float:
    """The sparsity the sentences about a protocol speak of: 90 % where it was run, else the highest."""
    there = set(rows[rows.phase == phase].sparsity_target)
    return 0.9 if 0.9 in there else max(there)


def _tells(rho: float, half: float) -> str:
    """Whether upstream top-1 predicts transfer, in words that follow the interval."""
    if np.isnan(half):
        return f"the rank correlation of upstream top-1 and transfer accuracy is {rho:+.2f} (one seed, no interval)"
    size = f"rank correlation {spread(rho, half, '+.2f', 1)}"
    if abs(rho) <= half:
        return f"no relation of upstream top-1 and transfer accuracy is resolved ({size})"
    return f"transfer accuracy {'rises' if rho > 0 else 'falls'} with upstream top-1 ({size})"
