"""Means and intervals over seeds, paired differences, and sentences written from the rows."""

from collections.abc import Collection, Iterable
from itertools import product

import numpy as np
import pandas as pd
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


def t_interval(values: Collection[float]) -> float:
    """Half the width of the 95 % t interval of the mean over seeds; NaN for fewer than two values."""
    return float(stats.t.ppf(0.975, len(values) - 1) * pd.Series(values).sem())


def summary(rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """`mean`, `half` (of the interval) and number of `seeds` of the rows' `value`, for every `key` there is."""
    return rows.groupby(key, sort=False).value.agg(mean="mean", half=t_interval, seeds="count").reset_index()


def accuracy(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of the accuracies (fractions) per phase, dataset, allocation, pattern, method and sparsity."""
    return summary(accuracies(rows), CURVE)


def paired(rows: pd.DataFrame, others: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """`rows` less `others`: their `value` minus that of the row (`other`) that is the same in `on`."""
    both = rows.merge(others[[*on, "value"]].rename(columns=dict(value="other")), on=on)
    return both.assign(value=both.value - both.other)


def difference(rows: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """`summary` of the accuracy of method a minus method b, paired by seed, per phase, dataset, regime and sparsity.

    A method without sparsity (dense, a floor) is compared with the other at each of its sparsities.
    """
    rows = accuracies(rows)
    others = rows[rows.method == b]
    on = ["allocation", "pattern", "sparsity_target"] if others.sparsity_target.any() else []
    gain = paired(rows[rows.method == a], others, ["phase", "dataset", "seed", *on])
    return summary(gain, [*WHERE, "sparsity_target"])


def bootstrap(accuracy: float, n: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of an accuracy over n test images, in closed form: resampled images are
    right or wrong, their number right is binomial. It says nothing about seeds.
    """
    low, high = stats.binom.ppf((0.025, 0.975), n, accuracy) / n
    return low, high


def share(sparsity: float) -> str:
    """A sparsity as it is written."""
    return f"{100 * sparsity:g} %"


def spread(mean: float, half: float, form: str = "+.1f", scale: float = 100) -> str:
    """A mean with its interval where there is one, by default a difference of fractions in percentage points."""
    return f"{scale * mean:{form}}" + ("" if np.isnan(half) else f" ± {scale * half:{form.lstrip('+')}}")


def spreads(found: pd.DataFrame, form: str = "+.1f", scale: float = 100) -> list[str]:
    """`spread` of every row of a `summary`."""
    return [spread(mean, half, form, scale) for mean, half in zip(found["mean"], found.half)]


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
    found = found.drop(main(found).index) if regimes else main(found)
    if found.empty:
        return None
    found = found.sort_values("sparsity_target", kind="stable")
    columns = [share(s) if s else "not pruned" for s in found.sparsity_target]
    if regimes:
        columns = [f"uniform {s}" if p == "unstructured" else p for s, p in zip(columns, found.pattern)]
    found = found.assign(column=columns, text=spreads(found, ".1f"))
    wide = found.pivot(index="method", columns="column", values="text").fillna("").rename_axis(columns="")
    return wide.loc[found.method.unique(), found.column.unique()]


def tables(rows: pd.DataFrame, phases: Iterable[str], datasets: Iterable[str]) -> str:
    """`table` of every phase, dataset and regime that was run, as Markdown."""
    out = []
    for phase, dataset, regimes in product(phases, datasets, (False, True)):
        if (wide := table(rows, phase, dataset, regimes)) is not None:
            head = f"| method | {' | '.join(wide.columns)} |\n|{'---|' * (len(wide.columns) + 1)}\n"
            body = "\n".join(f"| `{method}` | {' | '.join(cells)} |" for method, cells in zip(wide.index, wide.values))
            out.append(f"**{dataset}, {phase}{', uniform and N:M' * regimes}**\n\n{head}{body}")
    return "\n\n".join(out)


def setting(rows: pd.DataFrame, config: Parameters) -> str:
    """What varies over the seeds, how sure the dense accuracy is, and the lambdas that were chosen."""
    varies = "Each seed has its own dense model."
    if not config.dense_per_seed:
        varies = (
            f"All seeds share one dense model; they vary the gradients{config.varies}, so intervals do not cover the "
            "training of the dense model. An interval of ± 0.0 means that nothing in the method varies with the seed."
        )
    sure = "The dense model has no head, and so no top-1. "
    for dense in rows[(rows.phase == "one_shot") & (rows.method == "dense") & (rows.metric == "top1")][:1].itertuples():
        low, high = bootstrap(dense.value, int(dense.n_test))
        sure = (
            f"The dense top-1 of seed {dense.seed}, {100 * dense.value:.1f} %, lies between {100 * low:.1f} and "
            f"{100 * high:.1f} % by bootstrap over the {int(dense.n_test)} test images (95 %): another kind of interval, "
            "for the choice of images, not of seeds. "
        )
    chosen = rows[rows.damp.notna() & (rows.phase != "lambda_search") & (rows.experiment != "sensitivity")]
    damps = chosen.groupby("method", sort=False).damp.unique()
    listed = "; ".join(f"`{m}` {', '.join(f'{d:.0e}' for d in sorted(v))}" for m, v in damps.items())
    edges = [f"`{m}`" for m, v in damps.items() if {min(config.damps), max(config.damps)} & set(v)]
    edge = f" At the edge of the list of λ: {', '.join(edges)}." if edges else ""
    given = config.pretrained or config.checkpoint
    seen = " (training images held back here, which the given weights may have seen)" if given else ""
    once = (rows.damp_rule != "").any()  # else the rows are from before one was chosen for all
    how = (
        "the same for all seeds, the best in their mean"
        if once
        else "by each seed the largest within one standard error of its best"
    )
    seeds = rows.seed.nunique()
    return (
        f"{seeds} seed{'s' if seeds > 1 else ''}. {varies} {sure}"
        f"λ chosen on validation{seen}, with one threshold for the model at {share(config.damp_sparsity)}, {how}, and used "
        f"in every regime (for layer inputs it is relative to the mean diagonal): {listed}.{edge}"
    )
