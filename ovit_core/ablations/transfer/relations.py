"""How transfer relates to what a model is upstream: errors relative to dense, rank correlations, and pruned models that
transfer better than the dense one.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd
from scipy import stats

from ovit_core.ablations.transfer.telling import NAMES, POINT, told
from ovit_core.study import lambdas, statistics
from ovit_core.study.families import holm
from ovit_core.study.statistics import accuracies, contrast, one_a_seed, same_seeds, summary

MODEL = ["source_phase", "method", "sparsity_target"]
SPOKEN = ["phase", "shots", "source_phase"]  # each with a sparsity of its own that sentences speak of
FEWEST = 5  # models that a correlation needs
ENDS = ("ovit", "magnitude")  # the best and the worst of most: much of a correlation is theirs
MIDDLE = 4  # models that one needs without them


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


def spoken_of(rows: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """Those of some models, columns SPOKEN and `sparsity_target`, that are at the `headline` of their protocol and source;
    what has no sparsity stays.
    """
    parts = [
        here[here.sparsity_target.isin((0, headline(rows, here)))]
        for _, here in models.groupby(SPOKEN, sort=False, dropna=False)
    ]
    return pd.concat(parts) if parts else models


def beside_each_other(rows: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """Those of some models that are at the `headline` of any source of their protocol, so that what training does is not
    taken for what sparsity does; what has no sparsity stays.
    """
    at = spoken_of(rows, models)[[*SPOKEN[:2], "sparsity_target"]].drop_duplicates()
    return models.merge(at, on=[*SPOKEN[:2], "sparsity_target"])


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


def upstream(both: pd.DataFrame) -> pd.DataFrame:
    """Rows of `beside_upstream` with what they have upstream as their `value`."""
    return both.assign(value=both.upstream_top1, each=both.upstream_each, labels=None)


def beside_similarity(rows: pd.DataFrame) -> pd.DataFrame:
    """Every model's probe accuracy beside its features' CKA with the dense model's: `value`, `cka` per POINT, MODEL and
    seed.
    """
    alike = rows[rows.metric == "cka"][["dataset", *MODEL, "seed", "value"]].rename(columns=dict(value="cka"))
    return transferred(rows[rows.phase != "full"]).merge(alike, on=["dataset", *MODEL, "seed"])


def correlation(both: pd.DataFrame, other: str, within: bool = False, but: Collection[str] = ()) -> pd.DataFrame:
    """Spearman's rank correlation of transfer accuracy with another column over the pruned models of a seed, in the mean
    over the seeds that all models have.

    Models of a seed come from one dense model, and so are no sample: the interval is over seeds, for these methods at
    these sparsities.

    Args:
        within: over models of one source and sparsity, in the mean over those that have FEWEST methods at least: what is
            seen beyond that less sparsity is better for everything.
        but: methods that are left out; then MIDDLE of the others are enough.

    Returns:
        Per POINT `rho`, `models` (FEWEST at least, or MIDDLE), `seeds`, and `low` and `high` of its 95 % interval by Fisher's
        z: Student's over seeds, and not narrower than by what ranks of so many models vary by chance, 1.06 / (models - 3)
        of Fieller, Hartley and Pearson (Biometrika 44, 1957). Not corrected for how many are looked at. A seed of which one of the two
        does not vary counts not: NaN without any other. One seed has no interval.
    """
    both, found = one_a_seed(same_seeds(both, POINT, MODEL), [*POINT, *MODEL]), []
    both, fewest = both[~both.method.isin(but)], MIDDLE if but else FEWEST
    kinds = [MODEL[0], MODEL[2]] if within else []
    for at, here in both[both.sparsity_target > 0].groupby(POINT, sort=False, dropna=False):
        if within and len(here[kinds].drop_duplicates()) < 2:  # then it is the same as over all
            continue
        groups = [group for _, group in here.groupby([*kinds, "seed"]) if len(group) >= fewest]
        each = pd.DataFrame([(one.seed.iloc[0], len(one), ranked(one.value, one[other])) for one in groups])
        if len(each):
            models = each[each[0] == each[0].iloc[0]][1]
            rho = each.dropna().groupby(0)[2].mean().to_numpy()  # (n,)
            least = (1.06 / (models - 3)).mean() / len(models)
            found.append((*at, models.sum(), len(rho) or here.seed.nunique(), *_interval(rho, models.min(), least)))
    return pd.DataFrame(found, columns=[*POINT, "models", "seeds", "rho", "low", "high"]).astype(dict(shots=float))


def ranked(x: pd.Series, y: pd.Series) -> float:
    """Spearman's rank correlation of n pairs; NaN where one of the two does not vary."""
    x, y = x.round(9), y.round(9)  # equal fractions are equal
    return float(stats.spearmanr(x, y).statistic) if min(x.nunique(), y.nunique()) > 1 else np.nan


def _interval(rho: np.ndarray, models: int, least: float) -> tuple[float, float, float]:
    """The mean of (n,) correlations of seeds, each over so many models, and its interval; `least` is the variance of one
    seed's z by chance.
    """
    n, mean = len(rho), float(rho.mean()) if len(rho) else np.nan
    if n < 2:
        return mean, np.nan, np.nan
    # Of a perfect order z is infinite: that of the next one is taken, with two neighbours exchanged.
    most = 1 - 12 / (models * (models**2 - 1))
    z = np.arctanh(np.clip(rho, -most, most))
    half = max(stats.t.ppf(0.975, n - 1) * z.std(ddof=1), stats.norm.ppf(0.975) * np.sqrt(least)) / np.sqrt(n)
    low, high = np.tanh((z.mean() - half, z.mean() + half))
    return mean, min(float(low), mean), max(float(high), mean)


def better(rows: pd.DataFrame) -> pd.DataFrame:
    """Pruned models that transfer better than the dense one of the same source, resolved after Holm over all models by all
    protocols on all datasets, for none of it is listed beforehand, though dense is better upstream, by an interval that
    lies below 0: `summary` columns per POINT and MODEL, and `upstream`, the mean of their upstream top-1 less that of
    dense, with `upstream_half`. Also where a set tells nothing: damage that helps is a finding.
    """
    both, key = beside_upstream(rows), [*POINT, *MODEL]
    if both.empty:
        return pd.DataFrame(columns=[*key, "mean", "half", "upstream", "upstream_half"])
    found, on = [], [*POINT, "source_phase", "sparsity_target"]
    seen = upstream(both)
    for method in both[both.sparsity_target > 0].method.unique():
        gain, gap = (contrast(models, {method: 1, "dense": -1}, on) for models in (both, seen))
        above = summary(gap, on)[[*on, "mean", "half"]].rename(columns=dict(mean="upstream", half="upstream_half"))
        found.append(summary(gain, on).merge(above, on=on).assign(method=method))
    every = pd.concat(found)
    every = every.assign(p_holm=holm(every.p.tolist()))
    return every[(every["mean"] > 0) & (every.p_holm < 0.05) & (every.upstream + every.upstream_half < 0)]
