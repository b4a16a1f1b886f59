"""Ablation B at a glance: what pruning costs upstream, and what it costs the same models downstream, on one axis."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ovit_core.ablations.transfer.families import SOURCES
from ovit_core.ablations.transfer.relations import MODEL, beside_upstream, transferred, upstream
from ovit_core.ablations.transfer.telling import NAMES, Protocol, level, nothing, of, silent, telling
from ovit_core.study.plots import PAGE, aside, bare, left, legend, look
from ovit_core.study.statistics import contrast, same_seeds, summary
from ovit_core.study.wording import seeds, share, signed, spread

GREY = "0.62"  # of what tells nothing
DRAWN = ("ovit", "ovit_mask_only", "magnitude_joint", "magnitude")  # each score with the update and without
UPSTREAM = "upstream"
ON = ["source_phase", "sparsity_target"]


def glance(rows: pd.DataFrame) -> Figure | None:
    """The accuracy of models minus dense's against sparsity, upstream and on every dataset by one protocol (linear probes,
    where they were run), a panel each and one axis for all: as pruned, and hollow beside them trained on, minus that of
    dense trained on as long. Dotted what transfer from nothing gives. None for fewer than two sparsities.
    """
    both = beside_upstream(rows)
    both = both[both.source_phase.isin(list(SOURCES)) & both.shots.isna() & both.method.isin(("dense", *DRAWN))]
    phase = next((phase for phase in NAMES if (both.phase == phase).any()), "")
    both, one, every = both[both.phase == phase], Protocol(phase), transferred(rows)
    known = telling(rows, one)
    above = upstream(both.drop_duplicates([*MODEL, "seed"]))
    panels = {UPSTREAM: less_dense(above)} | {n: less_dense(here) for n, here in both.groupby("dataset", sort=False)}
    panels = {name: lines for name, lines in panels.items() if len(lines)}
    drawn = pd.concat(panels.values()) if panels else pd.DataFrame(columns=ON)
    kinds = {source: sorted(set(drawn.sparsity_target[drawn.source_phase == source])) for source in SOURCES}
    if UPSTREAM not in panels or len(panels) < 2 or len(kinds["one_shot"]) < 2:
        return None
    places = _places(kinds)
    fig, axes = plt.subplots(1, len(panels), figsize=(PAGE, 2.4), sharex=True, sharey=True)
    for ax, (name, lines) in zip(axes, panels.items()):
        tells = name == UPSTREAM or name in known
        _panel(ax, lines, places, None if tells else GREY)
        said = "" if tells else f"\n{silent(rows, one, name)}"
        ax.set(title=bare(name), xlabel=f"sparsity, % (log axis){said}")
        here = every[every.dataset == name]
        dense, floor = of(here, one), nothing(here, one)
        dense = dense[(dense.method == "dense") & (dense.source_phase == "one_shot")].value
        if len(floor) and len(dense):
            ax.axhline(level(floor) - dense.mean(), color="black", ls=":", lw=0.8, label="transfer from nothing")
    axes[0].set_xticks(list(places.values()), [f"{100 * at:g}" + "\ntrained" * (s != "one_shot") for s, at in places])
    axes[0].set_ylabel("accuracy minus dense's, points")
    axes[0].yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes[0].yaxis.set_major_formatter(lambda v, _: signed(100 * v, "+g"))
    legend(fig)
    told = [_words(name, lines, kinds) for name, lines in panels.items() if name == UPSTREAM or name in known]
    fig.set_label(f"Minus dense; downstream by {one.words}. {' '.join(told)}")
    return fig


def less_dense(models: pd.DataFrame) -> pd.DataFrame:
    """`summary` of the accuracy of each of DRAWN minus that of dense of the same source, per ON and `method`, over the seeds
    that all models of a source have; none where dense was not measured.
    """
    here, found = same_seeds(models, ["source_phase"], MODEL[1:]), []
    for method in DRAWN:
        if {"dense", method} <= {*here.method}:
            found.append(summary(contrast(here, {method: 1, "dense": -1}, ON), ON).assign(method=method))
    return pd.concat(found) if found else pd.DataFrame(columns=[*ON, "mean", "half", "seeds", "method"])


def _places(kinds: dict[str, list[float]]) -> dict[tuple[str, float], float]:
    """(source, sparsity) -> where it lies along the axis: as pruned by what is left, trained on beyond all of them."""
    pruned = left(pd.Series(kinds["one_shot"])).to_numpy()
    beyond = pruned[-1] + np.diff(pruned).mean() * (1 + np.arange(len(kinds["recovered"])))
    return {
        (source, at): x
        for source, xs in (("one_shot", pruned), ("recovered", beyond))
        for at, x in zip(kinds[source], xs)
    }


def _panel(ax: Axes, lines: pd.DataFrame, places: dict[tuple[str, float], float], colour: str | None) -> None:
    """A dataset's curves as pruned and marks trained on, in one colour if it is given."""
    step = np.diff([x for (source, _), x in places.items() if source == "one_shot"]).mean()
    for (source, method), f in lines.groupby(["source_phase", "method"], sort=False):
        pruned = source == "one_shot"
        style = look(method, line=pruned) | (dict(color=colour) if colour else {})
        style |= {} if pruned else dict(mfc="white", mew=0.9)
        f = f.sort_values("sparsity_target")
        x = np.array([places[source, at] for at in f.sparsity_target]) + aside(
            DRAWN.index(method), len(DRAWN), 0.3 * step
        )
        ax.errorbar(x, f["mean"], f.half.fillna(0), label=method if pruned and not colour else None, **style)
    ax.axhline(0, color="black", lw=0.8, label="dense")


def _words(name: str, lines: pd.DataFrame, kinds: dict[str, list[float]]) -> str:
    """A panel's models as pruned at the highest sparsity."""
    at = kinds["one_shot"][-1]
    last = lines[(lines.source_phase == "one_shot") & (lines.sparsity_target == at)]
    if last.empty:
        return f"{bare(name)} at {share(at)} as pruned: not run."
    each = ", ".join(f"{one.method} {spread(one.mean, one.half)}" for one in last.itertuples())
    return f"{bare(name)} at {share(at)} as pruned ({seeds(last.seeds.max())}): {each}."
