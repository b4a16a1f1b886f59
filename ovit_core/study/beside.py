"""What others have published beside what these rows say: the direction of a difference, not its size, for models, data and
training are others.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ovit_core.study.families import MOST, Contrast, Family, differences
from ovit_core.study.statistics import spread

CLEAR = 0.01  # a point: published differences below it are too small to have a direction


class Claim(NamedTuple):
    """A difference that others have published."""

    theirs: Mapping[str, float]  # on which model or dataset -> the difference, as a fraction
    ours: Contrast  # its nearest relative here


def table(rows: pd.DataFrame, claims: Sequence[Claim], source: str) -> str:
    """Markdown: each claim, what these rows say, and whether both point the same way; "" where nothing of it was run.

    Args:
        rows: all rows of an ablation.
        claims: of which as many as there are.
        source: who published them, on what.
    """
    parts = [claims[i : i + MOST] for i in range(0, len(claims), MOST)]
    families = [Family(str(i), "", tuple(claim.ours for claim in part)) for i, part in enumerate(parts)]
    found = differences(rows, families)
    lines = [
        f"| {claim.ours.what} | {_theirs(claim)} | {_ours(line)} | {direction(claim, line)} |"
        for claim, (_, line) in zip(claims, found.iterrows())
        if line.n
    ]
    if not lines:
        return ""
    head = f"{source} Ours: 95 % intervals; resolved after Holm, {MOST} lines at a time."
    return "\n".join([head, "", "| in points | published | here | direction |", "|---|---|---|---|", *lines])


def _theirs(claim: Claim) -> str:
    return ", ".join(f"{100 * value:+.1f} ({where})" for where, value in claim.theirs.items())


def _ours(line: pd.Series) -> str:
    at = f" ({line.dataset})" if line.dataset else ""
    return spread(line["mean"], line.high - line["mean"]) + at


def direction(claim: Claim, line: pd.Series) -> str:
    """How what was published and a line of `differences` go together. Published numbers have no intervals: one within
    CLEAR of 0 is taken for no direction.
    """
    signs = {np.sign(value) for value in claim.theirs.values() if abs(value) >= CLEAR}
    if not signs:
        return "none published that is clear"
    if line.verdict != "resolved":
        return "not resolved here"
    if len(signs) > 1:
        return f"{'above' if line['mean'] > 0 else 'below'} 0 here; published ones differ among themselves"
    return "the same" if np.sign(line["mean"]) in signs else "the opposite"
