"""A forest of comparisons: one line each with its interval, by family, marked where it is resolved after Holm."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath
from matplotlib.ticker import NullLocator
from matplotlib.transforms import blended_transform_factory

from ovit_core.study.families import ACCURACY, SILENT, Family
from ovit_core.study.plots import COLUMN, PAGE
from ovit_core.study.statistics import ACCURACIES, spread

LINE, TOP, AXIS, LEGEND = 0.132, 0.06, 0.36, 0.24  # inches: of a line, above all, below an axis, of the legend
INDENT, NUMBERS = 0.14, 0.76  # what stands left of a label and right of an axis
GAP, HANG = 0.45, AXIS / LINE  # lines between families, and of ticks between two axes
MANY = 34  # lines: more stand in two columns
WRAP = 64  # letters of a heading
WIDE = 30.0  # points, beyond which an axis is logarithmic outside of ± LINEAR: it has to show single points as well
LINEAR, TICKS = 10.0, (-100, -30, -10, 0, 10, 30, 100)
MARKS = {  # verdict -> marker, its face, in words
    "resolved": ("o", "black", "resolved after Holm"),
    "not resolved": ("o", "white", "not resolved"),
    "same": ("D", "white", "no difference beyond the margin"),
    "no interval": ("x", "black", "no interval"),
}
WORDS = {verdict: words for verdict, (_, _, words) in MARKS.items()} | {
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
    """All comparisons of families, whose lines `differences` holds in the same order; None without any to show. Those that
    are not in points of accuracy have an axis of their own, at the end. The figure's label counts the verdicts.
    """
    points: list[Block] = []
    others: list[Block] = []
    silent: list[str] = []
    for family in families:
        lines = differences[differences.family == family.name]
        accuracy = lines.metric.isin((*ACCURACIES, ACCURACY)).all()
        if SILENT in set(lines.verdict):
            silent.append(family.title)
        else:
            (points if accuracy else others).append(_block(family, lines, 100 if accuracy else 1))
    if not (differences[differences.verdict != SILENT].n > 0).any():
        return None
    points, others = (points, others) if points else (others, points)
    below = _height(others) + HANG if others else 0.0
    columns = _columns(points, below)
    notes = textwrap.wrap(f"Nothing is said of {'; '.join(silent)}.", WRAP * len(columns)) if silent else []
    rows = max(_height(blocks) + below * (blocks is columns[-1]) for blocks in columns)
    height = TOP + LINE * (rows + len(notes)) + AXIS + LEGEND
    fig = plt.figure(figsize=(COLUMN if len(columns) == 1 else PAGE, height))
    fig.set_layout_engine(PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=False))
    left = _labels(points + others)
    for i, blocks in enumerate(columns):
        _draw(_axes(fig, i, 0, _height(blocks), left), blocks, _limits(points), left)
    if others:
        below = _axes(fig, len(columns) - 1, _height(columns[-1]) + HANG, _height(others), left)
        _draw(below, others, _limits(others), left)
    _legend(fig, set(differences.verdict), LINE * len(notes) / height)
    fig.text(0.01, 0.02 / height, "\n".join(notes), color="0.4", size=6.5, va="bottom")
    fig.set_label(told(differences))
    return fig


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
    return _wrapped(family.title) + named


def _height(blocks: Sequence[Block]) -> float:
    """How many lines high families are."""
    return sum(map(len, blocks)) + GAP * max(len(blocks) - 1, 0)


def _columns(blocks: list[Block], below: float) -> list[list[Block]]:
    """Families in one column, or in two as equally high as can be, the second with so much below it."""
    if _height(blocks) + below <= MANY or len(blocks) < 2:
        return [blocks]
    cut = min(range(1, len(blocks)), key=lambda i: max(_height(blocks[:i]), _height(blocks[i:]) + below))
    return [blocks[:cut], blocks[cut:]]


def _labels(blocks: Sequence[Block]) -> float:
    """Inches that the longest label needs, left of an axis."""
    size = plt.rcParams["font.size"]
    texts = [line.text for block in blocks for line in block if line.of is not None]
    return INDENT + max(TextPath((0, 0), text, size=size).get_extents().width for text in texts) / 72


def _axes(fig: Figure, column: int, down: float, lines: float, left: float) -> Axes:
    """Axes in a column for so many lines, so many lines down, so many inches from its left."""
    width, height = fig.get_size_inches()
    place = COLUMN + (PAGE - 2 * COLUMN) if column else 0.0
    bottom = height - TOP - LINE * (down + lines)
    ax = fig.add_axes(
        ((place + left) / width, bottom / height, (COLUMN - left - NUMBERS) / width, LINE * lines / height)
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


def _draw(ax: Axes, blocks: Sequence[Block], limits: tuple[float, float], labels: float) -> None:
    """Families one below the other, down an axis in the unit of the last line, with so many inches for labels."""
    wide = COLUMN - labels - NUMBERS  # of the axis
    left, right = 0.03 - labels / wide, NUMBERS / wide + 0.98
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
                ax.text(right, y, _mark(ax, y, line.of), transform=text, va="center", ha="right")
            y += 1
        y += GAP
    if max(map(abs, limits)) > WIDE:
        ax.set_xscale("symlog", linthresh=LINEAR, linscale=0.6)
        ticks = [tick for tick in TICKS if limits[0] <= tick <= limits[1]]
        ax.set_xticks(ticks, map(_signed, ticks))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.locator_params(axis="x", nbins=5)
        ax.xaxis.set_major_formatter(lambda v, _: _signed(v))
    ax.set_xlim(limits)
    metric = blocks[-1][-1].of.metric
    bent = f", linear within ±{LINEAR:g}" if ax.get_xscale() == "symlog" else ""
    ax.set_xlabel(UNITS.get(metric, metric) + bent, labelpad=1)


def _signed(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


def _mark(ax: Axes, y: float, line: pd.Series) -> str:
    """Draws a comparison at a height; its numbers."""
    if line.verdict not in MARKS:
        return WORDS[line.verdict]
    marker, face, _ = MARKS[line.verdict]
    half = line.high - line["mean"]
    if line.margin == line.margin:
        ax.fill_betweenx((y - 0.5, y + 0.5), -line.margin, line.margin, color="0.9", lw=0, zorder=0)
    ax.plot((line.low, line.high), (y, y), color="black", lw=0.9)
    ax.plot(line["mean"], y, marker=marker, mfc=face, mec="black", mew=0.8, ms=3.6, ls="")
    return spread(line["mean"], half, "+.1f" if line.margin == line.margin else "+.2f", 1).replace("-", "−")


def _legend(fig: Figure, verdicts: set[str], above: float) -> None:
    """What marks mean, so far above the lower edge."""
    marks = [
        Line2D([], [], ls="", marker=marker, mfc=face, mec="black", mew=0.8, ms=3.6, label=words)
        for verdict, (marker, face, words) in MARKS.items() if verdict in verdicts
    ]  # fmt: skip
    marks += [Patch(color="0.9", label="the margin of no difference")]
    fig.legend(
        handles=marks,
        loc="lower center",
        bbox_to_anchor=(0.5, above),
        ncols=4 if fig.get_figwidth() > COLUMN else 2,
        handletextpad=0.1,
        columnspacing=1,
        borderaxespad=0.1,
    )
