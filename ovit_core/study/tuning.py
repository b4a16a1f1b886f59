"""What was chosen on validation, and whether the list it was chosen from was wide enough."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ovit_core.study import lambdas
from ovit_core.study.parameters import Parameters
from ovit_core.study.tasks import best_of
from ovit_core.study.wording import share

# What tells one search from another; the columns of what is searched are `damp`, `lr` and `C`.
SEARCH = [
    "phase", "dataset", "source_phase", "shots", "method", "allocation", "pattern", "sparsity_target", "block_size",
    "gradients", "gradient_batch", "passes", "epochs",
]  # fmt: skip
SETTINGS = ("block_size", "gradients", "gradient_batch")  # of the curvature
LONG_ENOUGH = 0.01  # a training of half the length, on a schedule of its own, lies less than this below on validation
OF_RATES = dict(recovery_search="recovery", gradual_search="gradual pruning", lr_search="full finetuning")  # in words
LARGER = {"damp": True, "lr": False, "C": False}  # which of equals is taken


def searched(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Every search of a column, a line each.

    Args:
        rows: of a study.
        column: `damp`, `lr` or `C`.

    Returns:
        Columns SEARCH; `best`, by the mean over seeds; its validation accuracy `value`; `second` and `second_value` of
        the runner-up; `tried`, how many there were; `edge`: "lowest" or "highest" where the best is that of the list.
    """
    damps, search = rows.phase == lambdas.PHASE, rows.phase.str.endswith("_search")
    its_own = {"damp": damps, "lr": search & ~damps, "C": ~search}[column]
    tried = rows[its_own & rows.metric.str.startswith("validation") & (rows.scope == "all") & rows[column].notna()]
    found = []
    for at, group in tried.groupby(SEARCH, sort=False, dropna=False):
        means = group.groupby(column).value.mean()
        whole = [value for value, one in group.groupby(column) if one.seed.nunique() == group.seed.nunique()]
        best = best_of(group[["seed", column, "value"]].to_dict("records"), column, whole, LARGER[column])
        if best is None:
            continue
        rest = means.drop(best)
        second = rest.idxmax() if len(rest) else float("nan")
        edge = "" if len(means) < 2 else {min(means.index): "lowest", max(means.index): "highest"}.get(best, "")
        found.append((*at, best, means[best], second, rest.max() if len(rest) else float("nan"), len(means), edge))
    return pd.DataFrame(found, columns=[*SEARCH, "best", "value", "second", "second_value", "tried", "edge"])


def edges(rows: pd.DataFrame, column: str) -> list[str]:
    """What lies at the edge of the list it was chosen from, a line for each method: which edge, its value, how far it is
    above the next, in points of validation accuracy, and where.
    """
    found, out = searched(rows, column), []
    usual = _settings(rows)
    for method, lines in found[found.edge != ""].groupby("method", sort=False):
        where: dict[str, list[str]] = {}
        for line in lines.to_dict("records"):
            ahead = 100 * max(line["value"] - line["second_value"], 0)
            said = f"{line['edge']} ({line['best']:g}, {ahead:.2f} above the next)"
            where.setdefault(said, []).append(place(line, usual.get(method, {})))
        told = [f"{edge} at {', '.join(dict.fromkeys(at))}" for edge, at in where.items()]
        out.append(f"`{method}` {'; '.join(told)}")
    return out


def _settings(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """method -> the curvature's settings with which it was measured outside of sweeps."""
    known = rows[(rows.phase == "one_shot") & (rows.experiment != "sensitivity") & (rows.passes == 1)]
    return {method: lines[[*SETTINGS]].iloc[0].to_dict() for method, lines in known.groupby("method")}


def place(line: Mapping[str, Any], usual: Mapping[str, float]) -> str:
    """Where a search was, in words: of rates what was trained, the regime, the sparsity, how many passes, and settings that
    are not the usual.
    """
    at = (
        line["pattern"]
        if line["pattern"] != "unstructured"
        else f"{line['allocation']} {share(line['sparsity_target'])}"
    )
    swept = [f"{name.replace('_', ' ')} {line[name]:g}" for name, own in usual.items() if line[name] != own]
    if line["passes"] > 1:  # they share the gradients
        at += f" in {line['passes']:g} passes"
    elif swept:
        at += f" with {' and '.join(swept)}"
    if training := OF_RATES.get(line["phase"]):
        return f"{training} of {at}" if line["sparsity_target"] else training  # dense has no regime
    return at


def decimal(value: float) -> str:
    """A lambda as it is written, all its digits: 1e-7, 2.5e-7; "" for none."""
    digits, _, power = f"{value:.5e}".partition("e")
    return "" if value != value else f"{float(digits):g}e{int(power)}"


def of_study(found: pd.DataFrame, config: Parameters) -> pd.DataFrame:
    """The searches at the study's own setting of the curvature, in one pass: not those of a sweep's points."""
    for column in SETTINGS:
        found = found[found[column] == getattr(config, column)]
    return found[found.passes == 1]


def lambda_table(rows: pd.DataFrame, config: Parameters) -> pd.DataFrame | None:
    """The lambda of every method in every regime, a star at one that lies at the edge of its list; at other sparsities
    as a check. None if nothing was searched.
    """
    common = of_study(searched(rows, "damp"), config)
    if common.empty:
        return None
    regime = [place(line, {}) for line in common.to_dict("records")]
    text = [decimal(best) + "*" * bool(edge) for best, edge in zip(common.best, common.edge)]
    wide = common.assign(regime=regime, text=text).pivot(index="method", columns="regime", values="text").fillna("")
    return wide.loc[common.method.unique(), list(dict.fromkeys(regime))].rename_axis(columns="λ")


def rate_table(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The learning rates that were chosen, with the validation accuracy of the best and of the runner-up, a star at one
    that lies at the edge of its list; None where there was no choice.
    """
    found = searched(rows, "lr")
    if found.empty:
        return None
    say = lambda lr, value: "" if lr != lr else f"{lr:g} ({100 * value:.1f} %)"
    best = [say(line.best, line.value) + "*" * bool(line.edge) for line in found.itertuples()]
    second = [say(line.second, line.second_value) for line in found.itertuples()]
    shown = found[["phase", "dataset", "source_phase", "method", "sparsity_target"]].assign(best=best, second=second)
    return shown.loc[:, (shown != "").any()].set_index("method").rename(columns=dict(second="runner-up"))
