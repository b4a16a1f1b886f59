"""Figures from rows alone: mean and interval, never a lone line; every file carries where it came from."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.ticker import FixedLocator, MaxNLocator
from scipy.optimize import isotonic_regression

from ovit_core import disk
from ovit_core.methods import METHODS
from ovit_core.study import paths
from ovit_core.study.provenance import added, distinct

COMMAND = "OVIT_COMMAND"  # where `study` leaves its own command line for the figures' provenance
# Seaborn's colour-blind safe palette; one colour and one marker per method, the same in every figure; headline first.
_PALETTE, _DARK = sns.color_palette("colorblind"), sns.color_palette("dark")
STYLE = {
    "ovit": (_PALETTE[0], "o"),
    "ovit_mask_only": (_PALETTE[1], "s"),
    "ovit_no_update": (_PALETTE[2], "^"),
    "obert": (_PALETTE[4], "D"),
    "magnitude": (_PALETTE[3], "v"),
    "magnitude_joint": (_PALETTE[9], "<"),
    "ovit_no_update_joint": (_DARK[2], "P"),
    "obert_mask_only": (_PALETTE[6], "X"),
    "obert_joint": (_PALETTE[5], "*"),
    "obc": (_PALETTE[7], "h"),
    "obc_mask_only": ("0.75", "H"),
    "wanda": (_DARK[8], ">"),
    "diag_fisher": ("0.35", "p"),
    "diagonal_joint": (_DARK[0], "d"),
    "obc_sequential": (_DARK[7], "8"),
    "random": ("0.6", "."),
}
RC = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "ovit", "figure.constrained_layout.use": True,
}  # fmt: skip
COLUMN, PAGE = 3.5, 7.16  # inches: one and two columns of the usual two-column paper
PAPER = {  # figures are drawn at the size at which they are printed; TrueType is embedded whole
    "font.size": 7, "axes.titlesize": 7.5, "axes.labelsize": 7, "axes.linewidth": 0.6, "lines.linewidth": 1.1,
    "lines.markersize": 4, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "legend.fontsize": 7, "grid.linewidth": 0.5, "figure.dpi": 160, "pdf.fonttype": 42,
}  # fmt: skip
# Colours are not all: lines of methods that correct the kept weights are solid, of those that do not dashed.
DASHES = dict(joint="-", independent=(0, (5, 1, 1, 1)), none=(0, (3, 1.2)))


@contextmanager
def style(**changes: Any) -> Iterator[None]:
    """The study's look, for what is drawn inside; matplotlib's settings are as before afterwards."""
    with plt.rc_context(RC | changes):
        yield


def mark(method: str) -> tuple[Any, str]:
    """A method's colour and marker; black stars for dense, floors and methods that somebody added."""
    return STYLE.get(method, ("black", "*"))


def look(method: str, line: bool = True) -> dict[str, Any]:
    """How a method is drawn: colour, marker, and the dashes of its line, or none; dense and floors are black."""
    colour, marker = mark(method)
    dashes = DASHES[METHODS[method].update] if method in METHODS else "-"
    return dict(color=colour, marker=marker, ls=dashes if line else "", capsize=1.6, elinewidth=0.8, capthick=0.8)


def shown(found: pd.DataFrame) -> list[str]:
    """The methods of a figure, in STYLE's order: all, or the first six where all would be too many to tell apart; and
    always those that somebody added to the table.
    """
    there = in_order(found.method)
    own = [m for m in there if m in STYLE]
    some = own if len(own) <= 7 else own[:6]
    return [m for m in there if m in some or m in added()]


def in_order(methods: Iterable[str]) -> list[str]:
    """Those of some methods that are in the table, in STYLE's order; after them such as were added."""
    return [m for m in dict.fromkeys([*STYLE, *added()]) if m in set(methods)]


def bare(name: str) -> str:
    """A dataset's name, or a text with it, without what says that it is a folder."""
    return name.replace("folder:", "")


def left(sparsity: pd.Series) -> pd.Series:
    """Where a sparsity lies on an axis: at the logarithm of what is left, for that is what runs out."""
    return -np.log10(1 - sparsity)


def aside(i: int, n: int, width: float) -> float:
    """How far the i-th of n marks at one place stands aside, so that their intervals lie side by side."""
    return width * ((i + 0.5) / n - 0.5)


def against(ax: Axes, found: pd.DataFrame, along: str = "sparsity_target") -> None:
    """Each method's mean and interval: curves over sparsities on the axis of `left`, marks over patterns or one point;
    labelled are the points that were measured.
    """
    methods, groups = shown(found), sorted(set(found[along]))
    curve = along == "sparsity_target" and len(groups) > 1
    places = dict(zip(groups, left(pd.Series(groups)) if curve else range(len(groups))))
    steps = np.diff(list(places.values()))
    room = min(0.25 * steps.min(), 0.12 * steps.mean()) if curve else 0.7
    for i, method in enumerate(methods):
        f = found[found.method == method].sort_values(along)
        x = f[along].map(places) + aside(i, len(methods), room)
        ax.errorbar(x, f["mean"], yerr=f.half.fillna(0), label=method, **look(method, curve))
    for edge in range(1, 0 if curve else len(groups)):
        ax.axvline(edge - 0.5, color="0.85", lw=0.6)
    ax.set_xticks(list(places.values()), [f"{100 * g:g}" if along == "sparsity_target" else str(g) for g in groups])
    name = "sparsity, %" if along == "sparsity_target" else along
    ax.set_xlabel(f"{name} (axis: log of what is left)" if curve else name)
    ax.grid(axis="x", visible=curve)


def curves(ax: Axes, found: pd.DataFrame, methods: Iterable[str], along: str = "sparsity_target") -> None:
    """Means and intervals of methods over a column."""
    for method in methods:
        f = found[found.method == method].sort_values(along)
        ax.errorbar(f[along], f["mean"], yerr=f.half.fillna(0), label=method, **look(method))


def apart(places: Sequence[float], gap: float) -> np.ndarray:
    """(n,) places of labels, moved as little as need be so that neighbours, in their order, are `gap` from each other."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    # Less the steps they may touch but not cross: the nearest such places are an isotonic regression.
    moved = isotonic_regression(np.asarray(places, float)[order] - steps).x + steps
    out = np.empty(len(places))
    out[order] = moved
    return out


def reference(ax: Axes, found: pd.DataFrame, method: str, label: str, ls: Any = "-", across: bool = True) -> None:
    """The level of a method without sparsity, where it is in the rows, across the panel or down it; its interval as a
    band.
    """
    band, line = (ax.axhspan, ax.axhline) if across else (ax.axvspan, ax.axvline)
    for _, r in found[found.method == method].fillna({"half": 0}).iterrows():
        band(r["mean"] - r.half, r["mean"] + r.half, color="black", alpha=0.07, lw=0)
        line(r["mean"], color="black", ls=ls, lw=0.8, label=label)


def percent(ax: Axes, accuracy: bool = True, axes: str = "xy") -> None:
    """Fractions in percent where ticks were not set. Intervals of accuracies may pass 0 or 100 %, their axes do not."""
    for axis in (getattr(ax, f"{name}axis") for name in axes):
        if not isinstance(axis.get_major_locator(), FixedLocator):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(lambda fraction, _: f"{100 * fraction:.3g} %")
    low, high = ax.get_ylim()
    if accuracy and (low < -0.03 or high > 1.03):  # else left free: a panel that shares the axis may need more of it
        ax.set_ylim(max(low, -0.03), min(high, 1.03))


def legend(fig: Figure) -> None:
    """One legend for all panels, dense and the floors first, in as many columns as the figure is wide."""
    handles = {label: handle for ax in fig.axes for handle, label in zip(*ax.get_legend_handles_labels())}
    if not handles:
        return
    labels = sorted(handles, key=lambda label: label in STYLE)
    columns = across(fig, labels)
    fig.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=columns, columnspacing=1)


def across(fig: Figure, labels: Sequence[str]) -> int:
    """How many labels of a legend a figure has room for beside each other, in lines as even as it goes."""
    size = plt.rcParams["font.size"]
    widest = max(map(len, labels)) * 0.56 * size + 4 * size  # points: letters, and what stands before them
    columns = int(np.clip(72 * fig.get_figwidth() // widest, 1, len(labels)))
    return -(-len(labels) // -(-len(labels) // columns))


def laid_out(fig: Figure | None) -> Figure | None:
    """A figure whose layout is found once, not again for each file that it is saved to."""
    if fig is not None:
        fig.draw_without_rendering()
        fig.set_layout_engine(PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=False))
    return fig


def provenance(rows: pd.DataFrame) -> dict[str, str]:
    """Where a figure's numbers come from: command, commit, device, seeds, versions."""
    notebook = f"notebooks/{distinct(rows.experiment)}.ipynb with profile {distinct(rows.profile)}"
    columns = dict(commit="commit", device="device", seeds="seed", versions="versions", runs="run_id")
    origin = {name: distinct(rows[column]) for name, column in columns.items()}
    return dict(command=os.environ.get(COMMAND, notebook)) | origin


def save(fig: Figure | None, name: str, rows: pd.DataFrame) -> None:
    """Writes runs/PROFILE/NAME.png, .svg and .json (provenance, also in both); None deletes those there are."""
    png, svg, about = (paths.runs(rows.profile.iloc[0]) / f"{name}.{suffix}" for suffix in ("png", "svg", "json"))
    if fig is None:
        for file in (png, svg, about):
            file.unlink(missing_ok=True)
        return
    origin = provenance(rows)
    disk.write(about, json.dumps(origin, indent=1) + "\n")
    text = "; ".join(f"{k}: {v}" for k, v in origin.items())
    options = {png: dict(dpi=200), svg: dict(metadata={"Date": None})}
    for file, more in options.items():
        more["metadata"] = {"Description": text} | more.get("metadata", {})
        with disk.writing(file) as partial:
            fig.savefig(partial, format=file.suffix[1:], **more)
