"""What the explorer shows, one picture each, drawn from an `Explorer` at a sparsity: in a widget or on a page."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from ovit_core.explorer import pins
from ovit_core.explorer.chart import INK, Axes, Bars, Cell, Gallery, Key, Line, Points, Raster, Scale, Words
from ovit_core.explorer.picture import Picture
from ovit_core.explorer.pins import Pin
from ovit_core.explorer.solve import Explorer
from ovit_core.explorer.structure import parts
from ovit_core.study.plots import mark

SPARSITIES = (
    0,
    0.3,
    0.5,
    0.6,
    0.7,
    0.8,
    0.85,
    0.9,
    0.93,
    0.95,
    0.97,
    0.98,
    0.99,
    0.995,
    0.999,
)  # ticks, where they fit
LEAST = 0.001  # of the weights that are left: where the axis ends


def left(sparsity: float) -> float:
    """Where a sparsity stands on an axis of the log of what is left: 0 % at 0, 90 % at 1, 99 % at 2."""
    return -float(np.log10(max(1 - sparsity, LEAST)))


def parting(x: Explorer) -> float:
    """The last measured sparsity up to which all methods are as good as dense: within its 95 % interval. 0 if none is."""
    dense = next(iter(x.curve("dense").values()), None)
    curves = [x.curve(method) for method in x.plans]
    if dense is None or not any(curves):
        return 0.0
    lost = [at for curve in curves for at, found in curve.items() if found.accuracy.value < dense.accuracy.low]
    return max((at for curve in curves for at in curve if at < min(lost, default=1.0)), default=0.0)


def accuracy(x: Explorer, sparsity: float, zoom: tuple[float, ...] = (), pinned: Sequence[Pin] = ()) -> Picture:
    """Top-1 against sparsity, of what has been measured so far; a line where the slider stands.

    Args:
        zoom: the sparsities to show, from and to; none for all from where the curves part.
        pinned: other settings' curves to lay under these.
    """
    at, curves = x.pattern.target(sparsity), {method: x.curve(method) for method in x.plans}
    dense = next(iter(x.curve("dense").values()), None)
    low, high = zoom or (min(parting(x), at), max([at, *(s for curve in curves.values() for s in curve)]))
    if left(high) - left(low) < 0.1:  # N:M has one sparsity
        low, high = 1 - 1.5 * (1 - low), 1 - (1 - high) / 1.5
    room = 0.0 if zoom else 0.03 * (left(high) - left(low))
    scale = Scale(
        left(low) - room * (low > 0),
        left(high) + room,
        (),
        "sparsity (zeros / prunable weights), by the log of what is left",
    )
    scale = scale._replace(ticks=_spaced(scale, [(left(s), f"{100 * s:g} %") for s in SPARSITIES]))
    marks, keys, seen = [], [], []
    if dense:
        one = dense.accuracy
        marks += [Bars([scale.low], [scale.high], [one.low], [one.high], alpha=0.08),
                  Line([scale.low, scale.high], [one.value] * 2, dashed=True, width=1.2)]  # fmt: skip
        keys.append(Key(f"dense, {100 * one.value:.1f} %", dashed=True))
        seen += [one.low, one.high]

    now, laid = "", []  # method, curve, label, whether it is pinned
    for other in pinned:
        then, now = pins.labels(other, x)
        laid += [(method, curve, f"{method}, {then}", True) for method, curve in pins.others(other, x).items()]
    laid += [(m, curve, f"{m}, {now}" if now else m, False) for m, curve in curves.items() if curve]
    for method, curve, label, old in laid:
        (colour, marker), u = mark(method), [left(s) for s in curve]
        found = [answers.accuracy for answers in curve.values()]
        marks.append(Line(u, [one.value for one in found], colour, 1.3 if old else 1.8, old, 0.8 if old else 1))
        if not old:
            marks += [Line([v, v], [one.low, one.high], colour, 1.2, alpha=0.8) for v, one in zip(u, found)]
        says = []
        for s, one in zip(curve, found):  # of marks that hide each other the one on top speaks for all
            same = [name for _, its, name, _ in laid if s in its and its[s].correct.sum() == curve[s].correct.sum()]
            says.append(f"{' = '.join(same)} at {100 * s:.4g} %: {one} %")
        marks.append(Points(u, [one.value for one in found], colour, marker, 5.5 if old else 7, old, says))
        keys.append(Key(label, colour, marker, True, old, old))
        seen += [y for v, one in zip(u, found) if scale.low <= v <= scale.high for y in (one.low, one.high)]
    bottom, top = min(seen, default=0.0), max(seen, default=1.0)
    y = _fitted(max(0, bottom - 0.04 * (top - bottom)), min(1, top + 0.06 * (top - bottom)), "{:.3g} %", 100)
    u = left(at)
    marks.append(Line([u, u], [y.low, y.high], INK, 1.4))
    side = "end" if scale.at(u) > 0.85 else "start"
    marks.append(
        Words(
            u + (0.012 if side == "start" else -0.012) * (scale.high - scale.low),
            y.low + 0.03 * (y.high - y.low),
            f"{100 * at:.1f} %",
            side,
        )
    )
    y = y._replace(label=f"top-1 on {len(x.images):,} {x.config.split} images, with 95 % intervals")
    return Picture([Axes(scale, y, marks=marks, height=330)], keys)


def layers(x: Explorer, sparsity: float) -> Picture:
    """The sparsity of each layer, a mark per method."""
    points = x.at(sparsity)
    names, count, total = list(x.surgeon.weights), len(points), x.sparsity(sparsity)
    marks = [Line([total, total], [len(names), 0], dashed=True, width=1.2)]
    for number, (method, point) in enumerate(points.items()):
        gone = [1 - float(point.masks[name].float().mean()) for name in names]
        rows = [row + (number + 0.5) / count * 0.7 + 0.15 for row in range(len(names))]
        says = [f"{method}: {100 * share:.1f} % of {short(name)}" for share, name in zip(gone, names)]
        marks.append(Points(gone, rows, *mark(method), says=says))
    marks += [Line([0, 1], [row, row], alpha=0.1, width=1) for row in range(len(names))]
    first = min(min(mark.x) for mark in marks if isinstance(mark, Points))
    label = f"sparsity of each layer; dashed: of all, {100 * total:.1f} %"
    scale = _fitted(max(0.0, first - 0.04), 1.0, "{:.3g} %", 100)._replace(label=label)
    rows = Scale(len(names), 0, [(row + 0.5, short(name)) for row, name in enumerate(names)])
    axes = Axes(scale, rows, "", marks, max(60, len(names) * max(15, 8 * count)), margin=118, grid=False)
    return Picture([axes], [Key(method, *mark(method), lined=False) for method in points])


def mask(x: Explorer, sparsity: float, layer: str) -> Picture:
    """The mask of one layer, kept weights dark; methods with the same mask once. Of a fused attention queries, keys,
    values and heads are marked.
    """
    rows, columns, heads = parts(x.upstream.model, layer)
    axes = []
    for methods, point in x.twins(sparsity, layer).items():
        kept = point.masks[layer].flatten(1).cpu().numpy()
        high, wide = kept.shape
        edges = [Line([0, wide], [part.start] * 2, "#d6249f", 2) for part in rows[1:]]
        edges += [Line([0, wide], [row] * 2, "#d6249f", 1, dashed=True) for row in heads if row % max(1, high // 3)]
        edges += [Line([part.start] * 2, [0, high], "#d6249f", 1, dashed=True) for part in columns[1:]]
        middle = lambda part: ((part.start + part.stop) / 2, part.label)
        across = (
            _spaced(Scale(0, wide), list(map(middle, columns)), 0.09) if columns else [(0, "0"), (wide, f"{wide:,}")]
        )
        down = list(map(middle, rows)) or [(0, "0"), (high, f"{high:,}")]
        title = f"{' = '.join(methods)}: {100 * (1 - kept.mean()):.1f} % removed"
        scales = Scale(0, wide, across, f"input of {short(layer)}"), Scale(high, 0, down, "")
        axes.append(Axes(*scales, title, [Raster(kept), *edges], int(np.clip(3 * high, 180, 420)), grid=False))
    heads_told = f"; lines: {'q, k, v, dashed ' if rows else ''}heads" if rows or columns else ""
    return Picture(axes, note=f"dark: kept, rows are outputs{heads_told}")


def weights(x: Explorer, sparsity: float, layer: str, method: str) -> Picture:
    """The kept weights of one layer, left alone and corrected, over all of them before."""
    point, colour = x.at(sparsity)[method], mark(method)[0]
    tensors = x.surgeon.weights[layer], point.weights[layer], point.masks[layer]
    before, after, kept = (t.detach().cpu().flatten().numpy() for t in tensors)
    width = max(np.abs(before).max(), np.abs(after).max()) * 1.02
    edges = np.linspace(-width, width, 82)
    highest = np.histogram(before, edges)[0].max() * 1.3
    decades = [(k, f"{10**k:,}") for k in range(int(np.log10(highest)) + 1)]
    y = Scale(-0.3, float(np.log10(highest)), decades, "weights")
    x_scale = _fitted(-width, width, "{:g}", 1)._replace(label=f"value of a weight of {short(layer)}")

    def bars(values: np.ndarray, colour: str, alpha: float) -> Bars:
        count = np.histogram(values, edges)[0]
        there = count > 0
        return Bars(
            edges[:-1][there], edges[1:][there], [y.low] * int(there.sum()), np.log10(count[there]), colour, alpha
        )

    all_of_them = bars(before, INK, 0.18)
    off = Axes(x_scale, y, "update off", [all_of_them, bars(before[kept], colour, 0.8)])
    on = Axes(x_scale, y, f"{method} has no update", [all_of_them])
    if x.plans[method].method.update != "none":
        moved = np.linalg.norm((after - before)[kept]) / max(np.linalg.norm(before[kept]), 1e-30)
        on.title = f"update on: kept weights move by {100 * moved:.0f} % of their norm"
        on.marks.append(bars(after[kept], colour, 0.8))
    return Picture([off, on], [Key("before, all", alpha=0.18), Key(f"after, kept by {method}", colour, alpha=0.8)])


def elimination(x: Explorer, layer: str, method: str, block: int = 0, step: int | None = None) -> Picture:
    """One block after `step` removals (half of all if None): the loss so far, which weights are gone, kept, moved."""
    try:
        found = x.steps(method, layer, block)
    except ValueError as error:  # nothing here has a Fisher
        return Picture([], note=str(error))
    B, colour = len(found.order), mark(method)[0]
    step = B // 2 if step is None else step
    order, gone = found.order.numpy(), found.order[:step].numpy()
    least = float(found.loss["joint"][1:].min().clamp(min=1e-30))
    losses = {u: np.log10(found.loss[u].clamp(min=least / 10).numpy()) for u in ("none", "joint")}
    lowest, highest = losses["joint"][1:].min(), max(line[1:].max() for line in losses.values())
    decades = [(k, f"1e{k}") for k in range(int(np.ceil(lowest)), int(np.floor(highest)) + 1)]
    y = Scale(lowest - 0.1, highest + 0.1, decades[:: max(1, len(decades) // 6)], "increase of the loss expected")
    marks = [Line([step, step], [y.low, y.high], width=1.2)]
    for update, label, ink in (("none", "left alone", INK), ("joint", "corrected", colour)):
        marks.append(Line(range(1, B + 1), losses[update][1:], ink, dashed=update == "none"))
        if step:
            says = f"{step} removed, the others {label}: {float(found.loss[update][step]):.3g}"
            marks.append(Points([step], [losses[update][step]], ink, says=[says]))
    left_axes = Axes(_fitted(0, B, "{:g}", 1)._replace(label="weights removed"), y, f"step {step} of {B}", marks)

    before, now = found.weights["none"][0].numpy(), found.weights["joint"][step].numpy()
    where = np.arange(B)
    bars = lambda values, wide, ink, alpha: Bars(
        where - wide / 2, where + wide / 2, np.minimum(values, 0), np.maximum(values, 0), ink, alpha
    )
    marks = [bars(before, 0.8, INK, 0.2), bars(now, 0.45, colour, 1), Points(gone, np.zeros(step), marker="x", size=5)]
    keys = [
        Key("expected, the others left alone", dashed=True),
        Key("corrected", colour),
        Key("before", alpha=0.2),
        Key("removed", marker="x", lined=False),
    ]
    if 0 < step < B:  # the next to go, and what the last removal moved most
        last = np.abs(now - found.weights["joint"][step - 1].numpy())
        last[gone] = 0
        most, following = last.argmax(), order[step]
        marks += [
            Points(
                [most], [now[most]], marker="o", size=9, hollow=True, says=[f"moved most by the last: weight {most}"]
            ),
            Points([following], [now[following]], marker="*", size=10, says=[f"next to go: weight {following}"]),
        ]
        keys += [Key("moved most", marker="o", lined=False, hollow=True), Key("next to go", marker="*", lined=False)]
    values = np.concatenate([before, now])
    y = _fitted(values.min() * 1.08, values.max() * 1.08, "{:g}", 1)._replace(label="value")
    x_scale = _fitted(-0.7, B - 0.3, "{:g}", 1)._replace(label=f"weight of block {block}, {short(layer)}")
    return Picture([left_axes, Axes(x_scale, y, f"{method}, weight by weight", marks, share=2)], keys)


def examples(x: Explorer, sparsity: float) -> Picture:
    """Images with the class each model takes them for and its confidence, those in dispute first."""
    look, names = x.look(sparsity), x.upstream.data.classes
    dense = look.answers["dense"].taken
    rows = {
        method: [Cell(f"{names[k]} {100 * top:.0f} %", not right, method != "dense" and bool(k == was))
                 for k, top, right, was in zip(found.taken, found.top, found.correct, dense)]
        for method, found in look.answers.items()
    }  # fmt: skip
    note = (
        f"On {look.disputed} of {look.of} images a method at {100 * x.sparsity(sparsity):.1f} % disagrees with the dense "
        "model; those on which most do come first. Above each its true class; ✗ wrong; faint: as the dense model says."
    )
    return Picture(Gallery(list(look.images), [str(names[label]) for label in look.labels], rows), note=note)


def every(x: Explorer, sparsity: float) -> list[Picture]:
    """All views at a sparsity, those of one layer for the first layer and method."""
    layer, method = first(x)
    return [
        accuracy(x, sparsity), layers(x, sparsity), mask(x, sparsity, layer), weights(x, sparsity, layer, method),
        elimination(x, layer, method), examples(x, sparsity),
    ]  # fmt: skip


def first(x: Explorer) -> tuple[str, str]:
    """The layer and the method that single-layer views begin with."""
    return next(iter(x.surgeon.weights)), next(iter(x.plans))


def short(layer: str) -> str:
    return layer.removesuffix(".weight")


def _fitted(low: float, high: float, form: str, times: float) -> Scale:
    """A scale with round ticks."""
    ticks = [v for v in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= v <= high]
    return Scale(low, high, [(float(v), form.format(times * round(float(v), 12))) for v in ticks])


def _spaced(scale: Scale, ticks: Sequence[tuple[float, str]], apart: float = 0.07) -> list[tuple[float, str]]:
    """Those ticks that lie on a scale and a part of it away from the one before."""
    kept: list[tuple[float, str]] = []
    for value, label in ticks:
        if -1e-9 <= scale.at(value) <= 1 + 1e-9 and (not kept or scale.at(value) - scale.at(kept[-1][0]) >= apart):
            kept.append((value, label))
    return kept
