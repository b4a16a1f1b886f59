"""Figures from rows alone: mean and interval, never a lone line; every file carries where it came from."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from ovit_core import disk
from ovit_core.study import paths
from ovit_core.study.provenance import distinct
from ovit_core.study.statistics import share

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


@contextmanager
def style(**changes: float) -> Iterator[None]:
    """The study's look, for what is drawn inside; matplotlib's settings are as before afterwards."""
    with plt.rc_context(RC | changes):
        yield


def shown(found: pd.DataFrame) -> list[str]:
    """The methods of a figure, in STYLE's order: all, or the first six where all would be too many to tell apart."""
    there = [m for m in STYLE if m in set(found.method)]
    return there if len(there) <= 7 else there[:6]


def against(ax: Axes, found: pd.DataFrame, along: str = "sparsity_target") -> None:
    """Each method's mean and interval: curves over three sparsities or more, else marks by sparsity or pattern."""
    methods = shown(found)
    found = found[found.method.isin(methods)]
    groups = sorted(set(found[along]))
    sparsity = along == "sparsity_target"
    ax.set_xlabel("sparsity (zeros / prunable weights)" if sparsity else along)
    if sparsity and len(groups) > 2:
        curves(ax, found, methods)
        return
    for i, method in enumerate(methods):
        f = found[found.method == method]
        colour, marker = STYLE[method]
        x = f[along].map(groups.index) + 0.7 * ((i + 0.5) / len(methods) - 0.5)
        look = dict(color=colour, marker=marker, ms=5.5, ls="", capsize=2.5, lw=1.2, label=method)
        ax.errorbar(x, f["mean"], yerr=f.half.fillna(0), **look)
    for edge in range(1, len(groups)):
        ax.axvline(edge - 0.5, color="0.85", lw=0.8)
    ax.set_xticks(range(len(groups)), [share(g) if sparsity else g for g in groups])
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.grid(axis="x", visible=False)


def curves(ax: Axes, found: pd.DataFrame, methods: Iterable[str]) -> None:
    """Means over `sparsity_target`, intervals as bands."""
    for method in methods:
        f = found[found.method == method].sort_values("sparsity_target")
        colour, marker = STYLE[method]
        half = f.half.fillna(0)
        ax.fill_between(f.sparsity_target, f["mean"] - half, f["mean"] + half, color=colour, alpha=0.18, lw=0)
        ax.plot(f.sparsity_target, f["mean"], color=colour, marker=marker, ms=4.5, lw=1.5, label=method)


def reference(ax: Axes, found: pd.DataFrame, method: str, label: str, ls: Any = "--") -> None:
    """The level of a method without sparsity, where it is in the rows; its interval as a band."""
    for _, r in found[found.method == method].fillna({"half": 0}).iterrows():
        ax.axhspan(r["mean"] - r.half, r["mean"] + r.half, color="black", alpha=0.07, lw=0)
        ax.axhline(r["mean"], color="black", ls=ls, lw=1, label=label)


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
    """One legend for all panels, dense and the floors first."""
    handles = {label: handle for ax in fig.axes for handle, label in zip(*ax.get_legend_handles_labels())}
    labels = sorted(handles, key=lambda label: label in STYLE)
    look = dict(ncols=min(len(labels), int(fig.get_figwidth() / 1.6)), columnspacing=1.2)
    fig.legend([handles[label] for label in labels], labels, loc="outside lower center", **look)


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
    footer = f"seeds {origin['seeds']} · commit {origin['commit']} · {origin['device']}"
    fig.suptitle(footer, x=0.995, ha="right", fontsize=6, color="0.5")
    disk.write(about, json.dumps(origin, indent=1) + "\n")
    text = "; ".join(f"{k}: {v}" for k, v in origin.items())
    looks = {
        png: dict(dpi=160, metadata={"Description": text}),
        svg: dict(metadata={"Description": text, "Date": None}),
    }
    for file, look in looks.items():
        with disk.writing(file) as partial:
            fig.savefig(partial, format=file.suffix[1:], bbox_inches="tight", **look)
