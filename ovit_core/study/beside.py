"""What others have published beside what these rows say: the direction of a difference, not its size, for models, data and
training are others.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ovit_core.study.families import Contrast, Family, differences, holm, verdict, within
from ovit_core.study.wording import signed, spread

CLEAR = 0.01  # a point: published differences below it are too small to have a direction


class Claim(NamedTuple):
    """A difference that others have published."""

    theirs: Mapping[str, float]  # on which model or dataset -> the difference, as a fraction
    ours: Contrast  # its nearest relative here
    silent: str = ""  # why nothing is said of the latter; "" where it is looked at


def table(rows: pd.DataFrame, claims: Sequence[Claim], source: str, margin: float = CLEAR) -> str:
    """Markdown: each claim, what these rows say, and whether both point the same way; "" where nothing of it was run.

    Args:
        rows: all rows of an ablation.
        claims: of which as many as there are.
        source: who published them, on what.
        margin: a difference here whose interval lies inside it is none.
    """
    heard = [Family(claim.ours.what, "", (claim.ours,), margin) for claim in claims if not claim.silent]
    each = differences(rows, heard)
    judged = each.assign(p_holm=holm(each.p.tolist())).to_dict("records")
    found, lines = iter([line | dict(verdict=verdict(line)) for line in judged]), []
    for claim in claims:
        line = None if claim.silent else next(found)
        told = ["", claim.silent] if line is None else [_ours(line), direction(claim, line)]
        if claim.silent or line["n"]:
            lines.append(f"| {' | '.join([claim.ours.what, _theirs(claim), *told])} |")
    if not lines:
        return ""
    head = f"{source} Ours: 95 % intervals; resolved after Holm over all lines; none: within {100 * margin:g} points."
    return "\n".join([head, "", "| in points | published | here | direction |", "|---|---|---|---|", *lines])


def _theirs(claim: Claim) -> str:
    return ", ".join(f"{signed(100 * value)} ({where})" for where, value in claim.theirs.items())


def _ours(line: Mapping) -> str:
    at = f" ({line['dataset']})" if line["dataset"] else ""
    return spread(line["mean"], line["high"] - line["mean"]) + at


def direction(claim: Claim, line: Mapping) -> str:
    """How what was published and a line of `differences` go together. Published numbers have no intervals: one within
    CLEAR of 0 is taken for no difference.
    """
    signs = {np.sign(value) for value in claim.theirs.values() if abs(value) >= CLEAR}
    none = line["verdict"] == "same" or (line["verdict"] == "resolved" and within(line))
    if not signs and none:
        return "none in either"
    if line["verdict"] not in ("resolved", "same"):
        return "not resolved here"
    side = "above" if line["mean"] > 0 else "below"
    if not signs:
        return f"none published; {side} 0 here"
    if line["verdict"] == "same":
        return "none here"
    if len(signs) > 1:
        return f"{side} 0 here; published ones differ among themselves"
    return "the same" if np.sign(line["mean"]) in signs else "the opposite"
