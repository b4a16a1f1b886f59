"""Which method transfers best over several datasets: its place among the methods on each of them, and the mean of those."""

import pandas as pd

from ovit_core.ablations.transfer.families import MANY, SOURCES
from ovit_core.ablations.transfer.relations import SPOKEN, headline, transferred
from ovit_core.ablations.transfer.telling import protocol, told, too_few
from ovit_core.study.statistics import same_seeds, summary
from ovit_core.study.wording import share, spreads


def ranking(rows: pd.DataFrame) -> pd.DataFrame:
    """The place of every method, 1 for the most accurate: `summary` over seeds of its mean over the datasets that tell
    something, per phase, shots, source and method, with their names as `datasets` and the sparsity `at` which the source
    is spoken of. None where fewer than MANY tell, and none of a single method.

    Equal accuracies share the mean of their places. Only methods count that were measured on every dataset, and then only
    seeds that have all of those; test images are those of the rows, so the interval is for new seeds alone.
    """
    known = transferred(told(rows))
    known, found = known[(known.sparsity_target > 0) & known.source_phase.isin(SOURCES)], []
    for key, here in known.groupby(SPOKEN, sort=False, dropna=False):
        at, names = headline(rows, here), list(here.dataset.unique())
        here = here[here.sparsity_target == at]
        here = here[here.groupby("method").dataset.transform("nunique") == len(names)]
        here = same_seeds(here, ["phase"], ["dataset", "method"])
        if len(names) >= MANY and here.method.nunique() > 1:
            places = here.assign(value=here.groupby(["dataset", "seed"]).value.rank(ascending=False))
            mean = places.groupby(["method", "seed"], sort=False).value.mean().reset_index()
            mine = summary(mean, ["method"]).sort_values("mean", kind="stable")
            found.append(mine.assign(**dict(zip(SPOKEN, key)), datasets=", ".join(names), at=at))
    return pd.concat(found) if found else pd.DataFrame(columns=[*SPOKEN, "method", "mean", "half", "datasets", "at"])


def table(rows: pd.DataFrame) -> str:
    """The ranking as Markdown, the best first in each line, and for which protocols there is none; "" where fewer than
    MANY sets were run.
    """
    found = ranking(rows)
    every = transferred(rows)
    every = every[(every.sparsity_target > 0) & every.source_phase.isin(SOURCES)]
    lines, without, ranked = [], [], found.set_index(SPOKEN).index
    for at, here in every.groupby(SPOKEN, sort=False, dropna=False):
        if at not in ranked and here.dataset.nunique() >= MANY and here.method.nunique() > 1:
            one = protocol(*at[:2])
            why = too_few(rows, (one,), here.dataset, MANY) or "no seed has all of them"
            without.append(f"No ranking by {one.words} of models {SOURCES[at[2]]}: {why}.")
    for key, here in found.groupby(SPOKEN, sort=False, dropna=False):
        places = ", ".join(
            f"`{method}` {text}{' in every seed' * (n > 1 and half != half)}"
            for method, text, n, half in zip(here.method, spreads(here, ".1f", 1), here.seeds, here.half)
        )
        models = f"{SOURCES[key[2]]} at {share(here['at'].iloc[0])}"
        lines.append(f"| {protocol(*key[:2]).words} | {models} | {here.datasets.iloc[0]} | {len(here)} | {places} |")
    head = [
        "Mean place of each method over the sets that tell something (1 is best; 95 % intervals over seeds, the sets and "
        "their test images given).",
        "", "| by | models | sets | places | methods |", "|---|---|---|---|---|",
    ]  # fmt: skip
    return "\n\n".join(["\n".join([*head, *lines])] * bool(lines) + without)
