"""Which method transfers best over several datasets: its place among the methods on each of them, and the mean of those."""

import pandas as pd

from ovit_core.ablations.transfer.families import MANY, SOURCES
from ovit_core.ablations.transfer.relations import headline, transferred
from ovit_core.ablations.transfer.telling import POINT, protocol, told
from ovit_core.study.statistics import same_seeds, share, spreads, summary

BY = ["phase", "shots", "source_phase"]


def ranking(rows: pd.DataFrame) -> pd.DataFrame:
    """The place of every method, 1 for the most accurate, at the sparsity that sentences speak of: `summary` over seeds of
    its mean over the datasets that tell something, per phase, shots, source and method, with their names as `datasets`;
    empty where fewer than MANY tell. Equal accuracies share the mean of their places. Only seeds count that have every
    method on every dataset; test images are those of the rows, so the interval is for new seeds alone.
    """
    known = transferred(told(rows))
    known = known[(known.sparsity_target > 0) & known.source_phase.isin(SOURCES)]
    known = known[known.sparsity_target == headline(rows, known)]
    known = same_seeds(
        known[known.groupby(BY, dropna=False).dataset.transform("nunique") >= MANY], BY, ["dataset", "method"]
    )
    if known.empty:
        return pd.DataFrame(columns=[*BY, "method", "mean", "half", "datasets"])
    here = known.groupby([*POINT, "source_phase", "seed"], dropna=False)
    places = known.assign(value=here.value.rank(ascending=False))
    mean = places.groupby([*BY, "method", "seed"], sort=False, dropna=False).value.mean().reset_index()
    names = known.groupby(BY, dropna=False).dataset.unique().str.join(", ").rename("datasets")
    return summary(mean, [*BY, "method"]).merge(names.reset_index()).sort_values("mean", kind="stable")


def table(rows: pd.DataFrame) -> str:
    """The ranking as Markdown, the best first in each line; "" without one."""
    found = ranking(rows)
    if found.empty:
        return ""
    at = share(headline(rows, transferred(rows)))
    lines = [
        f"Mean place of each method over the sets that tell something, models at {at} sparsity (1 is best; 95 % intervals "
        "over seeds, the sets and their test images given).",
        "", "| by | models | sets | methods |", "|---|---|---|---|",
    ]  # fmt: skip
    for (phase, shots, source), here in found.groupby(BY, sort=False, dropna=False):
        words = protocol(pd.Series(dict(phase=phase, shots=shots))).words
        places = ", ".join(f"`{method}` {text}" for method, text in zip(here.method, spreads(here, ".1f", 1)))
        lines.append(f"| {words} | {SOURCES[source]} | {here.datasets.iloc[0]} | {places} |")
    return "\n".join(lines)
