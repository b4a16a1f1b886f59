"""Where oViT's gain over magnitude comes from: the score, the update, or the two together.

With a(score, update) the accuracy of a method:

    score        a(s, none) - a(magnitude, none)
    update       a(magnitude, joint) - a(magnitude, none)
    interaction  a(s, joint) - a(s, none) - a(magnitude, joint) + a(magnitude, none)

The other path adds the update first; the Shapley parts are the means of both. Parts can be negative. An interaction
below zero, in points of accuracy, is called substitutes, one above zero complements. Accuracy ends at 100 %: near it the
parts cannot add up, and on another scale (logits, cross-entropy) the sign may be another one.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from ovit_core.methods import METHODS
from ovit_core.study import statistics
from ovit_core.study.families import within
from ovit_core.study.statistics import accuracies, accuracy, contrast, main, pair, summary, under
from ovit_core.study.wording import share, spread, spreads

if TYPE_CHECKING:
    from ovit_core.study.ablation import Results

SCORES = ("magnitude", "diagonal", "static", "greedy_frozen", "greedy")
WORDS = dict(
    magnitude="of magnitude", diagonal="of the diagonal Fisher", static="that is static (oBERT's)",
    greedy_frozen="that is greedy but never corrected", greedy="that is greedy (oViT's)",
)  # fmt: skip
SHORT = dict(
    magnitude="magnitude", diagonal="diagonal Fisher", static="static (oBERT)", greedy_frozen="greedy, not corrected",
    greedy="greedy (oViT)",
)  # fmt: skip
# (score, update) -> method, of those that look at gradients or at none
CELLS = {(m.score, m.update): name for name, m in METHODS.items() if m.score in SCORES and m.curvature == "fisher"}
PARTS = {
    "total": "ovit minus magnitude",
    "score": "score, without update",
    "update": "update, at magnitude's mask",
    "interaction": "interaction",
    "score_other": "score, with update",
    "update_other": "update, with oViT's score",
    "score_shapley": "score, Shapley",
    "update_shapley": "update, Shapley",
}
TOP, PLAIN = "greedy", "magnitude"  # oViT's score, and that which looks at no gradient
EDGES = {  # an edge of the plane -> the family that has it, and its methods
    "update": ("update", CELLS[PLAIN, "joint"], CELLS[PLAIN, "none"]),
    "update_top": ("update", CELLS[TOP, "joint"], CELLS[TOP, "none"]),
    "score": ("score", CELLS[TOP, "none"], CELLS[PLAIN, "none"]),
    "score_updated": ("score_updated", CELLS[TOP, "joint"], CELLS[PLAIN, "joint"]),
    "both": ("rivals", CELLS[TOP, "joint"], CELLS[PLAIN, "none"]),
}
POINT = [*statistics.WHERE, *statistics.VARIANTS, "sparsity_target"]


def parts(score: str) -> dict[str, dict[str, float]]:
    """part -> the contrast of methods that it is, for a score."""
    plain, corrected, none, joint = (
        CELLS[cell] for cell in (("magnitude", "none"), ("magnitude", "joint"), (score, "none"), (score, "joint"))
    )
    return {
        "total": {joint: 1, plain: -1},
        "score": {none: 1, plain: -1},
        "update": {corrected: 1, plain: -1},
        "interaction": {joint: 1, none: -1, corrected: -1, plain: 1},
        "score_other": {joint: 1, corrected: -1},
        "update_other": {joint: 1, none: -1},
        "score_shapley": {joint: 0.5, none: 0.5, corrected: -0.5, plain: -0.5},
        "update_shapley": {joint: 0.5, none: -0.5, corrected: 0.5, plain: -0.5},
    }


def attribution(rows: pd.DataFrame, rule: str = "own", scores: Iterable[str] = SCORES[1:]) -> pd.DataFrame:
    """`summary` of the parts of each score's gain (fractions) under a rule of lambda, per POINT, `score_kind` and `part`;
    without the rows for it nothing.
    """
    rows, found = accuracies(main(under(rows, rule))), []
    for score in scores:
        for part, weights in parts(score).items():
            if {*weights} <= {*rows.method}:
                one = summary(contrast(rows, weights, POINT), POINT)
                found.append(one.assign(score_kind=score, part=part))
    return pd.concat(found) if found else pd.DataFrame(columns=[*POINT, "mean", "half", "score_kind", "part"])


def cells(rows: pd.DataFrame, rule: str = "own") -> pd.DataFrame:
    """`summary` of the accuracy of every score with every update, per POINT, `score` and `update`."""
    known = accuracies(main(under(rows, rule)))
    known = known[known.method.isin(CELLS.values())]
    return summary(known, [*POINT, "score", "update"])


def parts_table(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The parts of oViT's own gain by rule, phase and sparsity, "mean ± half" in points; None without rows for it."""
    both = [attribution(rows, rule, ["greedy"]).assign(rule=rule) for rule in RULES]
    both[1] = both[1][both[1].phase == "one_shot"]  # what is trained at oViT's lambda has a family of its own
    found = pd.concat([part for part in both if len(part)] or both)
    if found.empty:
        return None
    found = found.assign(text=spreads(found), column=[column(r) for r in found.to_dict("records")])
    wide = found.drop_duplicates(["rule", "part", "column"]).pivot(
        index=["rule", "part"], columns="column", values="text"
    )
    wide = wide.reindex([(rule, part) for rule in found.rule.unique() for part in PARTS])[
        [*dict.fromkeys(found.column)]
    ]
    return wide.fillna("").rename(index=PARTS | RULES).rename_axis(columns="points of top-1", index=["λ", "part"])


RULES = {"own": "each its own", "shared": "oViT's for all"}


def column(point: Mapping) -> str:
    """A point in a table's head: its sparsity, and how it was trained."""
    trained = {"recovered": f", trained {point['epochs']:g}", "gradual": ", gradual"} if point["epochs"] else {}
    return share(point["sparsity_target"]) + trained.get(point["phase"], "")


def relation(lines: pd.DataFrame) -> str:
    """Whether score and update are substitutes or complements along the sparsity, from lines of differences that are
    interactions, one a sparsity.
    """
    said: dict[str, list[str]] = {"substitutes": [], "complements": [], "neither": [], "not resolved": []}
    for line in lines[lines.verdict.isin(("resolved", "same", "not resolved"))].itertuples():
        kind = {"same": "neither", "resolved": "substitutes" if line.mean < 0 else "complements"}.get(
            line.verdict, "not resolved"
        )
        size = spread(line.mean, line.high - line.mean)
        inside = line.verdict == "resolved" and within(line._asdict())
        said[kind].append(f"{share(line.sparsity_target)} ({size}{', within the margin' * inside})")
    return "; ".join(f"{kind} at {', '.join(at)}" for kind, at in said.items() if at)


def edges(results: "Results") -> dict[str, pd.Series]:
    """The lines of the comparisons that are edges of the plane; none where one of them was not run."""
    lines, found = results.differences(), {}
    for name, (family, a, b) in EDGES.items():
        here = lines[(lines.family == family) & (lines.pair == pair({a: 1, b: -1})) & (lines.n > 0)]
        if len(here):
            found[name] = here.iloc[0]
    return found if len(found) == len(EDGES) else {}


def levels(results: "Results", sparsity: float) -> dict[str, pd.Series]:
    """method -> its one-shot accuracy at a sparsity, of the cells of the plane and of dense."""
    rows = main(results.rows[results.rows.phase == "one_shot"])
    found = accuracy(rows[rows.sparsity_target.isin((0, sparsity)) & (rows.dataset == results.config.upstream)])
    return {line.method: line for _, line in found.iterrows() if line.method in ("dense", *CELLS.values())}


def summed(means: Mapping[str, Any]) -> Any:
    """What magnitude has and both parts alone, added up, from the methods' mean accuracies."""
    score, update, plain = (means[CELLS[cell]] for cell in ((TOP, "none"), (PLAIN, "joint"), (PLAIN, "none")))
    return score + update - plain


def level_of(line: pd.Series) -> str:
    """An accuracy with its interval in percent."""
    return spread(line["mean"], line.half, ".1f")
