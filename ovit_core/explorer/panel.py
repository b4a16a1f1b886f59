"""The explorer's panel for JupyterLab: settings, a sparsity slider, numbers, six views; it draws nothing that `views`
does not.

It stands on the page before there is anything to show: the model, other settings and accuracies are worked out by one
thread in the background that tells its progress and can be stopped; a new explorer is handed over whole. Weights and
the view on show answer the slider at once. What needs torch is imported there too, as it takes seconds.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as w

from ovit_core.explorer.look import LOOK, button, red
from ovit_core.explorer.parameters import Explore, differences
from ovit_core.explorer.settings import ROW, WIDE, Settings, check
from ovit_core.explorer.worker import BEFORE, Worker, said

if TYPE_CHECKING:
    from ovit_core.explorer.picture import Picture
    from ovit_core.explorer.pins import Pin
    from ovit_core.explorer.solve import Explorer

SETTLE = 0.4  # seconds the slider must rest before accuracies are measured
THINK = 0.5  # seconds settings must rest before they are priced
# Tab -> the function of `views` that draws it, and those of its arguments that have a widget.
VIEWS = dict(
    Accuracy=("accuracy", ("sparsity", "zoom", "pinned")), Layers=("layers", ("sparsity",)),
    Mask=("mask", ("sparsity", "layer")), Weights=("weights", ("sparsity", "layer", "method")),
    Elimination=("elimination", ("layer", "method", "block", "step")), Images=("examples", ("sparsity",)),
)  # fmt: skip
ZOOMS = [("from where the curves part", ()), ("all", (0.0, 0.995)), ("50 to 99 %", (0.5, 0.99)),
         ("80 to 99 %", (0.8, 0.99)), ("90 to 99 %", (0.9, 0.99))]  # fmt: skip


class Panel:
    """The panel of a config; `box` is the widget to show, `x` the explorer once it is there."""

    def __init__(self, config: Explore):
        self.config = config
        self.x: Explorer | None = None
        self.pins: list[Pin] = []
        self.seconds = 0.0  # from the last move until the view was drawn
        # Held while the explorer is read or changed.
        self.state, self.settling = threading.RLock(), False
        self.preparing: Explore | None = None
        self.worker, self.told = Worker(self._tell, self._end), 0.0
        self.bars: dict[str, tuple[int, int, float | None]] = {}  # what is being done, the whole before its parts
        self.pricing = Worker(lambda *words: None, self._say_price, helpers=False)
        self.settings = Settings(config)
        self.apply = button("Apply", self._apply, "Prune anew with these", button_style="primary")
        self.takes, self.head, self.doing, self.note, self.status, self.numbers = (w.HTML() for _ in range(6))
        for widget in (self.head, self.numbers, self.note, self.doing, self.takes, self.status):
            widget.add_class("ovit-view")
        self.numbers.add_class("ovit-numbers")
        self.stop = button("Stop", self._stop, "End the background work", button_style="warning", disabled=True)
        self.bar = w.FloatProgress(max=1, layout=w.Layout(width="200px", visibility="hidden"))
        self.slider = w.FloatSlider(
            value=config.sparsity, max=0.99, step=0.005, readout_format=".3f", description="sparsity",
            layout=w.Layout(flex="1 1 400px", min_width="260px"), style=WIDE["style"],
        )  # fmt: skip
        self.asked = config.sparsity  # of the slider, before an N:M pattern took it over
        self.method = w.Dropdown(options=config.methods, description="method", **WIDE)
        self.layer = w.Dropdown(description="layer", **WIDE)
        self.block = w.BoundedIntText(max=0, description="block", **WIDE)
        self.step = w.IntSlider(max=1, description="step", **WIDE)
        self.zoom = w.Dropdown(options=ZOOMS, description="axis", **WIDE)
        self.inputs = dict(sparsity=self.slider, layer=self.layer, method=self.method, block=self.block,
                           step=self.step, zoom=self.zoom)  # fmt: skip
        self.pictures = {view: w.HTML(layout=w.Layout(width="100%")) for view in VIEWS}
        pages = [
            w.VBox([w.HBox([self.inputs[name] for name in names if name in self.inputs and name != "sparsity"], layout=ROW),
                    self.pictures[view]]) for view, (_, names) in VIEWS.items()
        ]  # fmt: skip
        for picture in self.pictures.values():
            picture.add_class("ovit-view")
        self.tabs = w.Tab(pages, titles=list(VIEWS), selected_index=0)
        self.tabs.add_class("ovit-tabs")
        for widget in self.inputs.values():
            widget.observe(self._moved, "value")
        self.tabs.observe(self._moved, "selected_index")
        self.settings.observe(self._price)
        applying = w.HBox([self.apply, self.takes], layout=w.Layout(flex_flow="row wrap", align_items="center"))
        controls = w.Accordion([w.VBox([self.settings.box, applying])], titles=["Settings"])
        actions = w.HBox([self.stop, self.bar, self.doing], layout=w.Layout(align_items="center"))
        self.pin = button("Pin curves", self._pin, "Keep these curves under those of the next settings", disabled=True)
        self.unpin = button("Unpin all", self._unpin, "Show the present curves alone", disabled=True)
        self.save = button("Save model", self._save_model, "safetensors, with masks", disabled=True)
        self.figure = button("Save figure", self._save_figure, "PNG and SVG of the view on show", disabled=True)
        moving = w.HBox([self.slider, self.pin, self.unpin, self.save, self.figure], layout=ROW)
        self.box = w.VBox(
            [w.HTML(LOOK), controls, self.head, actions, moving, self.status, self.numbers, self.note, self.tabs]
        )
        self._prepare(config, BEFORE)

    @property
    def view(self) -> str:
        """The name of the view on show."""
        return list(VIEWS)[self.tabs.selected_index or 0]

    def _arguments(self) -> dict[str, Any]:
        """What the view on show takes besides the explorer."""
        values = {name: widget.value for name, widget in self.inputs.items()} | dict(pinned=tuple(self.pins))
        return {name: values[name] for name in VIEWS[self.view][1]}

    def picture(self) -> "Picture":
        """The view on show."""
        from ovit_core.explorer import views

        return getattr(views, VIEWS[self.view][0])(self.x, **self._arguments())

    def draw(self) -> None:
        """Draws the view on show, and the numbers."""
        from ovit_core.explorer import readout

        with self.state:
            self.pictures[self.view].value = self.picture().html()
            self.head.value = readout.head(self.x)
            self.numbers.value = readout.html(readout.table(self.x, self.slider.value, self.pins))

    def _moved(self, change: dict | None = None) -> None:
        """The slider, a choice or the tab has changed: weights and the view now, accuracies once the slider rests."""
        if self.x is None or self.settling:
            return
        rests = self.preparing is None and (change is None or change["owner"] is self.slider)
        if rests:
            self.worker.replace()  # what it measures is another position's
        with self._noting():
            start = time.perf_counter()
            self._fit()
            at = self.x.sparsity(self.slider.value)
            total = sum(weight.numel() for weight in self.x.surgeon.weights.values())
            self.status.value = (
                f"<b>{100 * at:.2f} % sparse</b>: {round(at * total):,} of {total:,} prunable weights are zero."
            )
            self.draw()
            self.seconds = time.perf_counter() - start
        # New settings measure the slider's position when they are there.
        if rests:
            self._start(self._measure, SETTLE)

    def _fit(self) -> None:
        """Keeps block and step inside the chosen layer."""
        blocks, self.step.max = self.x.plans[self.method.value].layers[self.layer.value].order.shape
        self.block.max = blocks - 1

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """The explorer to itself. An error is shown in the panel: its traceback would only reach JupyterLab's log."""
        with self.state:
            self.note.value = ""
            try:
                yield
            except Exception as error:
                self.note.value = red(said(error))

    def _start(self, job: Callable[[], None], delay: float = 0.0) -> None:
        self.stop.disabled, self.bars = False, {}  # before the work, which may end at once
        self.worker.start(job, delay)

    def _stop(self) -> None:
        self.stop.disabled = True
        self.doing.value = "stopping…"
        self.worker.stop()

    def _measure(self) -> None:
        """Every method at the slider's position, then those of the sweep that are missing."""
        for at in (self.slider.value, *self.x.config.sparsities):
            for method in ("dense", *self.x.plans):
                if self.x.answers(method, at) is None:
                    self.x.measure(method, at)
                    if self.view == "Accuracy":
                        self.draw()
            self.draw()

    def _apply(self) -> None:
        """Prunes anew with the settings as they stand."""
        with self._noting():
            self._prepare(self.settings.chosen(self.config))

    def _prepare(self, config: Explore, delay: float = 0.0) -> None:
        self.preparing = config  # from now on; what it replaces may still end
        self.doing.value = "loading torch and timm" if self.x is None else "looking at the settings"
        self._start(partial(self._solve, config), delay)

    def _solve(self, config: Explore) -> None:
        self.preparing = config
        from ovit_core.explorer import views  # noqa: F401 (loaded here, where it holds nobody up)
        from ovit_core.explorer.solve import Explorer
        from ovit_core.models import timm

        self.settings.widgets["model"].options = timm.list_models()
        check(config)
        x = Explorer(config, before=self.x)
        self.takes.value = ""
        with self.state:
            self.settling, self.x, self.config = True, x, config
            self.pin.disabled = self.save.disabled = self.figure.disabled = False
            for widget, options in ((self.method, config.methods), (self.layer, tuple(x.surgeon.weights))):
                before, widget.options = widget.value, options
                widget.value = before if before in options else options[0]
            if not self.slider.disabled:
                self.asked = self.slider.value
            self.slider.disabled = x.pattern.structured
            self.slider.description = f"{x.pattern} is" if x.pattern.structured else "sparsity"
            self.slider.value = x.pattern.target(self.asked)
            first = self.step.max == 1
            self._fit()
            if first:
                self.step.value = self.step.max // 2  # where there is something to see
            self.settling = False
        self._moved()
        self.preparing = None
        self._measure()

    def _tell(self, what: str, done: int, total: int, left: float | None) -> None:
        """Says what is being done, and what that is a part of; the bar is that of the whole."""
        self.bars[what] = done, max(total, 1), left
        if done == total:
            del self.bars[what]
        if self.bars and (now := time.monotonic()) - self.told > 0.1:  # a message each, so not too many
            self.told = now
            share = 0.0
            for number, count, _ in reversed(self.bars.values()):
                share = (number + share) / count
            self.bar.layout.visibility, self.bar.value = "visible", min(share, 1.0)
            parts = [
                f"{name}: {number} of {count}" + (f", {rest:.0f} s left" if rest and rest >= 1 else "")
                for name, (number, count, rest) in self.bars.items()
            ]
            self.doing.value = escape(" · ".join(parts))

    def _end(self, message: str) -> None:
        self.preparing, self.stop.disabled, self.bar.layout.visibility = None, True, "hidden"
        self.doing.value = red(message) if message and not message.startswith("stopped") else escape(message)

    def _price(self) -> None:
        """What Apply would take, once settings rest."""
        self.takes.value, self.price = "…", ""
        self.pricing.start(self._work_out_price, THINK)

    def _work_out_price(self) -> None:
        from ovit_core.explorer import price

        chosen = self.settings.chosen(self.config)
        check(chosen)
        self.price = price.worded(price.price(chosen, self.x))

    def _say_price(self, wrong: str) -> None:
        self.takes.value = red(wrong) if wrong else escape(self.price)

    def _pin(self) -> None:
        from ovit_core.explorer import pins

        with self._noting():
            self.pins.append(pins.pin(self.x))
            self.unpin.disabled = False
            self.draw()

    def _unpin(self) -> None:
        with self._noting():
            self.pins, self.unpin.disabled = [], True
            self.draw()

    def _save_model(self) -> None:
        with self._noting():
            paths = [self.x.save(method, self.slider.value) for method in self.x.plans]
            self.note.value = "saved " + ", ".join(escape(str(path)) for path in paths)
            if self.preparing:
                mine, others = differences(self.x.config, self.preparing)
                self.note.value += f": of the model on show ({escape(mine or 'same settings')}), not of the one that is being prepared ({escape(others or 'same settings')})"

    def _save_figure(self) -> None:
        from ovit_core.explorer import paper

        with self._noting():
            shown = {name: value for name, value in self._arguments().items() if name not in ("pinned", "zoom")}
            shown |= dict(sparsity=self.slider.value)
            path = self.x.save_figure(paper.figure(self.picture()), self.view.lower(), **shown)
            self.note.value = f"saved {escape(str(path))} and .svg"
