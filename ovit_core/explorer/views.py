"""What the explorer shows, one figure each, drawn from an `Explorer` at a sparsity: in a widget or on a page."""

import io

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ovit_core.explorer.solve import Explorer
from ovit_core.study import plots
from ovit_core.study.plots import STYLE, percent

GONE, KEPT = "#d95f02", "#3b6fb6"  # removed and kept weights; told apart by the colour-blind, and in grey


class Picture(Figure):
    """A figure outside pyplot, so that threads may draw it; a notebook shows it without asking for a backend."""

    def png(self) -> bytes:
        """The bytes of a PNG file."""
        self.savefig(buffer := io.BytesIO(), format="png", dpi=100)
        return buffer.getvalue()

    _repr_png_ = png


def panels(columns: int, width: float, height: float, **options) -> tuple[Picture, list[Axes]]:
    """A picture with `columns` axes side by side."""
    fig = Picture((width, height), layout="constrained")
    return fig, list(fig.subplots(1, columns, squeeze=False, **options)[0])


@plots.style()
def accuracy(x: Explorer, sparsity: float) -> Picture:
    """Top-1 against sparsity, of what has been measured so far; a line where the slider stands."""
    fig, (ax,) = panels(1, 6.4, 3.6)
    n = len(x.images)
    interval = lambda a: 1.96 * np.sqrt(a * (1 - a) / n)  # of the choice of images
    for top1 in x.measured("dense").values():
        ax.axhspan(top1 - interval(top1), top1 + interval(top1), color="black", alpha=0.07, lw=0)
        ax.axhline(top1, color="black", ls="--", lw=1, label="dense")
    for method in x.plans:
        if found := x.measured(method):
            at, top1 = np.array(list(found.items())).T
            look = dict(color=STYLE[method][0], marker=STYLE[method][1], ms=4.5, lw=1.5, capsize=2)
            ax.errorbar(at, top1, interval(top1), label=method, **look)
    sparsity = x.pattern.target(sparsity)
    ax.axvline(sparsity, color=GONE, lw=1.2)
    ax.annotate(f"{100 * sparsity:.1f} %", (sparsity, 1), xycoords=("data", "axes fraction"), color=GONE,
                xytext=(3, -9), textcoords="offset points", fontsize=8)  # fmt: skip
    ax.set(xlim=(0, 1), xlabel="sparsity (zeros / prunable weights)", ylabel=f"top-1 on {n} {x.config.split} images")
    percent(ax)
    ax.legend(loc="lower left")
    return fig


@plots.style()
def layers(x: Explorer, sparsity: float) -> Picture:
    """The sparsity of each layer, a bar per method."""
    kept = {method: point.masks for method, point in x.at(sparsity).items()}
    shares = pd.DataFrame({m: {n: 1 - float(k.float().mean()) for n, k in masks.items()} for m, masks in kept.items()})
    shares.index = shares.index.str.removesuffix(".weight")
    fig, (ax,) = panels(1, 6.4, max(2.4, 0.8 + 0.3 * len(shares)))
    shares.plot.barh(ax=ax, width=0.8, color=[STYLE[method][0] for method in kept], legend=False)
    ax.axvline(x.sparsity(sparsity), color="black", lw=1, ls="--")
    ax.tick_params(axis="y", labelsize=7)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlim=(0, 1), xlabel=f"sparsity of each layer; dashed: of all, {100 * x.sparsity(sparsity):.1f} %")
    ax.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    fig.legend(loc="outside lower center", ncols=4)
    return fig


@plots.style()
def mask(x: Explorer, sparsity: float, layer: str) -> Picture:
    """The mask of one layer as an image per method: kept weights dark."""
    points = x.at(sparsity)
    fig, axes = panels(len(points), 3.4 * len(points), 3.6, sharey=True)
    for ax, (method, point) in zip(axes, points.items()):
        gone = ~point.masks[layer].flatten(1).cpu().numpy()
        ax.imshow(gone, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
        ax.set(title=f"{method}: {100 * gone.mean():.1f} % removed", xlabel="input")
        ax.grid(False)
    axes[0].set_ylabel(f"{layer.removesuffix('.weight')}: output row")
    return fig


@plots.style()
def histogram(x: Explorer, sparsity: float, layer: str, method: str) -> Picture:
    """The kept weights of one layer, left alone and corrected, over all of them before."""
    point = x.at(sparsity)[method]
    tensors = x.surgeon.weights[layer], point.weights[layer], point.masks[layer]
    before, after, kept = (t.detach().cpu().flatten().numpy() for t in tensors)
    width = max(np.abs(before).max(), np.abs(after).max()) * 1.02
    bins = np.linspace(-width, width, 81)
    fig, (off, on) = panels(2, 8.4, 3.3, sharex=True, sharey=True)
    for ax, title in ((off, "update off"), (on, "update on")):
        ax.set(title=title, xlabel="weight", yscale="log")
        ax.hist(before, bins, histtype="step", color="0.5", label="before, all")
    off.hist(before[kept], bins, color=KEPT, alpha=0.75, label="after, kept")
    if x.plans[method].method.update == "none":
        on.annotate(f"{method} has no update", (0.5, 0.5), xycoords="axes fraction", ha="center")
    else:
        on.hist(after[kept], bins, color=KEPT, alpha=0.75, label="after, kept")
        moved = np.linalg.norm((after - before)[kept]) / max(np.linalg.norm(before[kept]), 1e-30)
        on.set_title(f"update on: kept weights move by {100 * moved:.0f} % of their norm")
    off.set_ylabel(f"weights of {layer.removesuffix('.weight')}")
    off.legend(loc="upper right")
    return fig


@plots.style()
def elimination(x: Explorer, layer: str, method: str, block: int = 0, step: int | None = None) -> Picture:
    """One block after `step` removals (half of all if None): the loss so far, which weights are gone, kept, moved."""
    try:
        found = x.steps(method, layer, block)
    except ValueError as error:  # nothing here has a Fisher
        fig, (ax,) = panels(1, 9.6, 1.2)
        ax.set_axis_off()
        ax.text(0.5, 0.5, str(error), ha="center")
        return fig
    B = len(found.order)
    step = B // 2 if step is None else step
    order, gone = found.order.numpy(), found.order[:step].numpy()
    fig, (left, right) = panels(2, 9.6, 3.5, width_ratios=[1, 2])
    for update, label, colour in (("none", "left alone", "0.5"), ("joint", "corrected", KEPT)):
        loss = found.loss[update].clamp(min=float(found.loss["joint"][1:].min()) / 10).numpy()
        left.plot(range(1, B + 1), loss[1:], color=colour, label=f"kept weights {label}")
        if step:
            left.plot(step, loss[step], "o", color=colour, ms=5)
    left.axvline(step, color=GONE, lw=1)
    left.set(xlabel="weights removed", ylabel="increase of the loss expected", yscale="log")
    left.set_title(f"{method}, step {step} of {B}")
    left.legend(loc="lower right", fontsize=7)
    before, now = found.weights["none"][0].numpy(), found.weights["joint"][step].numpy()
    right.bar(range(B), before, 0.8, color="0.85", label="before")
    right.bar(range(B), now, 0.45, color=KEPT, label="now, corrected")
    right.plot(gone, np.zeros(step), "x", color=GONE, ms=4, label="removed")
    if 0 < step < B:  # the next to go, and what the last removal moved most
        last = np.abs(now - found.weights["joint"][step - 1].numpy())
        last[gone] = 0
        most, following = last.argmax(), order[step]
        right.plot(most, now[most], "o", mfc="none", color="black", ms=8, label="moved most")
        right.plot(following, now[following], "*", color=GONE, ms=9, label="next to go")
    right.set(xlabel=f"weight of block {block}, {layer.removesuffix('.weight')}", ylabel="value")
    right.legend(loc="upper left", fontsize=7, ncols=5)
    low, high = right.get_ylim()
    right.set_ylim(low, high + 0.18 * (high - low))  # room for the legend
    return fig


@plots.style()
def examples(x: Explorer, sparsity: float, method: str) -> Picture:
    """Images with the class each model takes them for and its confidence: dense above, pruned below."""
    images, labels, *odds = x.look(method, sparsity)
    fig, axes = panels(len(images), 1.25 * len(images), 2.1)
    names = x.upstream.data.classes
    for ax, image, label, *rows in zip(axes, images, labels, *odds):
        ax.imshow(image.permute(1, 2, 0).numpy())
        ax.set_axis_off()
        dense, pruned = (f"{names[p.argmax()]} {100 * float(p.max()):.0f} %" for p in rows)
        above, below = ("black" if p.argmax() == label else GONE for p in rows)
        ax.set_title(f"dense\n{dense}", fontsize=7, color=above)
        words = dict(ha="center", va="top", fontsize=7, color=below)
        ax.text(0.5, -0.06, f"{pruned}\n{names[label]}", transform=ax.transAxes, **words)
    at = f"{method} at {100 * x.sparsity(sparsity):.1f} %"
    fig.supxlabel(f"below: {at}, and the true class; orange: wrong", fontsize=8)
    return fig


def first(x: Explorer) -> tuple[str, str]:
    """The layer and the method that single-layer views begin with."""
    return next(iter(x.surgeon.weights)), next(iter(x.plans))
