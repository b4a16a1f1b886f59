"""What a newcomer needs: which method and lambda to take for which sparsity and budget, and what oViT's settings do."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from ovit_core.ablations.no_weight_update.families import MARGIN
from ovit_core.ablations.no_weight_update.sweeps import SWEPT, sweeps
from ovit_core.study import tuning
from ovit_core.study.lambdas import GLOBAL, OVIT, PHASE, Regime, place
from ovit_core.study.statistics import accuracies, contrast, same_seeds, summary, under
from ovit_core.study.tuning import decimal
from ovit_core.study.wording import seeds, share, spread, spreads

if TYPE_CHECKING:
    from ovit_core.study.ablation import Results

SEARCHED = dict(one_shot=PHASE, recovered="recovery_search", gradual="gradual_search")  # what is measured -> its search
SIMPLE = ("diag_fisher", "wanda"), ("magnitude",)  # nothing factorized; not even images
ROWWISE = "obc"  # whole rows where oViT has blocks
POINT = ["phase", "allocation", "pattern", "sparsity_target"]


def guide(results: "Results") -> str:
    """Free sparsity, methods, settings as Markdown; "" where nothing was searched."""
    there = methods(results), settings(results)
    return "\n\n".join(filter(None, (free(results), *there))) if any(there) else ""


def free(results: "Results") -> str:
    """Up to which sparsity each method lies within the margin of dense, one-shot, in every regime: the whole interval
    inside, and that of every lower sparsity too.
    """
    rows = accuracies(under(results.rows, "own"))
    rows = rows[rows.phase == "one_shot"]
    key = ["allocation", "pattern", "sparsity_target"]
    found = [
        summary(contrast(rows, {method: 1, "dense": -1}, key), key).assign(method=method)
        for method in dict.fromkeys(rows.method[rows.sparsity_target > 0])
    ]  # fmt: skip
    every, out = pd.concat(found) if found else pd.DataFrame(columns=[*key, "method"]), []
    for (allocation, pattern), here in every.groupby(key[:2], sort=False):
        mine = rows[(rows.allocation == allocation) & (rows.pattern == pattern)]
        reached: dict[float, list[str]] = {}
        for method, lines in here.groupby("method", sort=False):
            lines = lines.sort_values("sparsity_target")
            same = ((lines.low > -MARGIN) & (lines.high < MARGIN)).cummin()
            if same.any():
                reached.setdefault(lines.sparsity_target[same].max(), []).append(method)
        regime = Regime(allocation, pattern)
        where = {GLOBAL: "one threshold for the model"}.get(regime, "uniform" if pattern == GLOBAL.pattern else pattern)
        at = lambda sparsity: f"to {share(sparsity)} " if pattern == GLOBAL.pattern else ""
        told, known = [], set()
        for sparsity, names in sorted(reached.items(), reverse=True):
            known |= {*names}
            also = _as_good(mine[mine.sparsity_target == sparsity], names, known)
            told.append(f"{at(sparsity)}{', '.join(f'`{name}`' for name in names)}{also}")
        out.append(f"- {where}: {'; '.join(told) or 'none'}.")
    if not out:
        return ""
    return "\n".join([
        f"**What is nearly free.** Pruned in one shot, at most {100 * MARGIN:g} point is lost, for the whole interval of the "
        "difference from dense lies inside it, at the sparsity named and every lower one measured:", "", *out,
    ])  # fmt: skip


def _as_good(rows: pd.DataFrame, names: list[str], known: set[str]) -> str:
    """In words, the methods that are not `known` to be free, but no different from one of `names` beyond the margin."""
    lines = lambda m, name: summary(contrast(rows, {m: 1, name: -1}, POINT), POINT)
    same = [
        f"`{m}`"
        for m in dict.fromkeys(rows.method)
        if m not in known and any(((i.low > -MARGIN) & (i.high < MARGIN)).any() for i in (lines(m, n) for n in names))
    ]
    return f" (no different from one of them: {', '.join(same)})" * bool(same)


def methods(results: "Results") -> str:
    """A line for each regime, sparsity and budget at which validation speaks: the best by validation and those not told
    apart from it there, the best's test accuracy, and what simple methods lose against it.
    """
    lines = [line for at in _points(results) if (line := _line(results, at))]
    if not lines:
        return ""
    head = (
        "**Which method.** The best by validation, one-shot among methods with a λ of their own, its test accuracy, and what "
        "others have less on test: methods that factorize nothing (the diagonal Fisher; Wanda), magnitude, which needs no "
        f"images, and those that validation ({results.config.search_images:,} images for λ) cannot tell from the best, which does "
        "not make them the same; then the next best by validation of those that no other column has. In points, 95 % intervals, each for itself. λ is one for all sparsities of a regime, chosen "
        f"at {share(results.config.damp_sparsity)} (N:M at its own), one-shot; for layer inputs (OBC) it is relative to the "
        "mean diagonal."
    )
    table = [
        "| pruned | training | seeds | best | λ | top-1, % | diagonal, Wanda | magnitude | validation cannot tell | next best |",
        f"|{'---|' * 10}",
    ]
    after = filter(None, (_evenly(results), _longest(results), _at_once(results)))
    return "\n\n".join(["\n".join([head, "", *table, *lines]), *after])


def _evenly(results: "Results") -> str:
    """What the method of whole rows with uniform sparsity has more than oViT under one threshold, at every sparsity."""
    rows = accuracies(under(results.rows, "own"))
    rows = rows[(rows.phase == "one_shot") & (rows.pattern == GLOBAL.pattern)]
    ours = rows[(rows.method == OVIT) & (rows.allocation == "global")]
    whole = rows[(rows.method == ROWWISE) & (rows.allocation == "uniform")]
    told = [
        f"{_less(whole[whole.sparsity_target == at], ours[ours.sparsity_target == at])} at {share(at)}"
        for at in sorted({*ours.sparsity_target} & {*whole.sparsity_target})
    ]
    if not told:
        return ""
    return (
        f"Where zeros need not follow one threshold for the model, `{ROWWISE}` (whole rows, uniform) has on test, in points "
        f"more than `{OVIT}` (B = {results.config.block_size}, one threshold): {', '.join(told)}."
    )


def _longest(results: "Results") -> str:
    """What oViT has more than others after the longest training, where rates were chosen at another length."""
    c = results.config
    if not c.recovery_epochs or (most := max(c.recovery_epochs)) == c.recovery_search_epochs:
        return ""
    tested = accuracies(under(results.rows, "own"))
    tested = tested[(tested.phase == "recovered") & (tested.epochs == most) & (tested.sparsity_target > 0)]
    told = []
    for at, here in tested.groupby("sparsity_target"):
        by = dict(iter(here.groupby("method", sort=False)))
        leads = [f"{_less(by[OVIT], rows)} than `{m}`" for m, rows in by.items() if m != OVIT] if OVIT in by else []
        told += [f"at {share(at)} {', '.join(leads)}"] if leads else []
    if not told:
        return ""
    return (
        f"Rates were chosen at {c.recovery_search_epochs * c.recovery_images:,} images. After {most * c.recovery_images:,} "
        f"`{OVIT}` has on test, in points more: {'; '.join(told)}."
    )


def _at_once(results: "Results") -> str:
    """What one step and training brings more than steps with as many images between them, on test; "" where not run."""
    c, on = results.config, ["sparsity_target"]
    tested = accuracies(under(results.rows, "own"))
    images = c.gradual_cycles * c.gradual_epochs
    tested = tested[(tested.phase == "gradual") | ((tested.phase == "recovered") & (tested.epochs == images))]
    told = []
    for method, here in tested[tested.sparsity_target > 0].groupby("method", sort=False):
        found = summary(contrast(here.assign(method=here.phase), {"recovered": 1, "gradual": -1}, on), on)
        told += [f"`{method}` {text}" for text in spreads(found)]
    if not told:
        return ""
    return (
        f"Pruned at once, then trained on as many images as gradual pruning ({images * c.recovery_images:,}), on test, in "
        f"points more: {', '.join(told)}."
    )


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
        return " ".join(spreads(found, form))

    simple = [[m for m in names if (tested.method == m).any() and m != best] for names in SIMPLE]
    others = [m for m in mean.sort_values(ascending=False).index if m not in (best, *simple[0], *simple[1])]
    alike = [m for m in others if _alike(known, best, m)]
    rest = [m for m in others if m not in alike][:1]
    losses = ["; ".join(f"`{m}` {told({m: 1, best: -1}, '+.1f')}" for m in names) for names in (*simple, alike, rest)]
    cells = [
        _pruned(at), _training(results, at), str(tested[tested.method == best].seed.nunique()), f"`{best}`",
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
    """oViT at every setting of the curvature that was varied: its own lambda there, validation and test accuracy, and what
    it has less than at the study's own setting, and than the method of whole rows.
    """
    c, found = results.config, same_seeds(sweeps(results.rows), ["column"], ["setting"])
    found = found[(found.method == OVIT) & (found.rule == "own") & found.column.isin(c.sweeps)]
    if found.empty:
        return ""
    rows = accuracies(under(results.rows, "own"))
    evenly = (rows.allocation == "uniform") & (rows.pattern == GLOBAL.pattern) & (rows.phase == "one_shot")
    whole = rows[evenly & (rows.method == ROWWISE) & (rows.sparsity_target == c.sensitivity_sparsity)]
    lines = []
    for _, line in summary(found, ["column", "setting", "damp"]).sort_values(["column", "setting"]).iterrows():
        column, own = line.column, getattr(c, line.column)
        at = place(c.model_copy(update={column: type(own)(line.setting)}), OVIT)
        tried = results.rows[results.rows.damp.eq(line.damp) & results.rows.seed.isin(found.seed)]
        for name, value in at.items():
            tried = tried[tried[name] == value]
        swept = found[found.column == column]
        here, mine = swept[swept.setting == line.setting], swept[swept.setting == own]
        cells = [SWEPT[column], f"{line.setting:g}", decimal(line.damp), f"{100 * tried.value.mean():.1f}"]
        cells += [spread(line["mean"], line.half, ".1f"), _less(here, mine) if line.setting != own else ""]
        lines.append(f"| {' | '.join([*cells, *([_less(here, whole)] if len(whole) else [])])} |")
    other = f" (validation at {share(c.damp_sparsity)})" * (c.damp_sparsity != c.sensitivity_sparsity)
    head = (
        f"**Which block, how many gradients.** `{OVIT}` at {share(c.sensitivity_sparsity)}{other}, each setting varied alone, "
        f"at a λ of its own; {seeds(found.seed.nunique())}, top-1 in percent, and points less the study's own setting"
        f"{f' and less `{ROWWISE}`, uniform' * bool(len(whole))}. Rows shorter than a block are one block."
    )
    columns = ["varied", "value", "λ", "validation", "test", "less own", *[f"less `{ROWWISE}`"] * bool(len(whole))]
    return "\n".join([head, "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines])


def _less(rows: pd.DataFrame, others: pd.DataFrame) -> str:
    """The accuracies of one kind of model less those of another, of the seeds that both have, in points."""
    both = pd.concat([rows.assign(method="these"), others.assign(method="others")])
    found = summary(contrast(both, {"these": 1, "others": -1}, ["phase"]), ["phase"])
    return " ".join(spreads(found))
