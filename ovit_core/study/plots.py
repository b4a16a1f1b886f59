"""Figures from rows alone: mean and interval, never a lone line; every file carries where it came from."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ovit_core.study import paths
from ovit_core.study.ablation import Results

COMMAND = "OVIT_COMMAND"  # where `study` leaves its own command line for the figures' provenance
# Seaborn's colour-blind safe palette; one colour and one marker per method, the same in every figure.
_PALETTE, _DARK = sns.color_palette("colorblind"), sns.color_palette("dark")
STYLE = {
    "ovit": (_PALETTE[0], "o"),
    "ovit_mask_only": (_PALETTE[1], "s"),
    "ovit_no_update": (_PALETTE[2], "^"),
    "obert": (_PALETTE[4], "D"),
    "magnitude": (_PALETTE[3], "v"),
    "ovit_no_update_joint": (_DARK[2], "P"),
    "obert_mask_only": (_PALETTE[6], "X"),
    "obert_joint": (_PALETTE[5], "*"),
    "magnitude_joint": (_PALETTE[9], "<"),
    "obc": (_PALETTE[7], "h"),
    "obc_mask_only": ("0.75", "H"),
    "wanda": (_DARK[8], ">"),
    "diag_fisher": ("0.35", "p"),
    "random": ("0.6", "."),
}
HEADLINE = ("ovit", "ovit_mask_only", "ovit_no_update", "obert", "magnitude", "magnitude_joint")
RC = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "ovit", "figure.constrained_layout.use": True,
}  # fmt: skip
COLUMN, PAGE = 3.5, 7.16  # inches: one and two columns of the usual two-column paper
PRINT = {"font.size": 7, "lines.linewidth": 1, "lines.markersize": 3, "pdf.fonttype": 42}  # TrueType, embedded whole


@contextmanager
def style(**changes: float) -> Iterator[None]:
    """The study's look, for what is drawn inside; matplotlib's settings are as before afterwards."""
    with plt.rc_context(RC | changes):
        yield


def shown(found: pd.DataFrame) -> list[str]:
    """The methods of a figure, in STYLE's order: all, or the headline ones where all would be too many to tell apart."""
    there = [m for m in STYLE if m in set(found.method)]
    return there if len(there) <= 7 else [m for m in there if m in HEADLINE]


def curves(ax, found: pd.DataFrame, methods: list[str]) -> None:
    for method in methods:
        f = found[found.method == method].sort_values("sparsity_target")
        colour, marker = STYLE[method]
        half = f.half.fillna(0)
        ax.fill_between(f.sparsity_target, f["mean"] - half, f["mean"] + half, color=colour, alpha=0.18, lw=0)
        ax.plot(f.sparsity_target, f["mean"], color=colour, marker=marker, ms=4.5, lw=1.5, label=method)


def reference(ax, found: pd.DataFrame, method: str, label: str, style="--") -> None:
    f = found[found.method == method]
    if len(f):
        mean, half = f["mean"].iloc[0], f.half.fillna(0).iloc[0]
        ax.axhspan(mean - half, mean + half, color="black", alpha=0.07, lw=0)
        ax.axhline(mean, color="black", ls=style, lw=1, label=label)


def percent(ax, accuracy: bool = True) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    if accuracy:  # an interval may pass 0 or 100 %, the axis should not
        low, high = ax.get_ylim()
        if low < -0.03 or high > 1.03:  # else left free: a panel that shares the axis may need more of it
            ax.set_ylim(max(low, -0.03), min(high, 1.03))


def intervals(ax, found: pd.DataFrame, groups: list, key: str, methods: list[str]) -> None:
    """Means with error bars side by side: one group per value of `key`, one mark per method."""
    width = 0.7 / max(1, len(methods))
    for i, method in enumerate(methods):
        f = found[found.method == method].set_index(key).reindex(groups)
        colour, marker = STYLE.get(method, ("0.45", "_"))
        x = np.arange(len(groups)) + (i - (len(methods) - 1) / 2) * width
        look = dict(color=colour, marker=marker, ms=5.5, ls="", capsize=2.5, lw=1.2, label=method)
        ax.errorbar(x, f["mean"], yerr=f.half.fillna(0), **look)
    for edge in np.arange(len(groups) - 1) + 0.5:
        ax.axvline(edge, color="0.85", lw=0.8)
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.grid(axis="x", visible=False)


def legend(fig: Figure, axes: Iterable, columns: int = 4) -> None:
    """One legend for all panels, dense and the floors first."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    labels = sorted(handles, key=lambda label: label in STYLE)
    shown = [handles[label] for label in labels]
    fig.legend(shown, labels, loc="outside lower center", ncols=min(len(labels), columns), columnspacing=1.2)


def provenance(rows: pd.DataFrame) -> dict[str, str]:
    """Where a figure's numbers come from: command, commit, device, seeds, versions."""
    one = lambda column: ", ".join(sorted(set(map(str, rows[column]))))
    return dict(
        command=os.environ.get(COMMAND, f"notebooks/{one('experiment')}.ipynb with profile {one('profile')}"),
        commit=one("commit"), device=one("device"), seeds=one("seed"), versions=one("versions"), runs=one("run_id"),
    )  # fmt: skip


def save(fig: Figure | None, name: str, rows: pd.DataFrame) -> Figure | None:
    """Writes figures/PROFILE/NAME.png, .svg and .json (provenance, also inside both pictures); returns the figure.

    None, for which there was nothing to draw, stays None, and files of other rows go.
    """
    folder = paths.figures(rows.profile.iloc[0])
    if fig is None:
        for suffix in ("png", "svg", "json"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
        return None
    origin = provenance(rows)
    footer = f"seeds {origin['seeds']} · commit {origin['commit']} · {origin['device']}"
    fig.suptitle(footer, x=0.995, ha="right", fontsize=6, color="0.5")
    paths.write_atomically(folder / f"{name}.json", json.dumps(origin, indent=1) + "\n")
    text = "; ".join(f"{k}: {v}" for k, v in origin.items())
    fig.savefig(folder / f"{name}.png", dpi=160, bbox_inches="tight", metadata={"Description": text})
    fig.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Description": text, "Date": None})
    return shown_once(fig)


def shown_once(fig: Figure | None) -> Figure | None:
    """The figure, closed for pyplot: a notebook shows it as the cell's value, and not a second time."""
    if fig is not None:
        plt.close(fig)
    return fig


def print_all(results: Results, folder: Path) -> dict[str, Path]:
    """Every figure of an ablation as PDF: single panels one column wide, others two; name -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, drawing in results.ablation.figures.items():
        file = folder / f"{name}.pdf"
        file.unlink(missing_ok=True)
        with style(**PRINT):
            if (fig := drawing.make(results.rows)) is None:
                continue
            width, height = fig.get_size_inches()
            wanted = COLUMN if width <= 6 else PAGE
            fig.set_size_inches(wanted, height * max(wanted / width, 0.72))
            origin = "; ".join(f"{k}: {v}" for k, v in provenance(results.rows).items())
            files[name] = file
            fig.savefig(file, metadata={"Subject": origin, "CreationDate": None})
            plt.close(fig)
    return files
