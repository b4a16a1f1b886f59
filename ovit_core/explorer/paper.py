"""Drawings made with matplotlib: on a notebook's page, and for saving as PNG and SVG."""

import io
import textwrap

import numpy as np
from matplotlib import axes as plt
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path

from ovit_core.explorer.chart import INK, Axes, Bars, Drawing, Gallery, Key, Line, Mark, Points, Raster, Words
from ovit_core.study import plots

WRONG = "#b71c1c"
PITCH, NAMES, LINE = 1.3, 1.4, 0.125  # inches of a gallery: from picture to picture, for the models' names, for a line
SIZE = 7  # points, of its letters


def png(drawing: Drawing) -> bytes:
    """The bytes of a PNG file."""
    with plots.style():
        figure(drawing).savefig(buffer := io.BytesIO(), format="png", dpi=160)
    return buffer.getvalue()


def figure(drawing: Drawing) -> Figure:
    """A figure outside pyplot, so that threads may draw it."""
    with plots.style():
        if isinstance(drawing.body, Gallery):
            fig = _gallery(drawing.body)
        else:
            shares = [a.share for a in drawing.body]
            height = 1.0 + max(a.height for a in drawing.body) / 90
            fig = Figure((max(6.4, 3.4 * len(shares)), height), layout="constrained")
            for ax, a in zip(fig.subplots(1, len(shares), squeeze=False, width_ratios=shares)[0], drawing.body):
                _draw(ax, a, int(11 * fig.get_figwidth() * a.share / sum(shares)))
        if drawing.note:
            fig.supxlabel(textwrap.fill(drawing.note, int(14 * fig.get_figwidth())), fontsize=8)
        if drawing.legend:
            fig.legend(handles=list(map(_key, drawing.legend)), loc="outside upper left", ncols=4, fontsize=8)
    return fig


def _ink(colour: str) -> str:
    return "black" if colour == INK else colour


def _key(key: Key) -> Line2D | Patch:
    if key.alpha < 1:
        return Patch(color=_ink(key.colour), alpha=key.alpha, label=key.label, lw=0)
    fill = "white" if key.hollow else _ink(key.colour)
    look = dict(
        color=_ink(key.colour),
        ls=("--" if key.dashed else "-") if key.lined else "",
        marker=key.marker or None,
        mfc=fill,
    )
    return Line2D([], [], label=key.label, **look)


def _draw(ax: plt.Axes, a: Axes, letters: int) -> None:
    """Axes whose title has room for so many letters a line."""
    for mark in a.marks:
        _mark(ax, a, mark)
    ax.set(xlim=(a.x.low, a.x.high), ylim=(a.y.low, a.y.high), xlabel=a.x.label, ylabel=a.y.label)
    ax.set_title(textwrap.fill(a.title, letters), fontsize=9)
    for axis, scale in ((ax.xaxis, a.x), (ax.yaxis, a.y)):
        axis.set_ticks([value for value, _ in scale.ticks], [label for _, label in scale.ticks], fontsize=8)
    ax.grid(a.grid)


def _mark(ax: plt.Axes, a: Axes, mark: Mark) -> None:
    if isinstance(mark, Line):
        ax.plot(
            mark.x, mark.y, color=_ink(mark.colour), lw=mark.width, ls="--" if mark.dashed else "-", alpha=mark.alpha
        )
    elif isinstance(mark, Points):
        fill = "white" if mark.hollow else _ink(mark.colour)
        ax.plot(mark.x, mark.y, mark.marker, color=_ink(mark.colour), mfc=fill, ms=0.75 * mark.size, ls="")
    elif isinstance(mark, Bars):
        left, right, low, high = (np.asarray(edge) for edge in mark[:4])
        ax.bar(left, high - low, right - left, low, align="edge", color=_ink(mark.colour), alpha=mark.alpha, lw=0)
    elif isinstance(mark, Raster):
        extent = (a.x.low, a.x.high, a.y.low, a.y.high)
        ax.imshow(~mark.dark, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="antialiased", extent=extent)
    elif isinstance(mark, Words):
        ha = dict(start="left", middle="center", end="right")[mark.anchor]
        ax.text(mark.x, mark.y, mark.text, ha=ha, fontsize=8)


def _broken(words: str, weight: str = "normal") -> list[str]:
    """Words in lines that fit below a picture; a word alone that does not is cut."""
    look, room = FontProperties(size=SIZE, weight=weight), PITCH - 0.16
    wide = lambda text: text_to_path.get_text_width_height_descent(text, look, ismath=False)[0] / 72  # inches
    lines = [""]
    for word in words.replace(" %", "\N{NO-BREAK SPACE}%").split(" "):
        if lines[-1] and wide(f"{lines[-1]} {word}") > room:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
        while wide(lines[-1]) > room:
            lines[-1] = lines[-1].rstrip("…")[:-1] + "…"
    return lines


def _gallery(g: Gallery) -> Figure:
    """Pictures side by side, a row of words below them for each model; words that are too long for a column are broken."""
    heads = [_broken(head, "bold") for head in g.heads]
    words = {name: [_broken("✗ " * c.wrong + c.text) for c in cells] for name, cells in g.rows.items()}
    above = LINE * max(map(len, heads)) + 0.1  # inches, of the true classes
    high = {name: LINE * max(map(len, row)) + 0.07 for name, row in words.items()}
    width, height = NAMES + PITCH * len(heads), above + PITCH + sum(high.values()) + 0.6
    fig = Figure((width, height), layout="none")
    say = lambda x, y, text, **how: fig.text(
        x / width, 1 - y / height, text, size=SIZE, linespacing=1.1, parse_math=False, **how
    )
    for column, (image, head) in enumerate(zip(g.images, heads)):
        left, side = NAMES + PITCH * column, 0.85 * PITCH
        ax = fig.add_axes((left / width, 1 - (above + side) / height, side / width, side / height))
        ax.imshow(image)
        ax.set_axis_off()
        say(left, above - 0.04, "\n".join(head), va="bottom", weight="bold")
    y = above + PITCH
    for name, row in words.items():
        say(NAMES - 0.1, y, name, va="top", ha="right", weight="bold")
        for column, (cell, lines) in enumerate(zip(g.rows[name], row)):
            colour = WRONG if cell.wrong else "0.45" if cell.faint else "black"
            say(NAMES + PITCH * column, y, "\n".join(lines), va="top", color=colour)
        y += high[name]
    return fig
