"""Whether score and update are substitutes, or complements, on another scale than points of accuracy.

Points end at 0 and at 100 %, and near dense's accuracy parts cannot add up. Log-odds, ln(a / (1 - a)), stretch the ends:
what is the same factor of the odds for both is additive there. An interaction that keeps its sign on every scale is one;
one that does not is a statement about points.
"""

import numpy as np
import pandas as pd

from ovit_core.ablations.no_weight_update.attribution import CELLS, PLAIN, TOP, parts
from ovit_core.study.statistics import accuracies, contrast, main, same_seeds, share, spread, summary, under

ON = ["dataset", "sparsity_target"]
WEIGHTS = parts(TOP)["interaction"]


def log_odds(rows: pd.DataFrame) -> pd.DataFrame:
    """The one-shot interaction of score and update in log-odds: `mean` and `half` of its interval per dataset and sparsity.

    Each cell is at its own lambda, under one threshold, of the seeds that all four have; nothing is said where one has an
    accuracy of 0 or 1. The mean is that of the seeds' log-odds; its interval is that of
    the accuracies weighted with d ln(a / (1 - a)) / da = 1 / (a (1 - a)) (delta method), so that it covers new models and
    new images.
    """
    known, found = _one_shot(rows), []
    for _, here in known[known.method.isin(WEIGHTS)].groupby(ON, sort=False):
        here = same_seeds(here, ON, ["method"])
        level = here.groupby("method").value.mean()
        if {*WEIGHTS} <= {*level.index} and here.value.between(0, 1, inclusive="neither").all():
            slopes = {method: weight / (level[method] * (1 - level[method])) for method, weight in WEIGHTS.items()}
            plain = here.assign(value=np.log(here.value / (1 - here.value)), each=None)
            mean = contrast(plain, WEIGHTS, ON).value.mean()
            found.append(summary(contrast(here, slopes, ON), ON).assign(mean=mean)[[*ON, "mean", "half"]])
    return pd.concat(found) if found else pd.DataFrame(columns=[*ON, "mean", "half"])


def ceiling(rows: pd.DataFrame) -> list[float]:
    """The sparsities at which magnitude's accuracy and both parts alone, added up, would be more than dense has."""
    level = _one_shot(rows).groupby(["method", "sparsity_target"]).value.mean()
    cells = [CELLS[cell] for cell in ((TOP, "none"), (PLAIN, "joint"), (PLAIN, "none"))]
    if not {"dense", *cells} <= {*level.index.get_level_values("method")}:
        return []
    score, update, magnitude = (level[cell] for cell in cells)
    summed = (score + update - magnitude).dropna()
    return [at for at in summed.index if summed[at] > level["dense"].iloc[0]]


def answer(rows: pd.DataFrame) -> list[str]:
    """Both in words; none where the four cells were not run."""
    lines = log_odds(rows).sort_values("sparsity_target")
    if lines.empty:
        return []
    told = ", ".join(f"{size(line)} at {share(line.sparsity_target)}" for _, line in lines.iterrows())
    if high := ", ".join(map(share, ceiling(rows))):
        high = f" At {high} the sum of both parts would exceed dense: a ceiling presses the interaction down."
    return [
        f"In log-odds score and update together bring, beyond each alone (one-shot, one threshold, each at its own λ; 95 % "
        f"intervals, each for itself): {told}.{high}"
    ]


def size(line: pd.Series) -> str:
    """A line of `log_odds` in words; its interval is one for itself, of no family."""
    unsure = " (not resolved)" * (not abs(line["mean"]) > line.half)
    return f"{spread(line['mean'], line.half, '+.2f', 1)}{unsure}".replace("-", "\N{MINUS SIGN}")


def _one_shot(rows: pd.DataFrame) -> pd.DataFrame:
    """The one-shot accuracies under one threshold, each method at its own lambda."""
    known = accuracies(main(under(rows, "own")))
    return known[(known.phase == "one_shot") & (known.metric == "top1")]
