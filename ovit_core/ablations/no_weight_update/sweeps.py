"""The rows of sweeps: what a setting of the curvature changes, and methods at equal numbers of gradients."""

import pandas as pd

from ovit_core.ablations.no_weight_update.parameters import COMPUTE, PAIR
from ovit_core.study.statistics import ACCURACIES, contrast, main, same_seeds, summary

SWEPT = dict(
    block_size="block size B", gradients="gradients m", gradient_batch="images per gradient", damp="λ",
    passes="passes that share the gradients",
)  # fmt: skip


def sweeps(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of every sweep, with `column` (what was varied), `setting` (its value) and `rule` ("own": lambda chosen
    anew at every point, "fixed": oViT's at the study's own setting). The study's own setting is a point of each.
    """
    known = rows[rows.metric.isin(ACCURACIES) & (rows.scope == "all")]
    varied = known[(known.experiment == "sensitivity") & known.scope_name.isin(list(SWEPT))]
    own = main(known[(known.experiment != "sensitivity") & (known.phase == "one_shot")])
    own = own[own.sparsity_target.isin(varied.sparsity_target) & own.method.isin(varied.method)]
    # At the study's own setting oViT's lambda is its own.
    shared = own[(own.damp_rule == "shared") | ((own.method == PAIR[0]) & (own.damp_rule == "own"))]
    mine = own[own.damp_rule != "shared"]
    points = [varied.assign(rule=varied.damp_rule.replace("shared", "fixed"), column=varied.scope_name)]
    for column in varied.scope_name.unique():
        points += [mine.assign(rule="own", column=column)] if column != "damp" else []
        points += [shared.assign(rule="fixed", column=column)] if column not in ("damp", "passes") else []
    found = pd.concat(points)
    return found.assign(setting=[row[row["column"]] for row in found.to_dict("records")])


def sensitivity(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of the update's gain with oViT's score (ovit minus ovit_mask_only) per `column`, `rule`, `setting`."""
    found, point = sweeps(rows), ["column", "rule", "setting"]
    found = same_seeds(found[found.column != "passes"], ["column"], ["setting"])
    return summary(contrast(found, {PAIR[0]: 1, PAIR[1]: -1}, point), point)


def compute(rows: pd.DataFrame) -> pd.DataFrame:
    """`summary` of the accuracy per `method` and `setting`, the number of passes that share the gradients."""
    found = sweeps(rows)
    found = found[(found.column == "passes") & (found.rule == "own") & found.method.isin(COMPUTE)]
    return summary(same_seeds(found, ["column"], ["setting"]), ["method", "setting"])
