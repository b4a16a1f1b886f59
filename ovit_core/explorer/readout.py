"""Numbers beside the slider: what each method has left here, and how sure that is."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from ovit_core.explorer import pins
from ovit_core.explorer.pins import Pin

if TYPE_CHECKING:
    from ovit_core.explorer.answers import Answers
    from ovit_core.explorer.solve import Explorer

COLUMNS = "top-1 in %", "loss", "points from dense", "most removed from"
WAITING = "…"  # being measured, or to be once the slider rests


def table(x: "Explorer", sparsity: float, pinned: Sequence[Pin] = ()) -> pd.DataFrame:
    """A line for dense, each method, and what is pinned where it was measured at this sparsity: top-1 with its interval,
    cross-entropy, the difference to dense on the same images with a paired interval, and the layers that lost most.
    """
    dense, at = x.answers("dense", 0.0), x.pattern.target(sparsity)
    lines = {"dense": _line(dense, dense)}
    for method, point in x.at(sparsity).items():
        gone = {name: 1 - float(mask.float().mean()) for name, mask in point.masks.items()}
        most = sorted(gone, key=gone.__getitem__, reverse=True)[:3]
        hit = ", ".join(f"{name.removesuffix('.weight')} {100 * gone[name]:.0f} %" for name in most)
        lines[method] = (*_line(x.answers(method, sparsity), dense)[:3], hit)
    for pin in pinned:
        then, _ = pins.labels(pin, x)
        own = next(iter(pin.curves["dense"].values()), None)
        for method, curve in pins.others(pin, x).items():
            if at in curve:
                lines[f"{method}, {then}"] = _line(curve[at], own)
    return pd.DataFrame.from_dict(lines, orient="index", columns=COLUMNS)


def _line(found: "Answers | None", dense: "Answers | None") -> tuple[str, str, str, str]:
    if found is None:
        return WAITING, WAITING, WAITING, ""
    apart = "" if found is dense else f"{found.minus(dense)}" if dense else WAITING
    return str(found.accuracy), f"{found.cross_entropy:.3f}", apart, ""


def html(found: pd.DataFrame) -> str:
    """The table for a page."""
    return found.to_html(border=0)


def head(x: "Explorer") -> str:
    """The model on show and its dense top-1; a warning where that is near chance."""
    c, dense = x.config, x.answers("dense", 0.0)
    said = (
        f"<b>{escape(c.model)}</b> on <b>{escape(c.upstream)}</b>, {len(x.upstream.data.classes)} classes: dense top-1 "
    )
    if dense is None:
        return said + WAITING
    said += (
        f"<b>{100 * dense.accuracy.value:.1f} %</b> [{100 * dense.accuracy.low:.1f}, {100 * dense.accuracy.high:.1f}]"
    )
    said += f" on {len(x.images):,} {c.split} images; always the most frequent class: {100 * dense.chance:.1f} %"
    if (bound := dense.near_chance) is None:
        return said
    return said + (
        f"<div class='ovit-warning'><b>⚠ Near chance:</b> the interval reaches down to {100 * bound:.0f} % (twice chance, "
        "or halfway from it to 100 %). Pruning such a model shows little; train it longer, or take another.</div>"
    )
