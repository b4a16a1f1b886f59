"""Means and intervals over seeds, paired differences, and sentences written from the rows."""

from collections.abc import Iterable
from itertools import product

import numpy as np
import pandas as pd
from pandas.core.groupby import SeriesGroupBy
from scipy import stats

from ovit_core.study.parameters import Parameters

WHERE = ["phase", "dataset", "allocation", "pattern"]
CURVE = [*WHERE, "method", "sparsity_target"]


def main(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one global threshold without a pattern: the study's main regime."""
    return rows[(rows.allocation == "global") & (rows.pattern == "unstructured")]


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that are an accuracy of a whole test split, of the experiment itself."""
    known = rows.metric.isin(("top1", "mean_per_class")) & (rows.scope == "all")
    return rows[known & (rows.experiment != "sensitivity")]


def t_interval(values: np.ndarray, level: float = 0.95) -> float:
    """Half the width of the t interval of the mean over seeds; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return float("nan")
    return float(stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def summary(groups: SeriesGroupBy) -> pd.DataFrame:
    """The groups' keys with `mean`, `half` (of the interval) and `seeds`."""
    return groups.agg(mean="mean", half=t_interval, seeds="count").reset_index()


def accuracy(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of the accuracies (fractions) per phase, dataset, allocation, pattern, method and sparsity."""
    return summary(accuracies(rows).groupby(CURVE, sort=False).value)


def difference(rows: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """`summary` of the accuracy of method a minus method b, paired by seed, per phase, dataset, regime and sparsity.

    A method without sparsity (dense, a floor) is compared with the other at each of its sparsities.
    """
    rows = accuracies(rows)
    one, two = rows[rows.method == a], rows[rows.method == b]
    fixed = (two.sparsity_target == 0).all()
    on = ["phase", "dataset", "seed"] + ([] if fixed else ["allocation", "pattern", "sparsity_target"])
    both = one.merge(two[[*on, "value"]], on=on, suffixes=("", "_b"))
    both["gain"] = both.value - both.value_b
    return summary(both.groupby([*WHERE, "sparsity_target"], sort=False).gain)


def bootstrap(accuracy: float, n: int, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of an accuracy over resampled test images (n of them): says nothing about seeds."""
    means = np.random.default_rng(seed).binomial(n, accuracy, draws) / n  # n draws from correct-or-not images
    return float(np.quantile(means, (1 - level) / 2)), float(np.quantile(means, (1 + level) / 2))


def spread(mean: float, half: float, form: str = "+.1f", scale: float = 100) -> str:
    """A mean with its interval where there is one, by default a difference of fractions in percentage points."""
    return f"{scale * mean:{form}}" + ("" if np.isnan(half) else f" ± {scale * half:{form.lstrip('+')}}")


def verdict(mean: float, half: float, what: str, against: str) -> str:
    """Says which is better, or that the interval holds zero."""
    size = f"{spread(mean, half)} points"
    if np.isnan(half):
        return f"{what} minus {against}: {size} (one seed, no interval)"
    if abs(mean) <= half:
        return f"no difference of {what} from {against} is resolved ({size}, 95 % t interval over seeds)"
    return f"{what} is {'above' if mean > 0 else 'below'} {against} by {size} (95 % t interval over seeds)"


def table(rows: pd.DataFrame, phase: str, dataset: str, regimes: bool = False) -> pd.DataFrame | None:
    """Methods by sparsities in the main regime, or by those of the other `regimes`, "mean ± half" in percent; None if
    none of it was run.
    """
    found = accuracy(rows[(rows.phase == phase) & (rows.dataset == dataset)])
    usual = (found.allocation == "global") & (found.pattern == "unstructured")
    found = found[usual != regimes]
    if found.empty:
        return None
    share = [f"{100 * s:g} %" if s else "not pruned" for s in found.sparsity_target]
    regime = [f"uniform {s}" if p == "unstructured" else p for s, p in zip(share, found.pattern)]
    text = [spread(mean, half, ".1f") for mean, half in zip(found["mean"], found.half)]
    found = found.assign(text=text, column=regime if regimes else share).sort_values("sparsity_target", kind="stable")
    wide = found.pivot(index="method", columns="column", values="text")
    order = [m for m in dict.fromkeys(rows.method) if m in wide.index]
    return wide.loc[order, list(dict.fromkeys(found.column))].fillna("").rename_axis(columns="")


def tables(rows: pd.DataFrame, phases: Iterable[str], datasets: Iterable[str]) -> str:
    """`table` of every phase, dataset and regime that was run, as Markdown."""
    out = []
    for phase, dataset, regimes in product(phases, datasets, (False, True)):
        if (wide := table(rows, phase, dataset, regimes)) is not None:
            out.append(f"**{dataset}, {phase}{', uniform and N:M' * regimes}**\n\n{markdown(wide)}")
    return "\n\n".join(out)


def markdown(table: pd.DataFrame) -> str:
    """A table of text, methods down, as Markdown."""
    head = f"| method | {' | '.join(table.columns)} |\n|{'---|' * (len(table.columns) + 1)}"
    return head + "\n" + "\n".join(f"| `{m}` | {' | '.join(r)} |" for m, r in zip(table.index, table.values))


def setting(rows: pd.DataFrame, config: Parameters) -> str:
    """What varies over the seeds, and the lambdas that were chosen."""
    varies = "Each seed has its own dense model." if config.dense_per_seed else (
        f"All seeds share one dense model; they vary the gradients{config.varies}, "
        "so intervals do not cover the training of the dense model."
    )  # fmt: skip
    given = config.pretrained or config.checkpoint
    seen = " (training images held back here, which the given weights may have seen)" if given else ""
    chosen = rows[rows.damp.notna() & (rows.phase != "lambda_search") & (rows.experiment != "sensitivity")]
    damps = chosen.groupby("method", sort=False).damp.unique()
    listed = "; ".join(f"`{m}` {', '.join(f'{d:.0e}' for d in sorted(v))}" for m, v in damps.items())
    seeds = rows.seed.nunique()
    dense = rows[(rows.phase == "one_shot") & (rows.method == "dense") & (rows.metric == "top1")].iloc[0]
    low, high = bootstrap(dense.value, int(dense.n_test))
    edges = [f"`{m}`" for m, v in damps.items() if {min(config.damps), max(config.damps)} & set(v)]
    constant = (
        "" if config.dense_per_seed else "An interval of ± 0.0 means that nothing in the method varies with the seed. "
    )
    edge = f" At the edge of the list of λ: {', '.join(edges)}." if edges else ""
    return (
        f"{seeds} seed{'s' if seeds > 1 else ''}. {varies} {constant}The dense top-1 of seed {dense.seed}, "
        f"{100 * dense.value:.1f} %, lies between {100 * low:.1f} and "
        f"{100 * high:.1f} % by bootstrap over the {int(dense.n_test)} test images (95 %): another kind of interval, for "
        f"the choice of images, not of seeds. λ chosen on validation{seen}, with one threshold for the model at "
        f"{100 * config.damp_sparsity:g} %, the largest within one standard error of the best, and used in every regime "
        f"(for layer inputs it is relative to the mean diagonal): {listed}.{edge}"
    )
