"""Drawings as HTML with SVG inside: as wide as the page, sharp, in its colours, and their points say their values.

Places across are in percent and heights in pixels, so that nothing is drawn anew when the page changes its width, and
letters keep their size.
"""

import base64
import io
from functools import cache
from html import escape

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle
from PIL import Image

from ovit_core.explorer.chart import INK, Axes, Bars, Drawing, Gallery, Key, Line, Mark, Points, Raster, Words

STYLE = """<style>
.ovit{color:var(--jp-ui-font-color0,#111);font:12px var(--jp-ui-font-family,sans-serif);line-height:1.35}
.ovit-row{display:flex;flex-wrap:wrap;gap:4px 18px}
.ovit-axes{min-width:min(100%,300px);box-sizing:border-box}
.ovit svg{overflow:visible;display:block}.ovit svg svg.ovit-in{overflow:hidden}
.ovit text{fill:currentColor}.ovit-key{display:inline-flex;align-items:center;gap:5px;margin:0 14px 2px 0}
.ovit-says{display:none;font-weight:600;paint-order:stroke;stroke:var(--jp-layout-color1,#fff);stroke-width:5px}
.ovit-point{outline:none}.ovit-point:hover .ovit-says,.ovit-point:focus .ovit-says{display:block}
.ovit-point:hover .ovit-ring,.ovit-point:focus .ovit-ring{stroke:currentColor}
.ovit-many{overflow-x:auto}.ovit table{border-collapse:collapse}.ovit td,.ovit th{padding:2px 8px;text-align:left}
.ovit-many td,.ovit-many th{text-align:center;font-weight:400;min-width:72px;max-width:110px;overflow-wrap:anywhere}
.ovit-many th:first-child{white-space:nowrap;position:sticky;left:0;background:var(--jp-layout-color1,#fff);text-align:left;min-width:96px}
.ovit-wrong{font-weight:700;color:#b71c1c}body[data-jp-theme-light=false] .ovit-wrong{color:#ef9a9a}
.ovit-faint{opacity:.6}
</style>"""
ROUND = 9  # pixels: what can be pointed at


def html(drawing: Drawing) -> str:
    """A drawing as HTML that fills the width there is."""
    legend = "".join(map(_key, drawing.legend))
    body = _gallery(drawing.body) if isinstance(drawing.body, Gallery) else _row(drawing.body)
    note = f"<div>{escape(drawing.note)}</div>" if drawing.note else ""
    return f"{STYLE}<div class='ovit'><div>{legend}</div>{body}{note}</div>"


def _row(axes: list[Axes]) -> str:
    return f"<div class='ovit-row'>{''.join(map(_axes, axes))}</div>"


def ink(colour: str) -> str:
    """A colour of matplotlib's as CSS has it."""
    return "currentColor" if colour == INK else to_hex(colour)


@cache
def shape(marker: str) -> str:
    """The path of a marker, one unit across."""
    style = MarkerStyle(marker)
    parts = style.get_path().transformed(style.get_transform()).to_polygons(closed_only=False)
    scale = 0.6 if marker == "." else 1.0
    return "".join("M" + "L".join(f"{scale * x:.3f},{-scale * y:.3f}" for x, y in part) + "Z" for part in parts)


def marker(name: str, colour: str, size: float, hollow: bool) -> str:
    """A marker around the origin."""
    fill = "var(--jp-layout-color1,#fff)" if hollow or name == "x" else ink(colour)
    look = f"fill='{fill}' stroke='{ink(colour)}' stroke-width='{1.5 / size:.3f}'"
    return f"<path d='{shape(name)}' transform='scale({size})' {look}/>"


def _key(key: Key) -> str:
    dash = " stroke-dasharray='4 3'" if key.dashed else ""
    line = key.lined * f"<line x1='-11' x2='11' y1='0' y2='0' stroke='{ink(key.colour)}' stroke-width='2'{dash}/>"
    if key.alpha < 1:
        line = f"<rect x='-9' y='-5' width='18' height='10' fill='{ink(key.colour)}' opacity='{key.alpha}'/>"
    mark = marker(key.marker, key.colour, 7, key.hollow) if key.marker else ""
    return f"<span class='ovit-key'><svg width='26' height='14' viewBox='-13 -7 26 14'>{line}{mark}</svg>{escape(key.label)}</span>"


def _axes(a: Axes) -> str:
    """Grid and ticks below, marks clipped to the axes above them, what is said on top."""
    across = lambda x: f"{100 * a.x.at(x):.3f}%"
    down = lambda y: a.height * (1 - a.y.at(y))
    out, quiet = [], "stroke='currentColor' stroke-opacity='.14'"
    for value, label in a.x.ticks:
        if a.grid:
            out.append(f"<line x1='{across(value)}' x2='{across(value)}' y1='0' y2='{a.height}' {quiet}/>")
        out.append(f"<text x='{across(value)}' y='{a.height + 15}' text-anchor='middle'>{escape(label)}</text>")
    for value, label in a.y.ticks:
        if a.grid:
            out.append(f"<line x1='0' x2='100%' y1='{down(value):.1f}' y2='{down(value):.1f}' {quiet}/>")
        out.append(f"<text x='-6' y='{down(value) + 4:.1f}' text-anchor='end'>{escape(label)}</text>")
    out.append(f"<line x1='0' x2='100%' y1='{a.height}' y2='{a.height}' stroke='currentColor' stroke-opacity='.5'/>")
    inside = "".join(_mark(a, mark) for mark in a.marks if isinstance(mark, Line | Bars | Raster))
    out.append(f"<svg class='ovit-in' width='100%' height='{a.height}'>{inside}</svg>")
    out += [_mark(a, mark) for mark in a.marks if isinstance(mark, Points | Words)]
    title = f"<div><b>{escape(a.title)}</b></div>" if a.title else ""
    head = title + escape(a.y.label)
    svg = f"<svg width='100%' height='{a.height}'>{''.join(out)}</svg>"
    box = f"flex:{a.share} 1 300px;padding:2px 22px 4px {a.margin}px"
    return (
        f"<div class='ovit-axes' style='{box}'><div style='margin:0 0 10px {4 - a.margin}px'>{head}</div>{svg}"
        f"<div style='text-align:center;margin-top:20px'>{escape(a.x.label)}</div></div>"
    )


def _mark(a: Axes, mark: Mark) -> str:
    at = lambda x: 100 * a.x.at(x)
    down = lambda y: a.height * (1 - a.y.at(y))
    if isinstance(mark, Line):
        points = " ".join(f"{10 * at(x):.1f},{down(y):.1f}" for x, y in zip(mark.x, mark.y))
        dash = " stroke-dasharray='5 4'" if mark.dashed else ""
        look = f"stroke='{ink(mark.colour)}' stroke-width='{mark.width}' stroke-opacity='{mark.alpha}'{dash}"
        line = f"<polyline points='{points}' fill='none' vector-effect='non-scaling-stroke' {look}/>"
        return f"<svg width='100%' height='{a.height}' viewBox='0 0 1000 {a.height}' preserveAspectRatio='none'>{line}</svg>"
    if isinstance(mark, Bars):
        parts = []
        for left, right, low, high in zip(mark.left, mark.right, mark.low, mark.high):
            (x0, x1), (y0, y1) = sorted((at(left), at(right))), sorted((down(low), down(high)))
            parts.append(f"<rect x='{x0:.3f}%' y='{y0:.1f}' width='{x1 - x0:.3f}%' height='{y1 - y0:.1f}'/>")
        return f"<g fill='{ink(mark.colour)}' fill-opacity='{mark.alpha}'>{''.join(parts)}</g>"
    if isinstance(mark, Raster):
        crisp = "image-rendering:pixelated" if mark.dark.shape[1] < 400 else ""
        pixels = np.where(mark.dark, 45, 244).astype(np.uint8)
        return f"<image width='100%' height='{a.height}' preserveAspectRatio='none' style='{crisp}' href='{_png(pixels)}'/>"
    if isinstance(mark, Words):
        where = f"x='{at(mark.x):.2f}%' y='{down(mark.y):.1f}' text-anchor='{mark.anchor}'"
        return f"<text {where} style='paint-order:stroke;stroke:var(--jp-layout-color1,#fff);stroke-width:4px'>{escape(mark.text)}</text>"
    drawn = marker(mark.marker, mark.colour, mark.size, mark.hollow)
    there = [i for i, (x, y) in enumerate(zip(mark.x, mark.y)) if _inside(a, x, y)]
    return "".join(_point(at(mark.x[i]), down(mark.y[i]), drawn, mark.says[i] if len(mark.says) else "") for i in there)


def _inside(a: Axes, x: float, y: float) -> bool:
    return all(-1e-6 <= scale.at(value) <= 1 + 1e-6 for scale, value in ((a.x, x), (a.y, y)))


def _point(x: float, y: float, drawn: str, says: str) -> str:
    """A marker at `x` percent and `y` pixels, with the text it shows when it is pointed at."""
    here = f"<svg x='{x:.3f}%' y='{y:.1f}'>"
    if not says:
        return f"{here}{drawn}</svg>"
    anchor = "start" if x < 30 else "end" if x > 70 else "middle"
    ring = f"<circle class='ovit-ring' r='{ROUND}' fill='transparent'/>"
    text = f"<text class='ovit-says' y='{-13 if y > 30 else 24}' text-anchor='{anchor}'>{escape(says)}</text>"
    return (
        f"<g class='ovit-point' tabindex='0' role='img' aria-label='{escape(says)}'>{here}{ring}{drawn}{text}</svg></g>"
    )


def _png(pixels: np.ndarray) -> str:
    """The address of an image that holds itself: (h, w) or (h, w, 3) uint8."""
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _gallery(g: Gallery) -> str:
    pictures = [
        f"<th>{escape(head)}<br><img alt='{escape(head)}' width='96' style='image-rendering:pixelated' src='{_png(image)}'></th>"
        for head, image in zip(g.heads, g.images)
    ]
    rows = [f"<tr><th></th>{''.join(pictures)}</tr>"]
    for name, cells in g.rows.items():
        looks = (
            f"<td class='{'ovit-wrong' * c.wrong} {'ovit-faint' * c.faint}'>{'✗ ' * c.wrong}{escape(c.text)}</td>"
            for c in cells
        )
        rows.append(f"<tr><th><b>{escape(name)}</b></th>{''.join(looks)}</tr>")
    return f"<div class='ovit-many'><table>{''.join(rows)}</table></div>"
