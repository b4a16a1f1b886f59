"""Whether score and update are substitutes, or complements, on another scale than points of accuracy.

Points end at 0 and at 100 %, and near dense's accuracy parts cannot add up. Log-odds, ln(a / (1 - a)), stretch the ends:
what is the same factor of the odds for both is additive there. No pruned model comes near 100 %; with dense as the end,
ln(a / (dense - a)), they stretch where these models end. An interaction that keeps its sign on every scale is one; one
that does not is a statement about a scale.
"""

import numpy as np
import pandas as pd

from ovit_core.ablations.no_weight_update.attribution import CELLS, PLAIN, TOP, parts, summed
from ovit_core.study import intervals
from ovit_core.study.lambdas import GLOBAL
from ovit_core.study.statistics import accuracies, contrast, one_a_seed, same_seeds, summary, under
from ovit_core.study.wording import share, spread

ON = ["dataset", "sparsity_target"]
WEIGHTS = parts(TOP)["interaction"]


def log_odds(rows: pd.DataFrame, below: str = "", allocation: str = "global") -> pd.DataFrame:
    """The one-shot interaction of score and update in log-odds: `mean` and `half` of its interval per dataset and sparsity.

    Each cell is at its own lambda, of the seeds that all four have; nothing is said where one has an accuracy of 0 or of
    the end. The mean is that of the seeds' log-odds; its interval is that of the accuracies weighted
    with the derivatives of ln(a / (end - a)) (delta method), so that it covers new models and new images, and not narrower
    than Student's of the log-odds themselves, which bend where an accuracy is near an end.

    Args:
        below: the method whose accuracy is the end of the scale, that of the same seed; "" for 100 %.
        allocation: "global", one threshold for the model, or "uniform".
    """
    known, found = _one_shot(rows, allocation), []
    ends = known[known.method == below]
    for (dataset, at), here in known[known.method.isin(WEIGHTS)].groupby(ON, sort=False):
        if below:
            here = pd.concat([here, ends[ends.dataset == dataset].assign(sparsity_target=at)])
        here = same_seeds(one_a_seed(here, [*ON, "method"]), ON, ["method"])
        by = here.pivot(index="seed", columns="method", values="value").assign(**{"": 1.0})
        if not {*WEIGHTS, below} <= {*by.columns} or by.empty:
            continue
        left = by[[*WEIGHTS]].rsub(by[below], axis=0)  # (seeds, methods) of what is above them
        if (by[[*WEIGHTS]] > 0).all(axis=None) and (left > 0).all(axis=None):
            slopes = {m: weight * (1 / by[m].mean() + 1 / left[m].mean()) for m, weight in WEIGHTS.items()}
            slopes |= {below: -sum(weight / left[m].mean() for m, weight in WEIGHTS.items())} if below else {}
            odds = sum(weight * np.log(by[m] / left[m]) for m, weight in WEIGHTS.items())  # (seeds,)
            one = summary(contrast(here, slopes, ON), ON)
            half = np.fmax(one.half, intervals.interval(odds.to_numpy()).half)
            found.append(one.assign(mean=odds.mean(), half=half)[[*ON, "mean", "half"]])
    return pd.concat(found) if found else pd.DataFrame(columns=[*ON, "mean", "half"])


def ceiling(rows: pd.DataFrame) -> list[float]:
    """The sparsities at which magnitude's accuracy and both parts alone, added up, would be more than dense has."""
    level = _one_shot(rows).groupby(["method", "sparsity_target"]).value.mean()
    cells = [CELLS[cell] for cell in ((TOP, "none"), (PLAIN, "joint"), (PLAIN, "none"))]
    if not {"dense", *cells} <= {*level.index.get_level_values("method")}:
        return []
    both = summed(level).dropna()
    return [at for at in both.index if both[at] > level["dense"].iloc[0]]


def answer(rows: pd.DataFrame) -> list[str]:
    """Both in words; none where the four cells were not run."""
    lines, below = log_odds(rows), log_odds(rows, "dense")
    if lines.empty:
        return []
    dense = ""
    if len(below):
        none = ", ".join(map(share, sorted({*lines.sparsity_target} - {*below.sparsity_target})))
        none = f" (none at {none}: a pruned model reaches its dense one)" if none else ""
        dense = f"; with dense's accuracy as the end, ln(a / (dense − a)): {_sizes(below)}{none}"
    if high := ", ".join(map(share, ceiling(rows))):
        high = f" At {high} the sum of both parts would exceed dense: a ceiling presses the interaction down."
    return [
        f"In log-odds score and update together bring, beyond each alone (one-shot, one threshold, each at its own λ; 95 % "
        f"intervals, each for itself): {_sizes(lines)}{dense}.{high}"
    ]


def _sizes(lines: pd.DataFrame) -> str:
    """The lines of `log_odds` in words, the lowest sparsity first."""
    lines = lines.sort_values("sparsity_target")
    return ", ".join(f"{size(line)} at {share(line.sparsity_target)}" for _, line in lines.iterrows())


def size(line: pd.Series) -> str:
    """A line of `log_odds` in words; its interval is one for itself, of no family."""
    unsure = " (not resolved)" * (not abs(line["mean"]) > line.half)
    return f"{spread(line['mean'], line.half, '+.2f', 1)}{unsure}"


def _one_shot(rows: pd.DataFrame, allocation: str = "global") -> pd.DataFrame:
    """The one-shot accuracies of an allocation without pattern, each method at its own lambda; dense is of each."""
    known = accuracies(under(rows, "own"))
    known = known[(known.phase == "one_shot") & (known.metric == "top1") & (known.pattern == GLOBAL.pattern)]
    return known[(known.allocation == allocation) | (known.sparsity_target == 0)]
