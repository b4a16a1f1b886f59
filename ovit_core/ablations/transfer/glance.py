"""Ablation B at a glance: what pruning costs upstream, and what it costs the same models downstream, on one axis."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ovit_core.ablations.transfer.families import SOURCES
from ovit_core.ablations.transfer.relations import MODEL, beside_upstream, transferred
from ovit_core.ablations.transfer.telling import NAMES, POINT, Protocol, level, nothing, silent, telling
from ovit_core.study.plots import PAGE, aside, bare, left, legend, look
from ovit_core.study.statistics import contrast, same_seeds, seeds, share, spreads, summary

GREY = "0.62"  # of what tells nothing
DRAWN = ("ovit", "ovit_mask_only", "magnitude_joint", "magnitude")  # each score with the update and without
ON = [*POINT, "source_phase", "sparsity_target"]


def glance(rows: pd.DataFrame) -> Figure | None:
    """What models have less than dense against sparsity, upstream and on every dataset by one protocol (linear probes,
    where they were run), a panel each and one axis for all: as pruned, and hollow beside them trained on, less dense
    trained on as long. Dotted what transfer from nothing gives. None for fewer than two sparsities.
    """
    both = beside_upstream(rows)
    both = both[both.source_phase.isin(list(SOURCES)) & both.shots.isna() & both.method.isin(("dense", *DRAWN))]
    phase = next((phase for phase in NAMES if (both.phase == phase).any()), "")
    both = both[both.phase == phase]
    here = same_seeds(both, [*POINT, "source_phase"], MODEL[1:])
    pruned = here[here.sparsity_target > 0]
    if pruned[pruned.source_phase == "one_shot"].sparsity_target.nunique() < 2:
        return None
    datasets, one, every = list(here.dataset.unique()), Protocol(phase), transferred(rows)
    known = telling(rows, one)
    fig, axes = plt.subplots(1, 1 + len(datasets), figsize=(PAGE, 2.4), squeeze=False, sharex=True, sharey=True)
    first = here[here.dataset == datasets[0]]
    told = [
        _panel(axes[0, 0], first.assign(value=first.upstream_top1, each=first.upstream_each, labels=None), "upstream")
    ]
    for ax, name in zip(axes[0, 1:], datasets):
        tells, mine = name in known, here[here.dataset == name]
        said = _panel(ax, mine, bare(name), None if tells else GREY)
        if tells:
            told.append(said)
        else:
            ax.set_xlabel(f"{ax.get_xlabel()}\n{silent(rows, one, name)}")
        floor = nothing(every[every.dataset == name], one)
        if len(floor):
            dense = mine[(mine.method == "dense") & (mine.source_phase == "one_shot")].value.mean()
            ax.axhline(level(floor) - dense, color="black", ls=":", lw=0.8, label="transfer from nothing")
    axes[0, 0].set_ylabel("points less dense (test)")
    axes[0, 0].yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes[0, 0].yaxis.set_major_formatter(
        lambda fraction, _: f"{100 * fraction:+.3g}".replace("-", "−").replace("+0", "0")
    )
    legend(fig)
    count = seeds(here.groupby(["source_phase", "dataset"]).seed.nunique().min())
    fig.set_label(f"{count}; downstream by {one.words}. {' '.join(told)}")
    return fig


def _panel(ax: Axes, here: pd.DataFrame, title: str, colour: str | None = None) -> str:
    """A dataset's curves as pruned and marks trained on, in one colour if it is given; returns what the former are at the
    highest sparsity in words.
    """
    parts = [
        summary(contrast(here[here.method.isin(("dense", m))], {m: 1, "dense": -1}, ON), ON).assign(method=m)
        for m in DRAWN
        if (here.method == m).any()
    ]
    found = pd.concat(parts)
    pruned, trained = (found[found.source_phase == source] for source in SOURCES)
    at, after = sorted(set(pruned.sparsity_target)), sorted(set(trained.sparsity_target))
    places = left(pd.Series(at)).to_numpy()
    step = np.diff(places).mean()
    beyond = places[-1] + step * (1 + np.arange(len(after)))
    for i, method in enumerate(DRAWN):
        for lines, x, source in ((pruned, dict(zip(at, places)), "one_shot"), (trained, dict(zip(after, beyond)), "")):
            f = lines[lines.method == method].sort_values("sparsity_target")
            style = look(method, line=bool(source)) | (dict(color=colour) if colour else {})
            style |= {} if source else dict(mfc="white", mew=0.9)
            label = method if source and not colour else None
            moved = f.sparsity_target.map(x) + aside(i, len(DRAWN), 0.3 * step)
            ax.errorbar(moved, f["mean"], f.half.fillna(0), label=label, **style)
    ax.axhline(0, color="black", lw=0.8, label="dense")
    names = [f"{100 * s:g}" for s in at] + [f"{100 * s:g}\ntrained" for s in after]
    ax.set_xticks([*places, *beyond], names)
    ax.set(title=title, xlabel="sparsity, %")
    last = pruned[pruned.sparsity_target == at[-1]]
    levels = ", ".join(f"{method} {text}" for method, text in zip(last.method, spreads(last)))
    return f"{title} at {share(at[-1])} as pruned: {levels}.".replace("-", "−")
