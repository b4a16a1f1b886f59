"""How transfer relates to what a model is upstream: errors relative to dense, rank correlations, and pruned models that
transfer better than the dense one.
"""

import numpy as np
import pandas as pd
from scipy import stats

from ovit_core.ablations.transfer.telling import NAMES, POINT, told
from ovit_core.study import lambdas, statistics
from ovit_core.study.families import holm
from ovit_core.study.statistics import accuracies, contrast, same_seeds, summary

MODEL = ["source_phase", "method", "sparsity_target"]
FEWEST = 5  # models that a correlation needs


def transferred(rows: pd.DataFrame) -> pd.DataFrame:
    """The test accuracies of all protocols."""
    return accuracies(rows[rows.phase.isin(list(NAMES))])


def headline(rows: pd.DataFrame, among: pd.DataFrame) -> float:
    """The sparsity that sentences and figures speak of: where lambda was chosen, if it is `among` the pruned models, else
    their highest; NaN without any.
    """
    chosen = rows[rows.phase == lambdas.PHASE].sparsity_target
    there = among[among.sparsity_target > 0].sparsity_target
    return next((at for at in chosen if (there == at).any()), there.max())


def error_increase(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of (error - dense error) / dense error (0.1 is a tenth more errors), averaged over the telling datasets
    of each seed, with their names as `datasets`, per phase, shots and MODEL. Dense is the one of the same source:
    trained on like the recovered models where those are meant. Of a model those seeds count that have all datasets, and
    of a source those that all of its models then have.
    """
    key = ["phase", "shots", *MODEL]
    known = transferred(told(rows))
    dense, pruned = known[known.method == "dense"], known[known.sparsity_target > 0]
    more = statistics.paired(pruned, dense, [*POINT, "source_phase", "seed"])
    # A dense model without errors has none to be relative to: such a set is left out, of every seed.
    more = more[more.groupby(POINT, dropna=False).other.transform("max") < 1]
    more["value"] = -more.value / (1 - more.other)
    every = more.groupby(["phase", "shots"], dropna=False).dataset.transform("nunique")
    more = more[more.groupby([*key, "seed"], dropna=False).dataset.transform("nunique") == every]
    more = same_seeds(more, [*key[:2], "source_phase"], MODEL[1:])
    found = summary(more.groupby([*key, "seed"], sort=False, dropna=False).value.mean().reset_index(), key)
    names = more.groupby(["phase", "shots"], dropna=False).dataset.unique().str.join(", ").rename("datasets")
    return found.merge(names.reset_index()) if len(found) else found.assign(datasets="")


def beside_upstream(rows: pd.DataFrame) -> pd.DataFrame:
    """Every model's transfer accuracy beside its upstream top-1: `value`, `upstream_top1` per POINT, MODEL and seed, and
    `upstream_each`, what each image contributes to the latter.
    """
    top1 = accuracies(rows[rows.phase.isin(("one_shot", "recovered")) & (rows.metric == "top1")])
    top1 = top1[top1.damp_rule != "shared"].drop(columns="source_phase").rename(columns=dict(phase="source_phase"))
    top1 = top1.assign(upstream_each=top1.each if "each" in top1 else None)
    top1 = top1[[*MODEL, "seed", "value", "upstream_each"]].rename(columns=dict(value="upstream_top1"))
    return transferred(rows).merge(top1.drop_duplicates([*MODEL, "seed"]), on=[*MODEL, "seed"])


def beside_similarity(rows: pd.DataFrame) -> pd.DataFrame:
    """Every model's probe accuracy beside its features' CKA with the dense model's: `value`, `cka` per POINT, MODEL and
    seed.
    """
    alike = rows[rows.metric == "cka"][["dataset", *MODEL, "seed", "value"]].rename(columns=dict(value="cka"))
    return transferred(rows[rows.phase != "full"]).merge(alike, on=["dataset", *MODEL, "seed"])


def correlation(both: pd.DataFrame, other: str) -> pd.DataFrame:
    """Spearman's rank correlation of transfer accuracy with another column over the pruned models, each at its mean over
    the seeds that all models have.

    Returns:
        Per POINT `rho`, `models` (FEWEST at least), `seeds`, and `low` and `high` of its 95 % interval by Fisher's z with the
        variance 1.06 / (models - 3) of Fieller, Hartley and Pearson (Biometrika 44, 1957). It holds for models drawn
        from many such, and is not corrected for how many are looked at; NaN throughout where one of the two does not
        vary.
    """
    both, found = same_seeds(both, POINT, MODEL), []
    for at, here in both[both.sparsity_target > 0].groupby(POINT, sort=False, dropna=False):
        means = here.groupby(MODEL, sort=False)[["value", other]].mean()
        if len(means) >= FEWEST:
            x, y = means.to_numpy().T
            found.append((*at, len(means), here.seed.nunique(), *ranked(x, y)))
    return pd.DataFrame(found, columns=[*POINT, "models", "seeds", "rho", "low", "high"]).astype(dict(shots=float))


def ranked(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Spearman's rank correlation of two (n,) arrays, and its 95 % interval."""
    x, y = np.round(x, 9), np.round(y, 9)  # means of equal fractions are equal
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan, np.nan, np.nan
    n, rho = len(x), float(stats.spearmanr(x, y).statistic)
    # Of a perfect order z is infinite: its interval is that of the next one, with two neighbours exchanged, up to it.
    most = 1 - 12 / (n * (n**2 - 1))
    z, half = np.arctanh(np.clip(rho, -most, most)), stats.norm.ppf(0.975) * np.sqrt(1.06 / (n - 3))
    low, high = (float(np.tanh(end)) for end in (z - half, z + half))
    return rho, min(low, rho), max(high, rho)


def better(rows: pd.DataFrame) -> pd.DataFrame:
    """Pruned models that transfer better than the dense one of the same source, resolved after Holm over all models of a
    protocol and dataset, though dense is better upstream, by an interval that lies below 0: `summary` columns per POINT
    and MODEL, and `upstream`, the mean of their upstream top-1 less that of dense, with `upstream_half`. Also where a
    set tells nothing: damage that helps is a finding.
    """
    both, key = beside_upstream(rows), [*POINT, *MODEL]
    if both.empty:
        return pd.DataFrame(columns=[*key, "mean", "half", "upstream", "upstream_half"])
    found, on = [], [*POINT, "source_phase", "sparsity_target"]
    for method in both[both.sparsity_target > 0].method.unique():
        gain = contrast(both[both.method.isin(("dense", method))], {method: 1, "dense": -1}, on)
        seen = both.assign(value=both.upstream_top1, each=both.upstream_each, labels=None)
        gap = contrast(seen[seen.method.isin(("dense", method))], {method: 1, "dense": -1}, on)
        upstream = summary(gap, on)[[*on, "mean", "half"]].rename(columns=dict(mean="upstream", half="upstream_half"))
        found.append(summary(gain, on).merge(upstream, on=on).assign(method=method))
    every = pd.concat(found)
    after = [
        here.assign(p_holm=holm(here.p.tolist())) for _, here in every.groupby(POINT, sort=False, dropna=False)
    ]  # fmt: skip
    every = pd.concat(after) if after else every.assign(p_holm=np.nan)
    return every[(every["mean"] > 0) & (every.p_holm < 0.05) & (every.upstream + every.upstream_half < 0)]
