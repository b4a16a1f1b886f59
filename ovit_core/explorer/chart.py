"""What a view is made of: plain values, which `page` shows in a browser at any width and `paper` draws with matplotlib.

Coordinates are those of the data, already on the scale on which they are shown (a logarithm is taken by the view).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

INK = "ink"  # what the page writes with: black on paper, light in a dark theme; no method has it


class Scale(NamedTuple):
    """An axis from `low`, on the left or below, to `high`; `high` may be the smaller one."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]] = ()
    label: str = ""

    def at(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`."""
        return (value - self.low) / (self.high - self.low)


class Line(NamedTuple):
    """A line through points, behind them."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str = INK
    width: float = 1.5
    dashed: bool = False
    alpha: float = 1.0


class Points(NamedTuple):
    """Markers, as matplotlib names them; each may say its values when it is pointed at, clicked or tabbed to."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str = INK
    marker: str = "o"
    size: float = 6.5
    hollow: bool = False
    says: Sequence[str] = ()


class Bars(NamedTuple):
    """Rectangles."""

    left: Sequence[float]
    right: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: str = INK
    alpha: float = 1.0


class Raster(NamedTuple):
    """Pixels that fill the axes: (h, w) boolean, True dark; the first row lies on top."""

    dark: np.ndarray


class Words(NamedTuple):
    """A text beside a point: `anchor` start, middle or end."""

    x: float
    y: float
    text: str
    anchor: str = "middle"


Mark = Line | Points | Bars | Raster | Words


@dataclass
class Axes:
    """Marks on two scales; `share` of the width, `height` in pixels, `margin` on the left for the labels."""

    x: Scale
    y: Scale
    title: str = ""
    marks: list[Mark] = field(default_factory=list)
    height: int = 300
    share: float = 1.0
    margin: int = 48
    grid: bool = True


class Key(NamedTuple):
    """An entry of the legend: a marker, a line if it is `lined`, an area where alpha is below 1."""

    label: str
    colour: str = INK
    marker: str = ""
    lined: bool = True
    dashed: bool = False
    hollow: bool = False
    alpha: float = 1.0


class Cell(NamedTuple):
    """What one model makes of one image."""

    text: str
    wrong: bool = False
    faint: bool = False


@dataclass
class Gallery:
    """Images side by side, with a row of cells under them for each model."""

    images: list[np.ndarray]  # (h, w, 3) uint8
    heads: list[str]  # above each image
    rows: dict[str, list[Cell]]


@dataclass
class Drawing:
    """What is seen at once: axes side by side or a gallery, with a legend above and a sentence below."""

    body: list[Axes] | Gallery
    legend: list[Key] = field(default_factory=list)
    note: str = ""
