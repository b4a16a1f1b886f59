"""What the explorer shows, one figure each, drawn from an `Explorer` at a sparsity: in a widget or on a page."""

import io
from collections.abc import Callable
from functools import wraps

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovit_core.explorer.solve import Explorer
from ovit_core.study import plots
from ovit_core.study.plots import STYLE, percent

GONE, KEPT = "#d95f02", "#3b6fb6"  # removed and kept weights; told apart by the colour-blind, and in grey


class Picture(Figure):
    """A figure outside pyplot, so that threads may draw it; a notebook shows it without asking for a backend."""

    def png(self, dpi: int = 100) -> bytes:
        """The bytes of a PNG file."""
        self.savefig(buffer := io.BytesIO(), format="png", dpi=dpi)
        return buffer.getvalue()

    _repr_png_ = png


def styled(view: Callable[..., Picture]) -> Callable[..., Picture]:
    """A view drawn in the study's look, whatever the notebook's own is."""

    @wraps(view)
    def drawn(*args, **options) -> Picture:
        with plots.style():
            return view(*args, **options)

    return drawn


def panels(columns: int, width: float, height: float, **options) -> tuple[Picture, list[Axes]]:
    """A picture with `columns` axes side by side."""
    fig = Picture((width, height), layout="constrained")
    return fig, list(fig.subplots(1, columns, squeeze=False, **options)[0])


@styled
def accuracy(x: Explorer, sparsity: float) -> Picture:
    """Top-1 against sparsity, of what has been measured so far; a line where the slider stands."""
    fig, (ax,) = panels(1, 6.4, 3.6)
    n = len(x.images)
    interval = lambda a: 1.96 * np.sqrt(a * (1 - a) / n)  # of the choice of images
    if dense := list(x.measured("dense").values()):
        ax.axhspan(dense[0] - interval(dense[0]), dense[0] + interval(dense[0]), color="black", alpha=0.07, lw=0)
        ax.axhline(dense[0], color="black", ls="--", lw=1, label="dense")
    for method in x.plans:
        if not (found := x.measured(method)):
            continue
        colour, marker = STYLE[method]
        at, top1 = np.array(list(found)), np.array(list(found.values()))
        ax.errorbar(at, top1, interval(top1), color=colour, marker=marker, ms=4.5, lw=1.5, capsize=2, label=method)
    sparsity = x.target(sparsity)
    ax.axvline(sparsity, color=GONE, lw=1.2)
    ax.annotate(f"{100 * sparsity:.1f} %", (sparsity, 1), xycoords=("data", "axes fraction"), color=GONE,
                xytext=(3, -9), textcoords="offset points", fontsize=8)  # fmt: skip
    ax.set(xlim=(0, 1), xlabel="sparsity (zeros / prunable weights)", ylabel=f"top-1 on {n} {x.config.split} images")
    percent(ax)
    ax.legend(loc="lower left")
    return fig


@styled
def layers(x: Explorer, sparsity: float) -> Picture:
    """The sparsity of each layer, a bar per method."""
    points = x.at(sparsity)
    names = list(x.surgeon.weights)
    fig, (ax,) = panels(1, 6.4, max(2.4, 0.8 + 0.3 * len(names)))
    height = 0.8 / len(points)
    for i, (method, point) in enumerate(points.items()):
        share = [1 - float(point.masks[name].float().mean()) for name in names]
        ax.barh(np.arange(len(names)) + (i - (len(points) - 1) / 2) * height, share, 0.9 * height,
                color=STYLE[method][0], label=method)  # fmt: skip
    ax.axvline(x.sparsity(sparsity), color="black", lw=1, ls="--")
    ax.set_yticks(range(len(names)), [n.removesuffix(".weight") for n in names], fontsize=7)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlim=(0, 1), xlabel=f"sparsity of each layer; dashed: of all, {100 * x.sparsity(sparsity):.1f} %")
    ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    fig.legend(loc="outside lower center", ncols=4)
    return fig


@styled
def mask(x: Explorer, sparsity: float, layer: str) -> Picture:
    """The mask of one layer as an image per method: kept weights dark."""
    points = x.at(sparsity)
    fig, axes = panels(len(points), 3.4 * len(points), 3.6, sharey=True)
    for ax, (method, point) in zip(axes, points.items()):
        kept = point.masks[layer].reshape(len(point.masks[layer]), -1).cpu()
        ax.imshow((~kept).numpy(), cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
        ax.set(title=f"{method}: {100 * float((~kept).float().mean()):.1f} % removed", xlabel="input")
        ax.grid(False)
    axes[0].set_ylabel(f"{layer.removesuffix('.weight')}: output row")
    return fig


@styled
def histogram(x: Explorer, sparsity: float, layer: str, method: str) -> Picture:
    """The kept weights of one layer, left alone and corrected, over all of them before."""
    point = x.at(sparsity)[method]
    before, kept = (t.detach().cpu().flatten().numpy() for t in (x.surgeon.weights[layer], point.masks[layer]))
    after = point.weights[layer].cpu().flatten().numpy()
    updates = x.plans[method].method.update != "none"
    width = max(np.abs(before).max(), np.abs(after).max()) * 1.02
    bins = np.linspace(-width, width, 81)
    fig, axes = panels(2, 8.4, 3.3, sharex=True, sharey=True)
    titles = ("update off", "update on")
    for ax, title, w in zip(axes, titles, (before, after if updates else None)):
        ax.set(title=title, xlabel="weight", yscale="log")
        ax.hist(before, bins, histtype="step", color="0.5", label="before, all")
        if w is not None:
            ax.hist(w[kept], bins, color=KEPT, alpha=0.75, label="after, kept")
        else:
            ax.annotate(f"{method} has no update", (0.5, 0.5), xycoords="axes fraction", ha="center")
    moved = np.linalg.norm((after - before)[kept]) / max(np.linalg.norm(before[kept]), 1e-30)
    if updates:
        axes[1].set_title(f"{titles[1]}: kept weights move by {100 * moved:.0f} % of their norm")
    axes[0].set_ylabel(f"weights of {layer.removesuffix('.weight')}")
    axes[0].legend(loc="upper right")
    return fig


@styled
def elimination(x: Explorer, layer: str, method: str, block: int = 0, step: int | None = None) -> Picture:
    """One block after `step` removals (half of all if None): the loss so far, which weights are gone, kept and moved."""
    if x.judge(method) is None:
        fig, (ax,) = panels(1, 9.6, 1.2)
        ax.set_axis_off()
        ax.text(0.5, 0.5, f"What {method} costs is told by a Fisher: explore it beside another method, such as ovit.", ha="center")  # fmt: skip
        return fig
    found = x.steps(method, layer, block)
    B = len(found.order)
    step = B // 2 if step is None else step
    gone, before = found.order[:step].numpy(), found.weights["none"][0].numpy()
    fig, (left, right) = panels(2, 9.6, 3.5, width_ratios=[1, 2])
    for update, label in (("none", "left alone"), ("joint", "corrected")):
        colour = KEPT if update == "joint" else "0.5"
        loss = found.loss[update].clamp(min=float(found.loss["joint"][1:].min()) / 10)
        left.plot(range(1, B + 1), loss[1:].numpy(), color=colour, label=f"kept weights {label}")
        if step:
            left.plot([step], [float(loss[step])], "o", color=colour, ms=5)
    left.axvline(step, color=GONE, lw=1)
    left.set(
        xlabel="weights removed",
        ylabel="increase of the loss expected",
        yscale="log",
        title=f"{method}, step {step} of {B}",
    )
    left.legend(loc="lower right", fontsize=7)
    place = np.arange(B)
    right.bar(place, before, 0.8, color="0.85", label="before")
    now = found.weights["joint"][step].numpy()
    right.bar(place, now, 0.45, color=KEPT, label="now, corrected")
    right.plot(gone, np.zeros(step), "x", color=GONE, ms=4, label="removed")
    if 0 < step < B:  # the next to go, and what the last removal moved most
        last = np.abs(now - found.weights["joint"][step - 1].numpy())
        last[gone] = 0
        right.plot([int(last.argmax())], [now[last.argmax()]], "o", mfc="none", color="black", ms=8, label="moved most")
        right.plot([int(found.order[step])], [now[found.order[step]]], "*", color=GONE, ms=9, label="next to go")
    right.set(xlabel=f"weight of block {block}, {layer.removesuffix('.weight')}", ylabel="value")
    right.legend(loc="upper left", fontsize=7, ncols=5)
    low, high = right.get_ylim()
    right.set_ylim(low, high + 0.18 * (high - low))  # room for the legend
    return fig


@styled
def examples(x: Explorer, sparsity: float, method: str, count: int = 8) -> Picture:
    """Images with the class each model takes them for and its confidence: dense above, pruned below."""
    images, labels, *odds = x.look(method, sparsity, count)
    fig, axes = panels(len(images), 1.25 * len(images), 2.1)
    names = x.upstream.data.classes
    for ax, image, label, *rows in zip(axes, images, labels, *odds):
        ax.imshow(image.permute(1, 2, 0).numpy())
        ax.set_axis_off()
        said = [f"{names[int(p.argmax())]} {100 * float(p.max()):.0f} %" for p in rows]
        right = [int(p.argmax()) == int(label) for p in rows]
        ax.set_title(f"dense\n{said[0]}", fontsize=7, color="black" if right[0] else GONE)
        ax.text(0.5, -0.06, f"{said[1]}\n{names[int(label)]}", transform=ax.transAxes, ha="center", va="top",
                fontsize=7, color="black" if right[1] else GONE)  # fmt: skip
    fig.supxlabel(
        f"below: {method} at {100 * x.sparsity(sparsity):.1f} %, and the true class; orange: wrong", fontsize=8
    )
    return fig


def first(x: Explorer) -> tuple[str, str]:
    """The layer and the method that single-layer views begin with."""
    return next(iter(x.surgeon.weights)), next(iter(x.plans))
