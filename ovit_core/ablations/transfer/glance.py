"""Ablation B at a glance: what pruning costs upstream, and what it costs the same models downstream."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ovit_core.ablations.transfer.relations import beside_upstream, transferred
from ovit_core.ablations.transfer.telling import NAMES, POINT, Protocol, level, nothing, silent, telling
from ovit_core.study.plots import PAGE, against, bare, legend, percent, reference, shown
from ovit_core.study.statistics import same_seeds, share, spreads, summary

GREY = "0.62"  # of what tells nothing
POINTS = ["method", "sparsity_target"]


def glance(rows: pd.DataFrame) -> Figure | None:
    """Accuracy of models as pruned against sparsity, upstream and on every dataset by one protocol (linear probes, where
    they were run), a panel each; dotted what transfer from nothing gives. None for fewer than two sparsities.
    """
    both = beside_upstream(rows)
    both = both[(both.source_phase == "one_shot") & both.shots.isna()]
    phase = next((phase for phase in NAMES if (both.phase == phase).any()), "")
    here = same_seeds(both[both.phase == phase], POINT, POINTS)
    if here[here.sparsity_target > 0].sparsity_target.nunique() < 2:
        return None
    datasets, one, every = list(here.dataset.unique()), Protocol(phase), transferred(rows)
    known = telling(rows, one)
    fig, axes = plt.subplots(1, 1 + len(datasets), figsize=(PAGE, 2.2), squeeze=False)
    first = here[here.dataset == datasets[0]]
    told = [
        _panel(axes[0, 0], first.assign(value=first.upstream_top1, each=first.upstream_each, labels=None), "upstream")
    ]
    for ax, name in zip(axes[0, 1:], datasets):
        tells = name in known
        said = _panel(ax, here[here.dataset == name], bare(name), None if tells else GREY)
        if tells:
            told.append(said)
        else:
            ax.set_xlabel(f"{ax.get_xlabel()}\n{silent(rows, one, name)}")
        floor = nothing(every[every.dataset == name], one)
        if len(floor):
            ax.axhline(level(floor), color="black", ls=":", lw=0.8, label="transfer from nothing")
    axes[0, 0].set_ylabel("accuracy (test)")
    legend(fig)
    fig.set_label(f"As pruned; downstream by {one.words}. {' '.join(told)}")
    return fig


def _panel(ax: Axes, here: pd.DataFrame, title: str, colour: str | None = None) -> str:
    """The curves of one dataset, in one colour if it is given; returns them in words, at the highest sparsity."""
    found = summary(here, POINTS)
    pruned = found[found.sparsity_target > 0]
    reference(ax, found, "dense", "dense")
    against(ax, pruned, colour=colour)
    ax.set(title=title, xlabel="sparsity, %")
    percent(ax, axes="y")
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    last = pruned[pruned.sparsity_target == pruned.sparsity_target.max()].set_index("method").loc[shown(pruned)]
    levels = ", ".join(f"{method} {text}" for method, text in zip(last.index, spreads(last, ".1f")))
    return f"{title} at {share(pruned.sparsity_target.max())}: {levels}."
