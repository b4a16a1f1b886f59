"""Means and intervals over seeds, paired differences, and sentences written from the rows."""

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


def t_interval(values: np.ndarray, level: float = 0.95) -> float:
    """Half the width of the t interval of the mean over seeds; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return float("nan")
    return float(stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


def accuracy(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy rows (fractions): one row per phase, dataset, allocation, pattern, method and sparsity with `mean`,
    `half`, `seeds`.
    """
    groups = accuracies(rows).groupby(CURVE, sort=False).value
    return groups.agg(mean="mean", half=t_interval, seeds="count").reset_index()


def difference(rows: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Accuracy of method a minus method b, paired by seed: `mean`, `half`, `seeds` per phase, dataset, regime, sparsity.

    A method without sparsity (dense, a floor) is compared with the other at each of its sparsities.
    """
    rows = accuracies(rows)
    one, two = rows[rows.method == a], rows[rows.method == b]
    fixed = (two.sparsity_target == 0).all()
    on = ["phase", "dataset", "seed"] + ([] if fixed else ["allocation", "pattern", "sparsity_target"])
    both = one.merge(two[[*on, "value"]], on=on, suffixes=("", "_b"))
    both["gain"] = both.value - both.value_b
    groups = both.groupby([*WHERE, "sparsity_target"], sort=False).gain
    return groups.agg(mean="mean", half=t_interval, seeds="count").reset_index()


def bootstrap(accuracy: float, n: int, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of an accuracy over resampled test images (n of them): says nothing about seeds."""
    means = np.random.default_rng(seed).binomial(n, accuracy, draws) / n  # n draws from correct-or-not images
    return float(np.quantile(means, (1 - level) / 2)), float(np.quantile(means, (1 + level) / 2))


def points(mean: float, half: float) -> str:
    """A difference of fractions in percentage points, with its interval."""
    return f"{100 * mean:+.1f}" + ("" if np.isnan(half) else f" ± {100 * half:.1f}")


def verdict(mean: float, half: float, what: str, against: str) -> str:
    """Says which is better, or that the interval holds zero."""
    size = f"{points(mean, half)} points"
    if np.isnan(half):
        return f"{what} minus {against}: {size} (one seed, no interval)"
    if abs(mean) <= half:
        return f"no difference of {what} from {against} is resolved ({size}, 95 % t interval over seeds)"
    return f"{what} is {'above' if mean > 0 else 'below'} {against} by {size} (95 % t interval over seeds)"


def cells(found: pd.DataFrame) -> list[str]:
    """ "mean ± half" in percent, for each row of means and half widths."""
    return [f"{100 * m:.1f}" + ("" if np.isnan(h) else f" ± {100 * h:.1f}") for m, h in zip(found["mean"], found.half)]


def table(rows: pd.DataFrame, phase: str, dataset: str) -> pd.DataFrame | None:
    """Methods by sparsities, "mean ± half" in percent; None if that phase was not run."""
    found = accuracy(main(rows))
    found = found[(found.phase == phase) & (found.dataset == dataset)]
    if found.empty:
        return None
    wide = found.assign(text=cells(found)).pivot(index="method", columns="sparsity_target", values="text")
    order = list(dict.fromkeys(found.method))
    return wide.loc[order].rename(columns=lambda s: "not pruned" if s == 0 else f"{100 * s:g} %").fillna("")


def tables(rows: pd.DataFrame, phases: list[str], datasets: list[str]) -> str:
    """`table` of every phase and dataset that was run, as Markdown."""
    out = []
    for phase in phases:
        for dataset in datasets:
            if (wide := table(rows, phase, dataset)) is None:
                continue
            out.append(f"**{dataset}, {phase}**\n\n{markdown(wide)}")
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
