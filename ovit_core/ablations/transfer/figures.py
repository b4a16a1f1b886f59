"""Ablation B's figures: accuracy by dataset, protocol and source, every comparison, errors relative to dense, and what
goes with transfer. Grey is a dataset that tells nothing by a protocol. Means are over the seeds that all of a panel's
points have. Filled are models as pruned, hollow recovered ones; the sparser, the smaller.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ovit_core.ablations.transfer.families import SOURCES, drawn
from ovit_core.ablations.transfer.glance import GREY, glance
from ovit_core.ablations.transfer.relations import (
    FEWEST,
    MODEL,
    beside_each_other,
    beside_similarity,
    beside_upstream,
    correlation,
    error_increase,
    transferred,
)
from ovit_core.ablations.transfer.telling import (
    NAMES,
    POINT,
    Protocol,
    level,
    nothing,
    of,
    protocol,
    silent,
    telling,
    undecided,
)
from ovit_core.study.ablation import Drawing, Results
from ovit_core.study.forest import forest
from ovit_core.study.plots import COLUMN, PAGE, across, aside, bare, legend, look, percent, shown
from ovit_core.study.statistics import same_seeds, summary
from ovit_core.study.wording import share, signed, spreads

SHORT = dict(linear="linear probe", knn="neighbours", full="finetuned")
ACROSS = 4  # panels beside each other
Kinds = Sequence[tuple[str, float]]  # source and sparsity of pruned models
LARGEST, SMALLEST = 4.6, 2.7  # points: the marks of the least and of the greatest sparsity


def short(one: Protocol) -> str:
    """A protocol above a panel."""
    return f"probe, {one.shots} a class" if one.shots else SHORT[one.phase]


def protocols(rows: pd.DataFrame) -> list[Protocol]:
    """Those in rows, in the order of NAMES, few images first."""
    found = {protocol(*at) for at in rows[["phase", "shots"]].drop_duplicates().itertuples(index=False)}
    return sorted(found, key=lambda one: (list(NAMES).index(one.phase), one.shots or np.inf))


def transfer(rows: pd.DataFrame) -> Figure | None:
    """Accuracy at the sparsities that sentences speak of: a line per dataset, a column per protocol; in a panel a line per
    method, and dotted the best that transfer from nothing gives.
    """
    every = transferred(rows)
    pruned = every[(every.sparsity_target > 0) & every.source_phase.isin(SOURCES)]
    if pruned.empty:
        return None
    every = beside_each_other(rows, every)
    kinds, datasets, methods = protocols(pruned), list(pruned.dataset.unique()), ["dense", *shown(pruned)]
    models = sources(every)
    fig, grid = _rows_of_methods(len(datasets), len(kinds), methods)
    for (dataset, line), (one, j) in product(zip(datasets, grid), zip(kinds, range(len(kinds)))):
        here, known = of(every[every.dataset == dataset], one), telling(rows, one)
        if not (here.sparsity_target > 0).any():
            line[j].set_axis_off()
            continue
        _floor(line[j], nothing(every[every.dataset == dataset], one))
        _panel(line[j], here, methods, models, None if dataset in known else GREY)
        percent(line[j], accuracy=False, axes="x")
        line[j].xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        if dataset not in known:
            line[j].set_xlabel(silent(rows, one, dataset), labelpad=1, color="0.35", size=6)
    for one, ax in zip(kinds, grid[0]):
        ax.set_title(short(one))
    for dataset, line in zip(datasets, grid):
        line[0].set_ylabel(bare(dataset))
    floor = Line2D([], [], color="black", ls=":", lw=0.8, label="transfer from nothing")
    _sources(fig, models, "Test accuracy, each panel on its own axis", [floor])
    none = {one: "undecided" if undecided(rows, one, datasets) else "none" for one in kinds}
    told = [f"{one.words}: {', '.join(sorted(telling(rows, one))) or none[one]}" for one in kinds]
    fig.set_label(f"Sets that tell something by {'; '.join(told)}.")
    return fig


def sources(models: pd.DataFrame) -> Kinds:
    """The kinds of pruned models, as pruned first, the least sparse first."""
    found = models[models.sparsity_target > 0]
    return [(s, at) for s in SOURCES for at in sorted(set(found.sparsity_target[found.source_phase == s]))]


def errors(rows: pd.DataFrame) -> Figure | None:
    """The relative increase in error over several datasets that can tell, a column per protocol, a line per method; None
    where at most one tells: then it is that one's accuracy again.
    """
    found = error_increase(rows)
    found = found[found.datasets.str.contains(", ")]
    if found.empty:
        return None
    found = beside_each_other(rows, found)
    kinds, methods, models = protocols(found), shown(found), sources(found)
    fig, grid = _rows_of_methods(1, len(kinds), methods)
    for one, ax in zip(kinds, grid[0]):
        here = of(found, one)
        ax.axvline(0, color="black", lw=0.8)
        _marks(ax, here, methods, models)
        count = len(here.datasets.iloc[0].split(", "))
        ax.set_title(f"{short(one)}\n{count} sets")
        percent(ax, accuracy=False, axes="x")
        ax.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    _sources(fig, models, "Errors more than dense of the same source makes")
    told = [
        f"{short(protocol(x.phase, x.shots))}, {x.method} {SOURCES[x.source_phase]} at {share(x.sparsity_target)} {t} %"
        for x, t in zip(found.itertuples(), spreads(found, "+.0f"))
    ]
    over = "; ".join(f"{short(one)}: {of(found, one).datasets.iloc[0]}" for one in kinds)
    fig.set_label(f"Over {over}. Errors more than dense: {'; '.join(told)}.")
    return fig


def effects(results: Results, single: bool) -> Figure | None:
    """The comparisons of a figure, as `families.drawn` chooses them."""
    lines = results.differences()
    return forest(drawn(results.families, lines, single), lines)


def beside(rows: pd.DataFrame, make: Callable[[pd.DataFrame], pd.DataFrame], column: str, label: str) -> Figure | None:
    """Transfer accuracy on all images against another number, a point per model; a panel per protocol and dataset that
    tells something, or where damage helps: there the whole interval of the rank correlation above lies below zero.
    """
    both = make(rows)
    both = same_seeds(both[both.shots.isna()], POINT, MODEL)
    key, among = [*POINT, *MODEL], ["phase", "dataset"]
    ranks, within = (correlation(both, column, within).set_index(among) for within in (False, True))
    panels = []
    for (phase, dataset), here in sorted(both.groupby(among, sort=False), key=lambda one: list(NAMES).index(one[0][0])):
        rank = ranks.loc[(phase, dataset)] if (phase, dataset) in ranks.index else None
        tells = dataset in telling(rows, Protocol(phase))
        if (here.sparsity_target > 0).any() and (tells or (rank is not None and rank.high < 0)):
            panels.append((here, tells, f"{bare(dataset)}, {SHORT[phase]}{_ranks(rank, within, (phase, dataset))}"))
    if not panels:
        return None
    # A method is named once, in a coloured panel if there is one.
    coloured, unnamed = any(tells for _, tells, _ in panels), {method: method for method in ("dense", *shown(both))}
    columns, lines = min(len(panels), ACROSS), -(-len(panels) // ACROSS)
    size = (max(COLUMN, PAGE * columns / ACROSS), 0.6 + 1.75 * lines)
    fig, grid = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for ax in grid.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (here, tells, title) in zip(grid.flat, panels):
        # Of upstream accuracy what each image contributes is known.
        xs = summary(here.assign(value=here[column], each=here.get("upstream_each"), labels=None), key)
        found = summary(here, key).merge(xs, on=key, suffixes=("", "_x"))
        sparsities, methods = sorted(set(found.sparsity_target)), ["dense", *shown(found)]
        found = found[found.method.isin(methods)].fillna({"half": 0, "half_x": 0})
        for one in sorted(found.itertuples(), key=lambda one: (methods.index(one.method), one.source_phase)):
            style = _look(one.method, one.source_phase, None if tells else GREY)
            points = _size(one.sparsity_target, sparsities)
            name = unnamed.pop(one.method, None) if tells or not coloured else None
            ax.errorbar(one.mean_x, one.mean, one.half, one.half_x, label=name, ms=points, **style)
        ax.set_title(title, fontsize=6)
        ax.set_xlabel(label)
        percent(ax)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    for line in grid:
        line[0].set_ylabel("transfer accuracy (test)")
    legend(fig)
    fig.set_label("; ".join(title.replace("\n", ", ") for *_, title in panels) + ".")
    return fig


def _ranks(over: pd.Series | None, within: pd.DataFrame, at: tuple[str, str]) -> str:
    """Rank correlations as a title tells them: over all models, and among those of one source and sparsity."""
    if over is None:
        return f"\nfewer than {FEWEST} models: no ρ"
    told = [f"ρ {_rank(over)}", *([f"within {_rank(within.loc[at])}"] if at in within.index else [])]
    return "".join(f"\n{one}" for one in told)


def _rank(line: pd.Series) -> str:
    """A rank correlation with its interval."""
    if line.rho != line.rho:
        return "none: nothing varies"
    rho, low, high = (signed(value, "+.2f") for value in (line.rho, line.low, line.high))
    return rho if line.low != line.low else f"{rho} ({low} to {high})"


def _rows_of_methods(lines: int, columns: int, methods: Sequence[str]) -> tuple[Figure, np.ndarray]:
    """(lines, columns) panels that have the methods from above to below."""
    size = (max(COLUMN, min(PAGE, 1.4 + 1.5 * columns)), 0.7 + lines * (0.35 + 0.18 * len(methods)))
    fig, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True)
    grid[0, 0].set_yticks(range(len(methods)), methods)
    grid[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    return fig, grid


def _panel(ax: Axes, here: pd.DataFrame, methods: Sequence[str], models: Kinds, colour: str | None) -> None:
    """Means over the seeds that all models of a source have."""
    parts = [
        summary(same_seeds(here[here.source_phase == source], ["dataset"], MODEL[1:]), MODEL)
        for source in SOURCES if (here.source_phase == source).any()
    ]  # fmt: skip
    _marks(ax, pd.concat(parts), methods, models, colour)


def _marks(ax: Axes, found: pd.DataFrame, methods: Sequence[str], models: Kinds, colour: str | None = None) -> None:
    """A mark and an interval per method and kind of model, side by side; dense beside the first of its source."""
    first, every = dict(reversed(models)), [at for _, at in models]
    for (y, method), (i, (source, at)) in product(enumerate(methods), enumerate(models)):
        known = found[(found.method == method) & (found.source_phase == source)]
        known = known[known.sparsity_target.isin((at, 0.0) if at == first[source] else (at,))]
        for one in known.fillna({"half": 0}).itertuples():
            style = _look(method, source, colour) | dict(ms=LARGEST if method == "dense" else _size(at, every))
            ax.errorbar(one.mean, y + aside(i, len(models), 0.6), xerr=one.half, **style)


def _size(at: float, sparsities: Iterable[float]) -> float:
    """The mark of one of some sparsities in points: the sparser, the smaller."""
    every = sorted({*sparsities})
    return LARGEST - (LARGEST - SMALLEST) * every.index(at) / max(len(every) - 1, 1)


def _look(method: str, source: str, colour: str | None) -> dict:
    """How a model is drawn: in its method's colour if no other is given, hollow if it was recovered."""
    style = look(method, line=False) | ({"color": colour} if colour else {})
    # A star is so thin that a usual edge would fill it.
    return style | dict(mfc=style["color"] if source == "one_shot" else "white", mew=0.5 if method == "dense" else 0.9)


def _floor(ax: Axes, floors: pd.DataFrame) -> None:
    """The best that transfer from nothing gives, as a dotted line."""
    if len(floors):
        ax.axvline(level(floors), color="black", ls=":", lw=0.8)


def _sources(fig: Figure, models: Kinds, about: str, more: Sequence[Line2D] = ()) -> None:
    """What is along the axes, and what filled and hollow, large and small marks are."""
    sparsities = [at for _, at in models]
    marks = [
        Line2D([], [], ls="", marker="o", color="black", mfc="black" if source == "one_shot" else "white",
               ms=_size(at, sparsities), label=f"{SOURCES[source]} at {share(at)}")
        for source, at in models
    ]  # fmt: skip
    every = [*marks, *more]
    columns = across(fig, [str(one.get_label()) for one in every])
    fig.legend(handles=every, loc="outside lower center", ncols=columns, columnspacing=1, title=about, title_fontsize=7)


FIGURES = {
    "glance": Drawing(
        glance, "Upstream and downstream at a glance",
        "Accuracy minus that of dense, upstream with their own head, downstream with a new one on their features; hollow: "
        "trained on, minus dense trained on as long; dotted: the best transfer from nothing, which a pruned model's features "
        "can fall below.",
    ),
    "transfer": Drawing(
        transfer, "How pruned models transfer",
        "Linear probes, nearest neighbours, full finetuning, by the metric that the field reports for a set (top-1, or the mean "
        "over classes); grey where dense is not clearly above transfer from nothing.",
    ),
    "transfer_effects": Drawing(
        lambda results: effects(results, single=False), "oViT against other models, downstream and upstream",
        "Paired differences with 95 % intervals, in the families in which they are judged; grey: the margin of no "
        "difference. Where there are many, the means over the sets that tell something.", True,
    ),
    "transfer_sets": Drawing(
        lambda results: effects(results, single=True), "oViT against other models, set by set",
        "The same for each set, by linear probes on all images and full finetuning; others are in differences.csv.", True,
    ),
    "transfer_errors": Drawing(
        errors, "All datasets together",
        "Errors relative to dense, over the datasets where dense beats its floor; intervals over seeds alone.",
    ),
    "transfer_upstream": Drawing(
        lambda rows: beside(rows, beside_upstream, "upstream_top1", "upstream top-1 (test)"),
        "Does upstream accuracy predict transfer?",
        "A point per model, hollow if recovered, smaller where sparser; ρ is over the pruned ones of a dense model, in the mean "
        "over seeds, with its 95 % interval. Sparsity alone makes it high: within, it is among models of one source and "
        "sparsity, and in words below without oViT and magnitude, too. Grey: the set tells nothing, and damage helps.",
    ),
    "transfer_similarity": Drawing(
        lambda rows: beside(rows, beside_similarity, "cka", "likeness to dense (CKA)"),
        "Does likeness to the dense model predict transfer?",
        "A point per model, hollow if recovered, smaller where sparser; dense is the one before recovery. ρ as above; "
        "sideways, intervals are over seeds alone.",
    ),
}  # fmt: skip
