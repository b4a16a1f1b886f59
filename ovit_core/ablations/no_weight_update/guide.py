"""What a newcomer needs: which method and lambda to take for which sparsity and budget, and what oViT's settings do."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from ovit_core.ablations.no_weight_update.families import MARGIN
from ovit_core.ablations.no_weight_update.sweeps import SWEPT, sweeps
from ovit_core.study import tuning
from ovit_core.study.lambdas import GLOBAL, OVIT, PHASE, Regime, place
from ovit_core.study.statistics import accuracies, contrast, main, same_seeds, share, spread, summary, under
from ovit_core.study.tuning import decimal

if TYPE_CHECKING:
    from ovit_core.study.ablation import Results

SEARCHED = dict(one_shot=PHASE, recovered="recovery_search", gradual="gradual_search")  # what is measured -> its search
SIMPLE = ("diag_fisher", "wanda"), ("magnitude",)  # nothing factorized; not even images
POINT = ["phase", "allocation", "pattern", "sparsity_target"]


def guide(results: "Results") -> str:
    """Free sparsity, methods, settings as Markdown; "" where nothing was searched."""
    there = methods(results), settings(results)
    return "\n\n".join(filter(None, (free(results), *there))) if any(there) else ""


def free(results: "Results") -> str:
    """Up to which sparsity each method lies within the margin of dense, one-shot: the whole interval inside, and that of
    every lower sparsity too.
    """
    rows = main(accuracies(under(results.rows, "own")))
    rows, out = rows[rows.phase == "one_shot"], []
    for method in dict.fromkeys(
        m for m in ("magnitude", "diag_fisher", "magnitude_joint", OVIT) if (rows.method == m).any()
    ):
        found = summary(contrast(rows, {method: 1, "dense": -1}, [*POINT]), POINT).sort_values("sparsity_target")
        same = (found.low > -MARGIN) & (found.high < MARGIN)
        if same.cummin().any():
            out.append(f"`{method}` to {share(found.sparsity_target[same.cummin()].max())}")
    if not out:
        return ""
    return (
        f"**What is free.** Pruned in one shot, the whole interval of the difference from dense lies within "
        f"{100 * MARGIN:g} point: {', '.join(out)}."
    )


def methods(results: "Results") -> str:
    """A line for each regime, sparsity and budget at which validation speaks: the best by validation and those not told
    apart from it there, the best's test accuracy, and what simple methods lose against it.
    """
    lines = [line for at in _points(results) if (line := _line(results, at))]
    if not lines:
        return ""
    head = (
        "**Which method.** By validation, one-shot among methods with a λ: the best, and those that the same seeds and "
        "images do not tell apart from it. Then the best's test accuracy, and what is lost by methods that factorize "
        "nothing (the diagonal Fisher; Wanda) and by magnitude, which needs no images; in points, 95 % intervals, each for "
        f"itself. λ is one for all sparsities of a regime, chosen at {share(results.config.damp_sparsity)} (N:M at its own); "
        "for layer inputs (OBC) it is relative to the mean diagonal."
    )
    table = [
        "| pruned | training | seeds | best | not told apart | λ | top-1, % | diagonal | magnitude |",
        f"|{'---|' * 9}",
    ]
    return "\n".join([head, "", *table, *lines])


def _points(results: "Results") -> Iterator[dict[str, Any]]:
    """The points at which validation speaks of methods, the cheapest budget first; of training the length that it saw."""
    c, rows = results.config, results.rows
    for phase, search in SEARCHED.items():
        tried = rows[(rows.phase == search) & (rows.sparsity_target > 0)]
        length = dict(epochs=c.recovery_search_epochs) if phase == "recovered" else {}
        for at in tried[POINT[1:]].drop_duplicates().sort_values(POINT[1:], kind="stable").to_dict("records"):
            yield dict(phase=phase, **at, **length)


def _line(results: "Results", at: Mapping[str, Any]) -> str:
    """A point's line of the table; "" where nothing was tried by validation and measured there."""
    tested = accuracies(under(results.rows, "own"))
    for column, value in at.items():
        tested = tested[tested[column] == value]
    tried = _tried(results, at)
    known = tried[tried.method.isin(tested.method)]
    if known.empty:
        return ""
    mean = known.groupby("method").value.mean()
    best, on = mean.idxmax(), list(at)

    def told(weights: Mapping[str, float], form: str) -> str:
        found = summary(contrast(tested, weights, on), on)
        return " ".join(spread(mean, half, form) for mean, half in zip(found["mean"], found.half)).replace(
            "-", "\N{MINUS SIGN}"
        )

    there = [[m for m in names if (tested.method == m).any() and m != best] for names in SIMPLE]
    losses = ["; ".join(f"`{m}` {told({m: 1, best: -1}, '+.1f')}" for m in names) for names in there]
    cells = [
        _pruned(at), _training(results, at), str(tested[tested.method == best].seed.nunique()), f"`{best}`",
        ", ".join(f"`{m}`" for m in mean.sort_values(ascending=False).index if m != best and _alike(known, best, m)),
        decimal(tested[tested.method == best].damp.iloc[0]), told({best: 1}, ".1f"), *losses,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _tried(results: "Results", at: Mapping[str, Any]) -> pd.DataFrame:
    """What validation says at a point of every method that all seeds tried: with the lambda, or the learning rate, that
    validation chose for it, whatever was measured afterwards.
    """
    c, search = results.config, SEARCHED[at["phase"]]
    column = "damp" if search == PHASE else "lr"
    rows = results.rows[(results.rows.phase == search) & results.rows.metric.str.startswith("validation")]
    rows = rows[(rows.allocation == at["allocation"]) & (rows.pattern == at["pattern"])]
    chosen = tuning.of_study(tuning.searched(rows, column), c) if search == PHASE else tuning.searched(rows, column)
    at_first = c.damp_sparsity if search == PHASE and at["pattern"] == GLOBAL.pattern else at["sparsity_target"]
    chosen = chosen[chosen.sparsity_target == at_first][["method", "best"]].rename(columns=dict(best=column))
    here = rows[rows.sparsity_target == at["sparsity_target"]]
    here = tuning.of_study(here, c) if search == PHASE else here
    here = here.merge(chosen, on=["method", column])
    return here[here.groupby("method").seed.transform("nunique") == here.seed.nunique()]


def _alike(tried: pd.DataFrame, best: str, other: str) -> bool:
    """Whether validation does not tell a method from the best, seed by seed."""
    found = summary(contrast(tried, {best: 1, other: -1}, ["phase"]), ["phase"])
    return not (found.low > 0).any()


def _pruned(at: Mapping[str, Any]) -> str:
    regime = Regime(at["allocation"], at["pattern"])
    if regime.pattern != GLOBAL.pattern:
        return regime.pattern
    return share(at["sparsity_target"]) + ", uniform" * (regime != GLOBAL)


def _training(results: "Results", at: Mapping[str, Any]) -> str:
    """How a model was trained after it was pruned, or while."""
    c = results.config
    if at["phase"] == "gradual":
        return f"gradually, {c.gradual_cycles * c.gradual_epochs * c.recovery_images:,} images"
    return f"{at['epochs'] * c.recovery_images:,} images" if at["phase"] == "recovered" else "none"


def settings(results: "Results") -> str:
    """oViT at every setting of the curvature that was varied: its own lambda there, validation and test accuracy."""
    c, found = results.config, same_seeds(sweeps(results.rows), ["column"], ["setting"])
    found = found[(found.method == OVIT) & (found.rule == "own") & found.column.isin(c.sweeps)]
    if found.empty:
        return ""
    lines = []
    for _, line in summary(found, ["column", "setting", "damp"]).sort_values(["column", "setting"]).iterrows():
        at = place(c.model_copy(update={line.column: type(getattr(c, line.column))(line.setting)}), OVIT)
        here = results.rows[results.rows.damp.eq(line.damp) & results.rows.seed.isin(found.seed)]
        for column, value in at.items():
            here = here[here[column] == value]
        cells = [SWEPT[line.column], f"{line.setting:g}", decimal(line.damp), f"{100 * here.value.mean():.1f}"]
        lines.append(f"| {' | '.join([*cells, spread(line['mean'], line.half, '.1f')])} |")
    other = f" (validation at {share(c.damp_sparsity)})" * (c.damp_sparsity != c.sensitivity_sparsity)
    head = (
        f"**Which block, how many gradients.** `{OVIT}` at {share(c.sensitivity_sparsity)}{other}, each setting varied alone, "
        f"at a λ of its own; {found.seed.nunique()} seeds, top-1 in percent."
    )
    return "\n".join([head, "", "| varied | value | λ | validation | test |", "|---|---|---|---|---|", *lines])
