"""What rows say: means with intervals, contrasts of methods, and both in words and tables.

Every interval is that of `intervals`: for new seeds and new test images where rows have `each`, what every image
contributes, else for new seeds only.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from itertools import product

import numpy as np
import pandas as pd

from ovit_core.study import intervals
from ovit_core.study.parameters import Parameters
from ovit_core.study.tasks import KEY
from ovit_core.study.wording import WORDS, seeds, share, spreads, worded

WHERE = ["phase", "dataset", "allocation", "pattern"]
VARIANTS = list(WORDS)  # what else tells measurements of a phase apart
FREE = ("source_phase", "epochs", "recomputations")  # of which a method may have none; images a class it always has
CURVE = [*WHERE, *VARIANTS, "method", "sparsity_target"]
ACCURACIES = ("top1", "mean_per_class")
SPREAD = ["s", "sigma", "sigma_e", "N", "df", "low", "high", "p"]  # how an interval came about
OBJECTS = ["each", "labels"]  # columns that rows have beside those of the study


def remembered(function: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A function of a table that is computed once for each table, and forgotten with it; no table is changed in place."""
    known: dict[int, pd.DataFrame] = {}

    @wraps(function)
    def once(table: pd.DataFrame) -> pd.DataFrame:
        if id(table) not in known:
            known[id(table)] = function(table)
            weakref.finalize(table, known.pop, id(table), None)
        return known[id(table)]

    return once


def main(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one global threshold without a pattern: the study's main regime."""
    return rows[(rows.allocation == "global") & (rows.pattern == "unstructured")]


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that are an accuracy of a whole test split, of the experiment itself."""
    known = rows.metric.isin(ACCURACIES) & (rows.scope == "all")
    return rows[known & (rows.experiment != "sensitivity")]


def under(rows: pd.DataFrame, rule: str) -> pd.DataFrame:
    """The rows as one of the two rules of lambda sees them.

    Args:
        rule: "own", every method at its own lambda; or "shared", methods at oViT's where they were measured there, the
            others at their own.
    """
    if rule not in ("own", "shared"):
        raise ValueError(f"no rule {rule!r} of lambda; there are own, shared")
    shared = rows.damp_rule == "shared"
    if rule == "own":
        return rows[~shared]
    return rows[shared | ~shared.groupby([rows.experiment, rows.method]).transform("any")]


def summary(rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """The mean of the rows' `value` over seeds, for every `key` there is.

    Returns:
        Columns `key`, `mean`, `half` (of the 95 % interval), `seeds`, and those of SPREAD; NaN where there is no interval.

    Raises:
        ValueError: a seed has two values, or a value is not what its images say.
    """
    rows = one_a_seed(rows, key)
    number = rows.groupby(key, sort=False, dropna=False).ngroup().to_numpy()
    places = [np.flatnonzero(number == i) for i in range(number.max(initial=-1) + 1)]
    slim = rows[[column for column in ("value", "level", *OBJECTS) if column in rows]]
    found = [intervals.interval(*behind(slim.iloc[place])) for place in places]
    numbers = [(i.mean, i.half, i.n, i.s, i.sigma, i.sigma_e, i.N, i.df, i.low, i.high, i.p) for i in found]
    first = rows[key].iloc[[place[0] for place in places]].reset_index(drop=True)
    return pd.concat([first, pd.DataFrame(numbers, columns=["mean", "half", "seeds", *SPREAD])], axis=1)


def behind(group: pd.DataFrame) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """(n,) values of n rows, (n, N) what each image contributes to each, and (N,) labels where means are over classes;
    None, None where a row has none or they are of different splits.

    Raises:
        ValueError: a value is not the mean of what the images contribute, to the half precision in which losses are kept;
            of a contrast that is relative to the `level` of what it is made of.
    """
    values = group.value.to_numpy()
    level = group.level.to_numpy() if "level" in group else np.abs(values)
    all_each = group.each.to_list() if "each" in group else [None]
    if any(one is None for one in all_each) or len(set(map(len, all_each))) > 1:
        return values, None, None
    labels, *others = group.labels.to_list()
    if any(other is not labels and not np.array_equal(other, labels) for other in others):
        return values, None, None
    each = np.stack(all_each)
    off = np.abs(intervals.means(each, labels) - values)
    if (off > 2e-3 * np.maximum(1, level)).any():
        raise ValueError("a value is not the mean of its column `each`: drop that column where values are changed")
    return values, each, labels


def one_a_seed(rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """The rows without repeats of a measurement, which sweeps may ask for twice.

    Raises:
        ValueError: a seed has two values at one point; names the columns in which they differ.
    """
    if "seed" not in rows:
        return rows
    rows = rows.drop_duplicates([*key, "seed", "value"])
    twice = rows.duplicated([*key, "seed"], keep=False)
    if twice.any():
        _, two = next(iter(rows[twice].groupby([*key, "seed"], sort=False, dropna=False)))
        at = ", ".join(f"{column} {two[column].iloc[0]}" for column in ("seed", *key))
        differ = [column for column in KEY if column in two and two[column].nunique(dropna=False) > 1]
        raise ValueError(f"{len(two)} values of {at}: tell them apart by {', '.join(differ) or 'a column'}")
    return rows


def same_seeds(rows: pd.DataFrame, panel: list[str], point: list[str]) -> pd.DataFrame:
    """The rows of the seeds that all points of a panel have: means over five and over three are not of the same models."""
    known = rows.assign(at=rows.groupby([*panel, *point], dropna=False).ngroup())
    here = known.groupby([*panel, "seed"], dropna=False)["at"].transform("nunique")
    return rows[(here == known.groupby(panel, dropna=False)["at"].transform("nunique")).to_numpy()]


def accuracy(rows: pd.DataFrame, rule: str = "own") -> pd.DataFrame:
    """`summary` of the accuracies (fractions) under a rule of lambda, for every point of CURVE."""
    return summary(accuracies(under(rows, rule)), CURVE)


def without(rows: pd.DataFrame, column: str) -> pd.Series:
    """(rows,) bool: whether the method has no value of a column anywhere in the row's phase. A single row that is empty
    does not show that: the one that was asked for may have failed.
    """
    empty = rows[column].isna() | (rows[column] == "")
    return empty.groupby([rows.method, rows.phase]).transform("all").astype(bool)


def contrast(rows: pd.DataFrame, weights: Mapping[str, float], on: list[str]) -> pd.DataFrame:
    """A weighted sum of methods, seed by seed, wherever all of them were measured.

    Args:
        rows: of one metric and one rule of lambda.
        weights: method -> weight: a difference, an interaction, a Shapley part; {a: 1} is the method itself.
        on: columns in which the methods' rows must be the same. A method without sparsity (dense, a floor) meets the
            others in every regime and at each of their sparsities, and at every variant of FREE that it has none of.

    Returns:
        Rows: the columns `on`, `seed`, `method` (the sum in words), `value`, `each`, `labels`, and `level`, the weighted
        sum of the absolute values.

    Raises:
        ValueError: a method has two values of one seed at one point.
    """
    rows = rows.assign(**{column: None for column in OBJECTS if column not in rows})
    every = {method: rows[rows.method == method] for method in weights}
    everywhere = {m: not part.sparsity_target.any() for m, part in every.items() if "sparsity_target" in part}
    ordered = sorted(weights, key=lambda method: everywhere.get(method, False))
    bare = everywhere.get(ordered[0], False)  # then all are
    found = pd.DataFrame()
    for i, method in enumerate(ordered):
        part, keys = every[method], [*on, "seed"]
        if everywhere.get(method, False) and not bare:
            free = {"sparsity_target", "allocation", "pattern"}
            free |= {column for column in FREE if column in on and without(part, column).all()}
            keys = [column for column in keys if column not in free]
        part = one_a_seed(part, keys[:-1])[[*keys, "value", *OBJECTS]]
        part = part.rename(columns={column: f"{column}{i}" for column in ("value", *OBJECTS)})
        found = found.merge(part, on=keys) if i else part
    numbers = range(len(ordered))
    each = [_weighted([weights[m] for m in ordered], of) for of in zip(*(found[f"each{i}"] for i in numbers))]
    parts = [weights[m] * found[f"value{i}"] for i, m in enumerate(ordered)]
    return found[[*on, "seed"]].assign(
        method=pair(weights), value=sum(parts), level=sum(part.abs() for part in parts),
        each=pd.Series(each, index=found.index, dtype=object), labels=found["labels0"],
    )  # fmt: skip


def _weighted(weights: list[float], each: tuple[np.ndarray | None, ...]) -> np.ndarray | None:
    """(N,) float32 weighted sum of what images contribute; None where a row has none, or they are of other splits."""
    if any(one is None for one in each) or len(set(map(len, each))) > 1:
        return None
    return np.asarray(weights, np.float32) @ np.stack(each)  # (N,) = (methods,) @ (methods, N)


def pair(weights: Mapping[str, float]) -> str:
    """A contrast as it is written: "ovit - magnitude"."""
    size = lambda w: "" if abs(w) == 1 else f"{abs(w):g} "
    text = "".join(f" {'-' if w < 0 else '+'} {size(w)}{method}" for method, w in weights.items())
    return text.removeprefix(" + ").removeprefix(" ")


def paired(rows: pd.DataFrame, others: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """`rows` less `others`: their `value` minus that of the row (`other`) that is the same in `on`; over seeds only."""
    both = rows.merge(others[[*on, "value"]].rename(columns=dict(value="other")), on=on)
    return both.drop(columns=OBJECTS, errors="ignore").assign(value=both.value - both.other)


def table(rows: pd.DataFrame, phase: str, dataset: str, regimes: bool = False) -> pd.DataFrame | None:
    """Methods by sparsities in the main regime, or by those of the other `regimes`, "mean ± half" in percent; None if
    none of it was run.
    """
    return _wide(accuracy(rows[(rows.phase == phase) & (rows.dataset == dataset)]), regimes)


def _wide(found: pd.DataFrame, regimes: bool) -> pd.DataFrame | None:
    """`table` of the accuracies of one phase and dataset."""
    found = found.drop(main(found).index) if regimes else main(found)
    if found.empty:
        return None
    found = found.sort_values("sparsity_target", kind="stable")
    columns = [share(s) if s else "not pruned" for s in found.sparsity_target]
    if regimes:
        columns = [f"uniform {s}" if p == "unstructured" else p for s, p in zip(columns, found.pattern)]
    for variant in VARIANTS:
        # Told where one column would hold several, none being one of them, but for methods that never have any.
        known = found.assign(column=columns, value=found[variant].replace("", np.nan))
        known = known[~without(found, variant)] if variant in FREE else known.assign(column="")
        if (known.groupby("column").value.nunique(dropna=False) > 1).any():
            columns = [", ".join(filter(None, (c, worded(variant, v)))) for c, v in zip(columns, found[variant])]
    found = found.assign(column=columns, text=spreads(found, ".1f"))
    wide = found.pivot(index="method", columns="column", values="text").fillna("").rename_axis(columns="")
    return wide.loc[found.method.unique(), found.column.unique()]


def tables(rows: pd.DataFrame, phases: Iterable[str], datasets: Iterable[str]) -> str:
    """`table` of every phase, dataset and regime that was run, as Markdown."""
    out, found = [], accuracy(rows)
    for phase, dataset, regimes in product(phases, datasets, (False, True)):
        if (wide := _wide(found[(found.phase == phase) & (found.dataset == dataset)], regimes)) is not None:
            head = f"| method | {' | '.join(wide.columns)} |\n|{'---|' * (len(wide.columns) + 1)}\n"
            body = "\n".join(f"| `{method}` | {' | '.join(cells)} |" for method, cells in zip(wide.index, wide.values))
            count = rows[(rows.phase == phase) & (rows.dataset == dataset)].seed.nunique()
            out.append(f"**{dataset}, {phase}{', uniform and N:M' * regimes}, {seeds(count)}**\n\n{head}{body}")
    return "\n\n".join(out)


# What fewer seeds may have.
TRAINED = dict(recovered="recovery and sweeps", gradual="gradual pruning", full="full finetuning")


def setting(rows: pd.DataFrame, config: Parameters) -> str:
    """What the intervals cover and what not, and how lambdas were chosen."""
    varies = "Each seed has its own dense model"
    missed = ""
    if not config.dense_per_seed:
        varies = f"All seeds share one dense model; they vary the gradients{config.varies}"
        missed = ", but not the training of the dense model"
    images = "each" in rows and rows.each.notna().any()
    covers = "new seeds and new test images" if images else "new seeds, on the same test images"
    sure = f"Every ± is half of a 95 % t interval. It covers {covers}{missed}, unless a caption says otherwise; λ and rates are taken as chosen. "
    given = config.pretrained or config.checkpoint
    seen = " (training images held back here, which the given weights may have seen)" if given else ""
    count = rows.seed.nunique()
    trained = rows[rows.phase.isin(TRAINED)].groupby("phase", sort=False).seed.nunique()
    few = {n: [TRAINED[phase] for phase in trained[trained == n].index] for n in sorted(set(trained)) if n < count}
    fewer = "".join(f", {n} of them for {', '.join(names)}" for n, names in few.items())
    return (
        f"{seeds(count)}{fewer}. {varies}. {sure}"
        f"λ was chosen on validation{seen} at {share(config.damp_sparsity)}, one a method and regime for all seeds, the "
        "best in their mean. Layer inputs take it relative to the mean diagonal of their Hessian."
    )
