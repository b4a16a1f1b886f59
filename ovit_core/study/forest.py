"""A forest of comparisons: one line each with its interval, by family, marked where it is resolved after Holm."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import NullLocator
from matplotlib.transforms import blended_transform_factory

from ovit_core.study.families import ACCURACY, SILENT, Family, over, within
from ovit_core.study.plots import COLUMN, PAGE, bare
from ovit_core.study.statistics import ACCURACIES
from ovit_core.study.wording import signed, spread

LINE, TOP, AXIS = 0.132, 0.06, 0.36  # inches: of a line, above all, below an axis
INDENT = 0.14  # left of a label and of a number
GAP, HANG = 0.45, AXIS / LINE  # lines between families, and of ticks between two axes
MANY = 34  # lines: more stand in two columns
WRAP = 64  # letters of a heading
WIDE = 30.0  # points, beyond which an axis is logarithmic outside of ± LINEAR: it has to show single points as well
LINEAR, TICKS = 10.0, (-100, -30, -10, 0, 10, 30, 100)
INSIDE = "resolved inside"
MARKS = {  # verdict -> marker, its face, in words
    "resolved": ("o", "black", "resolved after Holm"),
    "not resolved": ("o", "white", "not resolved"),
    INSIDE: ("D", "black", "resolved, inside the margin"),
    "same": ("D", "white", "no difference beyond the margin"),
    "no interval": ("x", "black", "no interval"),
}
WORDS = {verdict: words for verdict, (_, _, words) in MARKS.items() if verdict != INSIDE} | {
    SILENT: "of sets that tell nothing",
    "not run": "not run",
}


UNITS = dict.fromkeys((*ACCURACIES, ACCURACY), "points of accuracy") | dict(cross_entropy="nats")


class Line(NamedTuple):
    """A line of a forest: part of a heading, or a comparison in points or in the unit of its metric."""

    text: str
    of: pd.Series | None = None


Block = list[Line]  # a family


def forest(families: Sequence[Family], differences: pd.DataFrame) -> Figure | None:
    """All comparisons of families, whose lines `differences` holds in the same order, perhaps among others; None without any
    to show. Those that are not in points of accuracy have an axis of their own, at the end. The figure's label counts the
    verdicts.
    """
    points: list[Block] = []
    others: list[Block] = []
    silent: list[str] = []
    means: dict[str, list[str]] = {}  # datasets -> the families that are means over them
    differences = differences[differences.family.isin([family.name for family in families])]
    for family in families:
        lines = differences[differences.family == family.name]
        accuracy = lines.metric.isin((*ACCURACIES, ACCURACY)).all()
        if SILENT in set(lines.verdict):
            silent.append(family.title)
        else:
            if names := bare(over(family, lines)):
                means.setdefault(", ".join(sorted(names.split(", "))), []).append(family.title)
            (points if accuracy else others).append(_block(family, lines, 100 if accuracy else 1))
    if not (differences[differences.verdict != SILENT].n > 0).any():
        return None
    points, others = (points, others) if points else (others, points)
    below = _height(others) + HANG if others else 0.0
    columns = _columns(points, below)
    said = [*_means(means), *([f"Nothing is said of {_together(silent)}."] if silent else [])]
    notes = [line for note in said for line in textwrap.wrap(note, WRAP * len(columns))]
    rows = max(_height(blocks) + below * (blocks is columns[-1]) for blocks in columns)
    marks = _marks({_kind(line) for _, line in differences.iterrows()})
    across = 3 if len(columns) > 1 else 2
    height = TOP + LINE * (rows + len(notes) - (-len(marks) // across)) + AXIS
    fig = plt.figure(figsize=(COLUMN if len(columns) == 1 else PAGE, height))
    fig.set_layout_engine(PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=False))
    for i, blocks in enumerate(columns):
        _draw(_axes(fig, i, 0, _height(blocks), _sides(points)), blocks, _limits(points), _sides(points))
    if others:
        below = _axes(fig, len(columns) - 1, _height(columns[-1]) + HANG, _height(others), _sides(others))
        _draw(below, others, _limits(others), _sides(others))
    _legend(fig, marks, across, LINE * len(notes) / height)
    fig.text(0.01, 0.02 / height, "\n".join(notes), color="0.4", size=6.5, va="bottom")
    fig.set_label(told(differences))
    return fig


def _means(families: Mapping[str, list[str]]) -> list[str]:
    """Which datasets means are over: once, if all are over the same, else for each its families."""
    if len(families) == 1:
        return [f"Means are over the sets that tell something: {next(iter(families))}."]
    return [f"Over {names}: {_together(titles)}." for names, titles in families.items()]


def _together(titles: Sequence[str]) -> str:
    """Titles "what, how" in words, each how once."""
    by: dict[str, list[str]] = {}
    for title in titles:
        what, _, how = bare(title).partition(", ")
        by.setdefault(how, []).append(what)
    return "; ".join(f"{how}: {', '.join(whats)}" if how else ", ".join(whats) for how, whats in by.items())


def told(differences: pd.DataFrame) -> str:
    """How many comparisons have which verdict."""
    counts = differences.verdict.value_counts()
    said = ", ".join(f"{counts[verdict]} {words}" for verdict, words in WORDS.items() if verdict in counts)
    return f"Of {len(differences)} comparisons: {said}."


def _wrapped(text: str) -> Block:
    """A text over as many lines as it needs."""
    return [Line(part) for part in textwrap.wrap(text.replace(" %", "\N{NO-BREAK SPACE}%"), WRAP)]


def _block(family: Family, lines: pd.DataFrame, scale: float) -> Block:
    """A family's heading and its lines, in its own unit."""
    scaled = lines.assign(**{name: scale * lines[name] for name in ("mean", "low", "high", "margin")})
    named = [Line(one.short or one.what, line) for one, (_, line) in zip(family.contrasts, scaled.iterrows())]
    return _wrapped(bare(family.title)) + named


def _height(blocks: Sequence[Block]) -> float:
    """How many lines high families are."""
    return sum(map(len, blocks)) + GAP * max(len(blocks) - 1, 0)


def _columns(blocks: list[Block], below: float) -> list[list[Block]]:
    """Families in one column, or in two as equally high as can be, the second with so much below it."""
    if _height(blocks) + below <= MANY or len(blocks) < 2:
        return [blocks]
    cut = min(range(1, len(blocks)), key=lambda i: max(_height(blocks[:i]), _height(blocks[i:]) + below))
    return [blocks[:cut], blocks[cut:]]


def _sides(blocks: Sequence[Block]) -> tuple[float, float]:
    """Inches that the longest label needs, left of an axis, and the longest numbers, right of it."""
    size, lines = plt.rcParams["font.size"], [line for block in blocks for line in block if line.of is not None]
    wide = lambda texts: INDENT + max(TextPath((0, 0), text, size=size).get_extents().width for text in texts) / 72
    return wide(line.text for line in lines), wide(_numbers(line.of) for line in lines)


def _axes(fig: Figure, column: int, down: float, lines: float, sides: tuple[float, float]) -> Axes:
    """Axes in a column for so many lines, so many lines down, so many inches from its sides."""
    width, height = fig.get_size_inches()
    place = COLUMN + (PAGE - 2 * COLUMN) if column else 0.0
    bottom = height - TOP - LINE * (down + lines)
    ax = fig.add_axes(
        ((place + sides[0]) / width, bottom / height, (COLUMN - sum(sides)) / width, LINE * lines / height)
    )
    ax.set_ylim(lines, 0)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    return ax


def _limits(blocks: Sequence[Block]) -> tuple[float, float]:
    """What all intervals and zero lie within."""
    ends = [
        line.of[end] for block in blocks for line in block if line.of is not None for end in ("low", "high", "mean")
    ]
    low, high = np.nanmin([0, *ends]), np.nanmax([0, *ends])
    room = 0.04 * (high - low)
    return (1.2 * low if low < -WIDE else low - room), (1.2 * high if high > WIDE else high + room)


def _draw(ax: Axes, blocks: Sequence[Block], limits: tuple[float, float], sides: tuple[float, float]) -> None:
    """Families one below the other, down an axis in the unit of the last line, with so many inches on its sides."""
    wide = COLUMN - sum(sides)  # of the axis
    left, right = 0.03 - sides[0] / wide, sides[1] / wide + 0.98
    text = blended_transform_factory(ax.transAxes, ax.transData)
    y = 0.5
    ax.axvline(0, color="black", lw=0.7)
    bare = dict(facecolor="white", lw=0, pad=1)  # nothing of the axis runs through a heading
    for block in blocks:
        for line in block:
            if line.of is None:
                ax.text(left, y, line.text, transform=text, va="center", weight="bold", size=6.5, bbox=bare)
            else:
                ax.text(left + 0.05, y, line.text, transform=text, va="center")
                _mark(ax, y, line.of)
                ax.text(right, y, _numbers(line.of), transform=text, va="center", ha="right")
            y += 1
        y += GAP
    if max(map(abs, limits)) > WIDE:
        ax.set_xscale("symlog", linthresh=LINEAR, linscale=0.6)
        ticks = [tick for tick in TICKS if limits[0] <= tick <= limits[1]]
        ax.set_xticks(ticks, [signed(tick, "+g") for tick in ticks], size=6)  # ±10 and ±30 lie close to each other
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.locator_params(axis="x", nbins=5)
        ax.xaxis.set_major_formatter(lambda v, _: signed(v, "+g"))
    ax.set_xlim(limits)
    metric = blocks[-1][-1].of.metric
    bent = f", linear within ±{LINEAR:g}" if ax.get_xscale() == "symlog" else ""
    ax.set_xlabel(UNITS.get(metric, metric) + bent, labelpad=1)


def _mark(ax: Axes, y: float, line: pd.Series) -> None:
    """Draws a comparison at a height."""
    if line.verdict not in MARKS:
        return
    marker, face, _ = MARKS[_kind(line)]
    if line.margin == line.margin:
        ax.fill_betweenx((y - 0.5, y + 0.5), -line.margin, line.margin, color="0.9", lw=0, zorder=0)
    ax.plot((line.low, line.high), (y, y), color="black", lw=0.9)
    ax.plot(line["mean"], y, marker=marker, mfc=face, mec="black", mew=0.8, ms=3.6, ls="")


def _numbers(line: pd.Series) -> str:
    """A comparison's size and interval, or why it has none."""
    if line.verdict not in MARKS:
        return WORDS[line.verdict]
    form = "+.1f" if line.margin == line.margin else "+.3f"
    return spread(line["mean"], line.high - line["mean"], form, 1)


def _kind(line: pd.Series) -> str:
    """The verdict, or INSIDE: surely a difference, and surely a small one."""
    return INSIDE if line.verdict == "resolved" and within(line) else line.verdict


def _marks(kinds: set[str]) -> list[Line2D]:
    """What stands in the legend."""
    marks: list[Line2D] = [
        Line2D([], [], ls="", marker=marker, mfc=face, mec="black", mew=0.8, ms=3.6, label=words)
        for kind, (marker, face, words) in MARKS.items() if kind in kinds
    ]  # fmt: skip
    return [*marks, Line2D([], [], ls="", marker="s", color="0.9", ms=6, label="the margin of no difference")]


def _legend(fig: Figure, marks: list[Line2D], across: int, above: float) -> None:
    """What marks mean, so many in a line, so far above the lower edge."""
    fig.legend(
        handles=marks,
        loc="lower center",
        bbox_to_anchor=(0.5, above),
        ncols=across,
        handletextpad=0.1,
        columnspacing=1,
        borderaxespad=0.1,
        labelspacing=0.3,
    )
