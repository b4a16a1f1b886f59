"""Families of comparisons, listed whatever is measured, with one error rate for each.

A family holds five contrasts at most. Its p values are corrected by Holm (Scandinavian Journal of Statistics 6, 1979);
a difference is resolved where p is then below .05. That there is none is said only where the whole interval lies inside
a margin stated beforehand. A family that was listed once rows had been seen says so (`later`).
"""

import gc
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from ovit_core.study import intervals
from ovit_core.study.statistics import ACCURACIES, FREE, VARIANTS, WHERE, behind, contrast, pair, under, without
from ovit_core.study.tasks import NUMBERS
from ovit_core.study.wording import share, spread, worded

MOST = 5  # contrasts of a family
LEVEL = 0.05  # the error rate of a family
ACCURACY = "accuracy"  # a contrast's metric: of each dataset the accuracy that the field reports for it
SILENT = "tells nothing"  # the verdict of a family of which no sentence is made
POINT = ["phase", "source_phase", "dataset", "shots", "epochs", "allocation", "pattern", "sparsity_target"]  # columns
TABLE = ["family", "what", "pair", "rule", "metric", *POINT, "mean", "s", "n", "sigma", "sigma_e", "N", "df", "low", "high",
         "p", "p_holm", "margin", "verdict"]  # fmt: skip


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of methods at one point.

    With several datasets, it is the mean over them, each dataset with the same weight.
    """

    what: str  # what it tells
    weights: Mapping[str, float]  # method -> weight
    where: Mapping[str, Any] = field(default_factory=dict)  # column -> its value, or a tuple of values
    rule: str = "own"  # of lambda
    metric: str = "top1"  # or ACCURACY
    by: str = ""  # a column, such as a setting that a sweep varies, whose values are in the weights as METHOD@VALUE
    short: str = ""  # what it tells where its family's title stands above it


@dataclass(frozen=True)
class Family:
    """Contrasts that are judged together.

    Raises:
        ValueError: there are none, or more than MOST.
    """

    name: str
    title: str
    contrasts: tuple[Contrast, ...]
    margin: float | None = None  # within which a difference is none, in the unit of the metric
    says: Callable[[pd.DataFrame], str] | None = None  # its lines of `differences` in one sentence
    silent: Callable[[pd.DataFrame], str] | None = None  # from all rows, why no sentence is made of it; "" where one is
    among: Callable[[pd.DataFrame], pd.DataFrame] | None = None  # of all rows those that it is judged by
    later: bool = False  # listed when first rows had been seen

    def __post_init__(self):
        object.__setattr__(self, "contrasts", tuple(self.contrasts))
        if not 0 < len(self.contrasts) <= MOST:
            raise ValueError(f"family {self.name!r} has {len(self.contrasts)} contrasts: 1 to {MOST}")


def asked(rows: pd.DataFrame, one: Contrast) -> pd.DataFrame:
    """The rows that a contrast is made of; with `by` the sweep of that column beside the study's own rows."""
    swept = (rows.experiment == "sensitivity") & ((rows.scope_name != one.by) if one.by else True)
    whole = (rows.scope == "all") & ~swept
    names = {method.partition("@")[0] for method in one.weights} if one.by else {*one.weights}
    known = under(rows[whole & rows.method.isin(names)], one.rule)
    keep = known.metric.isin(ACCURACIES if one.metric == ACCURACY else [one.metric])
    for column, value in one.where.items():
        wanted = _is(known[column], value)
        # A method without sparsity is everywhere, and at every variant of FREE that it has none of.
        if column in ("sparsity_target", "allocation", "pattern"):
            wanted |= known.sparsity_target == 0
        elif column in FREE:
            wanted |= (known.sparsity_target == 0) & without(known, column)
        keep &= wanted
    found = known[keep]
    if one.by:
        shown = [f"{value:g}" if isinstance(value, Number) else value for value in found[one.by]]
        found = found.assign(method=[f"{method}@{value}" for method, value in zip(found.method, shown)])
        found = found[found.method.isin(list(one.weights))]
    return found


def _is(column: pd.Series, value: Any) -> pd.Series:
    """Where a column has a value of a contrast's `where`, or one of several."""
    return column.isin(list(value) if isinstance(value, list | tuple) else [value])


def used(rows: pd.DataFrame, families: Iterable[Family]) -> np.ndarray:
    """(rows,) bool: whether a contrast of losses is made of the row, for which those of single images are kept."""
    contrasts = [one for family in families for one in family.contrasts if one.metric == "cross_entropy"]
    return rows.index.isin({name for one in contrasts for name in asked(rows, one).index})


def differences(rows: pd.DataFrame, families: Iterable[Family]) -> pd.DataFrame:
    """Every contrast of the families, a line each, with columns TABLE.

    Returns:
        `mean`, `low` and `high` in the unit of the metric; s, n, sigma, N and df as `intervals.interval` has them, with the
        datasets as strata where it is a mean over several; `p_holm` within the family; `verdict`: resolved, same, not
        resolved, no interval (one seed), not run, or SILENT whatever the numbers are.

    Raises:
        ValueError: the rows of a contrast are at more than one point; names the columns that tell them apart.
    """
    lines, whole = [], rows[rows.scope == "all"]  # many rows are of layers
    for family in families:
        silent = bool(family.silent and family.silent(rows))
        here = whole if family.among is None or silent else family.among(rows).query("scope == 'all'")
        mine = [_line(here, family, one) for one in family.contrasts]
        mine = [line | dict(p_holm=p) for line, p in zip(mine, holm([line["p"] for line in mine]))]
        lines += [line | dict(verdict=SILENT if silent and line["n"] else verdict(line)) for line in mine]
    return pd.DataFrame(lines, columns=TABLE)


def holm(p: list[float]) -> list[float]:
    """p values after Holm, NaN where there is none."""
    given = np.array(p, dtype=float)
    known = ~np.isnan(given)
    if known.any():
        gc.freeze()  # `multipletests` collects garbage: half a second each time, for all that torch and pandas hold
        try:
            given[known] = multipletests(given[known], method="holm")[1]
        finally:
            gc.unfreeze()
    return given.tolist()


def _line(rows: pd.DataFrame, family: Family, one: Contrast) -> dict[str, Any]:
    about = dict(family=family.name, what=one.what, pair=pair(one.weights), rule=one.rule, metric=one.metric)
    about |= dict(margin=np.nan if family.margin is None else family.margin)
    on = [*WHERE, *VARIANTS, "sparsity_target"]
    if one.by:  # what goes with the column differs with it: a phase has its length, passes their recomputations
        on = [column for column in WHERE if column != one.by] + ["sparsity_target"]
    found = contrast(asked(rows, one), one.weights, on)
    datasets = _measured(rows, one) if family.among else set(found.dataset)
    found = found[found.groupby("seed").dataset.transform("nunique") == len(datasets)]
    where = {column: value for column, value in one.where.items() if column != one.by}
    named = {column: where.get(column, np.nan if column in NUMBERS else "") for column in POINT}
    named = {c: ", ".join(map(str, v)) if isinstance(v, list | tuple) else v for c, v in named.items()}
    if found.empty:
        return about | named | dict(mean=np.nan, n=0, N=0, p=np.nan, low=np.nan, high=np.nan)
    loose = [column for column in on if column != "dataset" and found[column].nunique(dropna=False) > 1]
    if loose:
        raise ValueError(
            f"{one.what} ({about['pair']}) is asked for at more than one point: name its {', '.join(loose)} in `where`"
        )
    i = _over_datasets(found)
    point = {column: found[column].iloc[0] if column in found else value for column, value in named.items()}
    point["dataset"] = ", ".join(found.dataset.unique())
    numbers = dict(mean=i.mean, s=i.s, n=i.n, sigma=i.sigma, sigma_e=i.sigma_e, N=i.N, df=i.df, low=i.low, high=i.high)
    return about | point | numbers | dict(p=i.p)


def _measured(rows: pd.DataFrame, one: Contrast) -> set[str]:
    """The datasets that rows of whatever method have where a contrast is asked for: its mean is over all of them, or none."""
    for column in {"phase", "shots", "dataset"} & one.where.keys():
        rows = rows[_is(rows[column], one.where[column])]
    return set(rows.dataset)


def _over_datasets(found: pd.DataFrame) -> intervals.Interval:
    """The interval of a contrast's mean over datasets; every seed has all of them."""
    found = found.sort_values("seed")
    values = found.groupby("seed").value.mean().to_numpy()
    parts = [behind(here)[1:] for _, here in found.groupby("dataset", sort=False)]
    all_each, strata, weights, pools = [], [], [], []
    for i, (each, labels) in enumerate(parts):
        if each is None:
            return intervals.interval(values)
        own = np.zeros(each.shape[1], int) if labels is None else np.unique(labels, return_inverse=True)[1]
        all_each.append(each)
        strata.append(own + len(weights))
        weights += [1 / (len(parts) * (own.max() + 1))] * (own.max() + 1)
        pools += [i] * (own.max() + 1)
    every = np.concatenate(all_each, axis=1)
    return intervals.interval(values, every, np.concatenate(strata), np.array(weights), np.array(pools))


def verdict(line: Mapping[str, Any]) -> str:
    """What is said of a line with its `p_holm`."""
    if not line["n"]:
        return "not run"
    if np.isnan(line["p"]):
        return "no interval"
    if line["p_holm"] < LEVEL:
        return "resolved"
    return "same" if within(line) else "not resolved"


def within(line: Mapping[str, Any]) -> bool:
    """Whether the interval lies inside the margin; without a margin it does not."""
    return bool(-line["margin"] < line["low"] and line["high"] < line["margin"])


def titled(family: Family, lines: pd.DataFrame) -> str:
    """A family's title; of means over datasets that rows alone name, with their names."""
    names = over(family, lines)
    return f"{family.title} ({names})" if names else family.title


def over(family: Family, lines: pd.DataFrame) -> str:
    """The datasets that a family's means are over, where rows alone name them; "" where its title says of what it is."""
    if family.among is None:
        return ""
    return next((name for name, n in zip(lines.dataset, lines.n) if n and ", " in name), "")


def sentences(lines: pd.DataFrame) -> list[str]:
    """The lines of a family in words, each with its interval and Holm's p; accuracies in percentage points. Where they
    stand is named as far as it tells them apart.
    """
    differ = [column for column in POINT if lines[column].replace("", np.nan).nunique() > 1]
    return [sentence(line, differ) for line in lines.to_dict("records")]


def sentence(line: Mapping[str, Any], named: Iterable[str] = POINT) -> str:
    """A line of the table in words; `named` are the columns that say where it stands."""
    points = line["metric"] in (*ACCURACIES, ACCURACY)
    form, scale, unit = ("+.1f", 100, " points") if points else ("+.3f", 1, "")
    places = (_worded(column, line[column]) for column in named)
    told = lambda place: re.search(rf"(?<![\w.]){re.escape(place)}(?!\w|\.\d)", line["what"])
    where = ", ".join(place for place in places if place and not told(place))
    where += ", all at oViT's λ".removeprefix("" if where else ", ") * (line["rule"] == "shared")
    said = f"{line['what']}{f' ({where})' * bool(where)}: `{line['pair']}`"
    if line["verdict"] == "not run":
        return f"{said}: not run."
    if line["verdict"] == SILENT:
        return f"{said}: nothing is said, for the set tells nothing."
    size = f"{spread(line['mean'], line['high'] - line['mean'], form, scale)}{unit}"
    if line["verdict"] == "no interval":
        return f"{said} = {size} (no interval: one seed, or nothing varies)."
    margin = f"the margin of ± {scale * line['margin']:g}{unit}"
    judged = {
        "resolved": "resolved" + f", though inside {margin}" * within(line),
        "same": f"no difference beyond {margin}",
        "not resolved": "not resolved",
    }[line["verdict"]]
    return f"{said} = {size}, p after Holm {_p(line['p_holm'])}: {judged}."


def effect(line: Mapping[str, Any]) -> str:
    """A line's difference with its interval in points, and that it is not resolved where it is not."""
    size = spread(line["mean"], line["high"] - line["mean"])
    return size + {"resolved": "", "same": " (no difference)"}.get(line["verdict"], " (not resolved)")


def _worded(column: str, value: str | float) -> str:
    """Where a line stands in one column, in words; "" for what is usual."""
    if value in ("", "global", "unstructured") or value != value:
        return ""
    if column == "sparsity_target":
        return share(value)
    return worded(column, value) if column in ("shots", "epochs") else str(value)


def _p(p: float) -> str:
    """A p value as it is written."""
    return "below 0.001" if p < 0.001 else f"{p:.2g}"
