"""Score × update as a plane: accuracy where kept weights are left alone and where they are corrected, a line a score."""

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ovit_core.ablations.no_weight_update.attribution import (
    CELLS,
    PLAIN,
    RULES,
    SCORES,
    SHORT,
    TOP,
    cells,
    edges,
    level_of,
    levels,
    summed,
)
from ovit_core.ablations.no_weight_update.finding import in_words
from ovit_core.study.families import effect
from ovit_core.study.plots import COLUMN, PAGE, apart, aside, legend, look, percent, reference
from ovit_core.study.statistics import accuracy, main
from ovit_core.study.wording import seeds, share

if TYPE_CHECKING:
    from ovit_core.study.ablation import Results

LINES = dict(  # of scores, where the update lies along the axis
    magnitude=(0, (4, 1.5)), diagonal=(0, (1, 1)), static="-.", greedy_frozen=(0, (5, 1, 1, 1, 1, 1)), greedy="-"
)  # fmt: skip
KNOWN = dict(
    magnitude="magnitude", diagonal="diag_fisher", static="obert", greedy_frozen="ovit_no_update", greedy="ovit"
)
UPDATED = dict(none="left alone", joint="corrected")  # what becomes of the kept weights


def finding(results: "Results") -> Figure | None:
    """The square of two scores and no update or the joint one, at the sparsity of the comparisons: every cell with its
    accuracy, every edge with what it is worth. None where they were not run.
    """
    known = edges(results)
    if not known:
        return None
    at = known["both"].sparsity_target
    level = levels(results, at)
    cell = {(s, u): level[CELLS[s, u]] for s in (TOP, PLAIN) for u in UPDATED}
    every = [one["mean"] for one in (*cell.values(), *([level["dense"]] if "dense" in level else []))]
    lows = [one["mean"] - np.nan_to_num(one.half) for one in cell.values()]
    lowest = min(*lows, min(every) - 0.1 * max(np.ptp(every), 0.01))
    room = max(every) - lowest
    fig, ax = plt.subplots(figsize=(COLUMN, 3))
    ax.set(xlim=(-1.1, 2.1), ylim=(lowest - 0.04 * room, max(every) + 0.13 * room))
    upper = max((TOP, PLAIN), key=lambda s: cell[s, "none"]["mean"] + cell[s, "joint"]["mean"])
    for score, edge, name in ((TOP, "update_top", "oViT's score"), (PLAIN, "update", "magnitude's score")):
        ends = [cell[score, u]["mean"] for u in UPDATED]
        drawn, off = drawn_as(score), 0 if score == upper else 0.04  # letters below a line would touch it
        ax.errorbar((0, 1), ends, [np.nan_to_num(cell[score, u].half) for u in UPDATED], **drawn, zorder=3)
        ax.text(0.5 + off, np.mean(ends) - off * room / 2, f"{name}\nupdate {effect(known[edge])}".replace(" (", "\n("), rotation=np.degrees(np.arctan(ends[1] - ends[0])),
                transform_rotates_text=True, rotation_mode="anchor", ha="center",
                va="bottom" if score == upper else "top", color=drawn["color"], zorder=4,
                path_effects=[withStroke(linewidth=2, foreground="white")])  # fmt: skip
    both = summed({method: line["mean"] for method, line in level.items()})
    both = [both] if lowest < both < max(every) else []  # of what would be above dense the words say so
    ax.plot([1] * len(both), both, marker="o", mfc="white", mec="0.4", ls="", zorder=2)
    for x, update, edge in ((0, "none", "score"), (1, "joint", "score_updated")):
        taken = [level["dense"]["mean"]] if "dense" in level else []
        two, worth = [cell[s, update] for s in (PLAIN, TOP)], effect(known[edge])
        _side(ax, x, two, worth, taken, 0.15 * room, both if x else [])
    if "dense" in level:
        ax.axhline(level["dense"]["mean"], color="black", lw=0.8)
        ax.text(-1.08, level["dense"]["mean"] + 0.015 * room, f"dense {level_of(level['dense'])} %", va="bottom")
    ax.set_xticks((0, 1), ("kept weights\nleft alone", "kept weights\ncorrected (update)"))
    ax.tick_params(axis="x", length=0)
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    fig.suptitle("What each part is worth, in points of top-1", x=0.01, ha="left", weight="bold")
    one = "" if results.config.dense_per_seed else " of one dense model"
    about = (
        f"{share(at)} of the weights removed in one shot, B = {results.config.block_size}, {results.config.upstream}"
    )
    ax.set_title(f"{about}\n{seeds(min(c.seeds for c in cell.values()))}{one}; each corner at its own λ", loc="left")
    fig.set_label(in_words(results))
    return fig


def _side(
    ax: Axes, x: int, cells: list[pd.Series], worth: str, taken: list[float], gap: float, added: list[float]
) -> None:
    """Beside a column of the plane: both accuracies, and what their parts add up to if it is given, clear of each other and
    of the lines that are `taken`; further out an arrow from the plain score's to the other's.
    """
    out, side = (1, "left") if x else (-1, "right")
    low, high = (one["mean"] for one in cells)
    told = [(one["mean"], _stacked(level_of(one)), dict(weight="bold")) for one in cells]
    told += [(y, f"sum\n{100 * y:.1f}", dict(color="0.4")) for y in added]
    told.sort(key=lambda one: one[0])
    highest = min([line - 0.6 * gap for line in taken if line >= told[-1][0]], default=np.inf)
    room = highest - gap * np.arange(len(told))[::-1]  # of each, with the others above it
    places = np.minimum(apart([y for y, _, _ in told], gap), room)
    for (_, text, style), y in zip(told, places):
        ax.text(x + 0.07 * out, y, text, ha=side, va="center", size=6.5, linespacing=1, **style)
    ends = dict(xy=(x + 0.42 * out, high), xytext=(x + 0.42 * out, low))
    ax.annotate("", **ends, arrowprops=dict(arrowstyle="->", lw=0.8, shrinkA=0, shrinkB=0))
    text = "score\n" + _stacked(worth)
    below = min([(low + high) / 2, *(line - 0.26 * gap * len(text.splitlines()) for line in taken if line >= high)])
    ax.text(x + 0.46 * out, below, text, ha=side, va="center")


def _stacked(text: str) -> str:
    """A mean, its interval, and what is said of it, below each other."""
    return text.replace(" ±", "\n±").replace(" (", "\n(")


def drawn_as(score: str) -> dict[str, Any]:
    """How a score's line is drawn: in the colour of its best known form, with dashes of its own."""
    return look(KNOWN[score]) | dict(ls=LINES[score])


def planes(rows: pd.DataFrame) -> Figure | None:
    """The plane of every score at the three highest sparsities, a column each; a line for each rule of lambda."""
    one_shot = rows[rows.phase == "one_shot"]
    found = {rule: cells(one_shot, rule) for rule in RULES if rule == "own" or (rows.damp_rule == rule).any()}
    found = {rule: here[here["update"].isin(UPDATED)] for rule, here in found.items()}
    at = sorted(set(found["own"].sparsity_target))[-3:]
    if found["own"]["update"].nunique() < 2:
        return None
    fig, grid = plt.subplots(
        len(found), len(at), figsize=(PAGE, 0.75 + 1.75 * len(found)), squeeze=False, sharex=True, sharey="col"
    )
    dense = accuracy(main(one_shot))
    for (rule, here), line in zip(found.items(), grid):
        for sparsity, ax in zip(at, line):
            reference(ax, dense, "dense", "dense")
            for i, score in enumerate(SCORES):
                f = (
                    here[(here.score == score) & (here.sparsity_target == sparsity)]
                    .set_index("update")
                    .reindex(UPDATED)
                )
                x = np.arange(2) + aside(i, len(SCORES), 0.16)
                ax.errorbar(x, f["mean"], f.half.fillna(0), label=f"score: {SHORT[score]}", **drawn_as(score))
            ax.set_xticks((0, 1), [f"kept weights\n{words}" for words in UPDATED.values()])
            ax.set_xlim(-0.25, 1.25)
            percent(ax, axes="y")
            if rule == "own":
                ax.set_title(f"{share(sparsity)} removed")
        line[0].set_ylabel(f"top-1, λ: {RULES[rule]}")
    legend(fig)
    last = found["own"][found["own"].sparsity_target == at[-1]].set_index(["score", "update"])["mean"]
    told = [f"{SHORT[s]} {100 * last[s, 'none']:.1f} to {100 * last[s, 'joint']:.1f} %" for s in SCORES
            if {(s, "none"), (s, "joint")} <= {*last.index}]  # fmt: skip
    fig.set_label(f"Without and with the update at {share(at[-1])}: {', '.join(told)}.")
    return fig
