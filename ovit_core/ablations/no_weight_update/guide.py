"""What a newcomer needs: which method and lambda to take for which sparsity and budget, and what oViT's settings do."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from ovit_core.ablations.no_weight_update.sweeps import SWEPT, sweeps
from ovit_core.study import tuning
from ovit_core.study.lambdas import GLOBAL, OVIT, PHASE, Regime, place
from ovit_core.study.statistics import accuracies, contrast, same_seeds, share, spread, summary, under

if TYPE_CHECKING:
    from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
    from ovit_core.study.ablation import Results

SEARCHED = dict(one_shot=PHASE, recovered="recovery_search", gradual="gradual_search")  # what is measured -> its search
BESIDE = ((OVIT,), ("diag_fisher", "wanda"), ("magnitude",))  # what the best is compared with


def guide(results: "Results") -> str:
    """Both tables as Markdown; "" where nothing was searched."""
    return "\n\n".join(filter(None, (methods(results), settings(results))))


def methods(results: "Results") -> str:
    """A line for each regime, sparsity and budget: what is best by validation among all methods that were run there, its
    test accuracy, and what methods that factorize nothing lose against it.
    """
    lines = [line for point in _points(results) if (line := _line(results, point))]
    if not lines:
        return ""
    head = (
        "**Which method.** *Best* is by validation alone. Beside it stand test accuracy, what oViT has more or less, and "
        "what is lost by methods that factorize nothing: the diagonal Fisher, or Wanda with layer inputs, by one pass over "
        "images, and magnitude without any. In points, 95 % intervals, each line for itself. λ, one for all sparsities, was "
        f"chosen at {share(results.config.damp_sparsity)}{_length(results.config)}."
    )
    table = ["| budget | sparsity | best | λ | top-1, % | oViT | one pass | no images |", f"|{'---|' * 8}"]
    return "\n".join([head, "", *table, *lines])


def _length(config: "NoWeightUpdate") -> str:
    """After how much training validation chose, where something was trained."""
    images = config.recovery_search_epochs * config.recovery_images
    return f", trained models after {images:,} images" if config.recovery_methods else ""


def _points(results: "Results") -> Iterator[dict[str, Any]]:
    """The points at which validation speaks of methods, cheapest budget first; with the phase of what was measured."""
    rows = results.rows
    for phase, search in SEARCHED.items():
        tried = rows[(rows.phase == search) & (rows.sparsity_target > 0)]
        keys = ["allocation", "pattern", "sparsity_target"]
        for at in tried[keys].drop_duplicates().sort_values(keys, kind="stable").to_dict("records"):
            there = rows[(rows.phase == phase) & (rows.sparsity_target == at["sparsity_target"])]
            for epochs in sorted(set(there.epochs)) if phase == "recovered" else (None,):
                yield dict(at, phase=phase, **({} if epochs is None else dict(epochs=epochs)))


def _line(results: "Results", point: Mapping[str, Any]) -> str:
    """A point's line of the table; "" where no method was tried by validation there and measured."""
    tested = accuracies(under(results.rows, "own"))
    for column, value in point.items():
        tested = tested[tested[column] == value]
    best = _best(results, point, tested)
    if best is None:
        return ""
    on = list(point)

    def told(weights: Mapping[str, float], form: str) -> str:
        (line,) = summary(contrast(tested, weights, on), on).to_dict("records")
        return spread(line["mean"], line["half"], form).replace("-", "\N{MINUS SIGN}")

    there = [[m for m in names if (tested.method == m).any() and m != best] for names in BESIDE]
    losses = ["; ".join(f"`{m}` {told({m: 1, best: -1}, '+.1f')}" for m in names) for names in there]
    damp = _damp(tested[tested.method == best].damp.iloc[0])
    cells = [_budget(results, point), _sparsity(point), f"`{best}`", damp, told({best: 1}, ".1f"), *losses]
    return f"| {' | '.join(cells)} |"


def _budget(results: "Results", point: Mapping[str, Any]) -> str:
    """What a model costs beside pruning, in words."""
    c = results.config
    if point["phase"] == "one_shot":
        return "one shot"
    if point["phase"] == "recovered":
        return f"one shot, then {point['epochs'] * c.recovery_images:,.0f} images"
    return f"gradually, over {c.gradual_cycles * c.gradual_epochs * c.recovery_images:,} images"


def _sparsity(point: Mapping[str, Any]) -> str:
    regime = Regime(point["allocation"], point["pattern"])
    if regime.pattern != GLOBAL.pattern:
        return regime.pattern
    return share(point["sparsity_target"]) + ", uniform" * (regime != GLOBAL)


def _damp(value: float) -> str:
    return "" if value != value else f"{value:.0e}".replace("e-0", "e-")


def _best(results: "Results", point: Mapping[str, Any], tested: pd.DataFrame) -> str | None:
    """The method with the highest mean of validation at what it was measured with, of those that all seeds tried."""
    rows, phase = results.rows, point["phase"]
    tried = rows[(rows.phase == SEARCHED[phase]) & rows.metric.str.startswith("validation")]
    for column in ("allocation", "pattern", "sparsity_target"):
        tried = tried[tried[column] == point[column]]
    tried = tuning.of_study(tried, results.config) if phase == "one_shot" else tried
    taken = tested.drop_duplicates(["method", "seed"])[["method", "seed", "damp", "lr"]]
    column = "damp" if phase == "one_shot" else "lr"
    found = tried.merge(taken, on=["method", "seed", column])
    found = found[found.groupby("method").seed.transform("nunique") == found.seed.nunique()]
    means = found.groupby("method").value.mean()
    return means.idxmax() if len(means) else None


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
        cells = [SWEPT[line.column], f"{line.setting:g}", _damp(line.damp), f"{100 * here.value.mean():.1f}"]
        lines.append(f"| {' | '.join([*cells, spread(line['mean'], line.half, '.1f')])} |")
    head = (
        f"**Which block, how many gradients.** `{OVIT}` at {share(c.sensitivity_sparsity)}, each setting varied alone, at a "
        f"λ of its own; {found.seed.nunique()} seeds, top-1 in percent."
    )
    return "\n".join([head, "", "| varied | value | λ | validation | test |", "|---|---|---|---|---|", *lines])
