"""The explorer's panel for JupyterLab: settings, a sparsity slider, six views; it draws nothing that `views` does not.

Weights and the view on show answer the slider at once. Accuracies, and other settings, are worked out by one thread in
the background that tells its progress and can be stopped; it works on a new explorer and hands it over whole.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from html import escape
from inspect import signature

import ipywidgets as w
import yaml

from ovit_core import models
from ovit_core.data.catalog import DATASETS
from ovit_core.explorer import views
from ovit_core.explorer.parameters import SPLITS, Explore
from ovit_core.explorer.solve import Explorer
from ovit_core.methods import METHODS
from ovit_core.pattern import ALLOCATIONS
from ovit_core.progress import told_to
from ovit_core.study import checks
from ovit_core.study.parameters import from_yaml

SETTLE = 0.4  # seconds the slider must rest before accuracies are measured
PATTERNS = ("unstructured", "2:4", "4:8", "1:4")
VIEWS = dict(
    Accuracy=views.accuracy, Layers=views.layers, Mask=views.mask, Weights=views.histogram,
    Elimination=views.elimination, Images=views.examples,
)  # fmt: skip
WIDE = dict(style={"description_width": "90px"}, layout=w.Layout(width="330px"))
ROW = w.Layout(flex_flow="row wrap")


class Worker:
    """One piece of work at a time, in the background; the next one stops the one before, and waits for it there.

    `tell` is told (what, done, total, seconds left) by the work's progress bars, and `end` how it ended, "" or why,
    unless another piece has replaced it.
    """

    def __init__(self, tell: Callable, end: Callable[[str], None]):
        self.tell, self.end = tell, end
        self.thread: threading.Thread | None = None
        self.turn, self.stopped = threading.Lock(), threading.Event()

    def start(self, job: Callable[[], None], delay: float = 0.0) -> None:
        """Runs `job` after `delay` seconds, unless it is stopped before that."""
        self.replace()
        self.thread = threading.Thread(target=self._run, args=(job, delay, self.stopped), daemon=True)
        self.thread.start()

    def _run(self, job: Callable[[], None], delay: float, stopped: threading.Event) -> None:
        def listener(*words) -> None:
            if stopped.is_set():
                raise CancelledError
            self.tell(*words)

        message = ""
        try:
            with self.turn, told_to(listener):
                if stopped.wait(delay):
                    raise CancelledError
                job()
        except CancelledError:
            message = "stopped; what was measured stays"
        except Exception as error:  # shown in the panel: a thread's traceback would reach nobody
            message = f"{type(error).__name__}: {error}"
        if self.stopped is stopped:
            self.end(message)

    def replace(self) -> None:
        """Ends the work without a word: something else is wanted now."""
        self.stop()
        self.stopped = threading.Event()

    def stop(self) -> None:
        """Asks the work to end: it does at the next step of its progress bar, a batch or a method's factorization."""
        self.stopped.set()

    def join(self) -> None:
        """Waits until the work has ended of itself."""
        if self.thread:
            self.thread.join()


class Panel:
    """The panel of an explorer; `box` is the widget to show."""

    def __init__(self, x: Explorer):
        self.x = x  # another one after "Apply"
        self.seconds = 0.0, 0.0  # from the last move until weights were there, and until the view was drawn
        # Held while the explorer is read or changed, and by matplotlib, which is not made for two threads.
        self.state = threading.RLock()
        self.worker, self.told, self.applying = Worker(self._tell, self._end), 0.0, False
        self.settings = settings(x.config)
        self.apply = _button("Apply", self._apply, "Prune anew with these", button_style="primary")
        self.stop = _button("Stop", self.worker.stop, "End the background work", button_style="warning", disabled=True)
        self.status, self.doing, self.note = w.HTML(), w.HTML(), w.HTML()
        self.bar = w.FloatProgress(max=1, layout=w.Layout(width="200px", visibility="hidden"))
        self.slider = w.FloatSlider(
            value=x.config.sparsity, max=0.99, step=0.005, readout_format=".3f", description="sparsity",
            layout=w.Layout(width="640px"), style=WIDE["style"],
        )  # fmt: skip
        self.method = w.Dropdown(options=x.config.methods, description="method", **WIDE)
        self.layer = w.Dropdown(options=list(x.surgeon.weights), description="layer", **WIDE)
        self.block = w.BoundedIntText(max=0, description="block", **WIDE)
        self.step = w.IntSlider(max=1, description="step", **WIDE)
        self.views = {view: partial(self._picture, view) for view in VIEWS}
        self.pictures = {view: w.Image(format="png", layout=w.Layout(max_width="min(100%, 760px)")) for view in VIEWS}
        self.inputs = dict(sparsity=self.slider, layer=self.layer, method=self.method, block=self.block, step=self.step)
        own = lambda view: [widget for widget in self._arguments(view).values() if widget is not self.slider]
        pages = [w.VBox([w.HBox(own(view), layout=ROW), picture]) for view, picture in self.pictures.items()]
        self.tabs = w.Tab(pages, titles=list(VIEWS))
        self._fit()
        self.step.value = self.step.max // 2  # where there is something to see

        for widget in self.inputs.values():
            widget.observe(self._moved, "value")
        self.tabs.observe(self._moved, "selected_index")
        # Arguments fit one model; another begins without.
        self.settings["model"].observe(lambda _: self.settings["model_args"].set_trait("value", "{}"), "value")
        controls = w.Accordion([w.HBox([*self.settings.values(), self.apply], layout=ROW)], titles=["Settings"])
        actions = w.HBox([self.stop, self.bar, self.doing], layout=w.Layout(align_items="center"))
        save_model = _button("Save model", self._save_model, "safetensors, with masks")
        save_figure = _button("Save figure", self._save_figure, "PNG and SVG of the view on show")
        saving = w.HBox([self.slider, save_model, save_figure], layout=ROW)
        self.box = w.VBox([controls, saving, self.status, actions, self.note, self.tabs])
        self._moved()

    @property
    def view(self) -> str:
        """The name of the view on show."""
        return list(VIEWS)[self.tabs.selected_index or 0]

    def _arguments(self, view: str) -> dict[str, w.Widget]:
        """The widgets whose values a view takes as arguments of the same names."""
        return {name: self.inputs[name] for name in signature(VIEWS[view]).parameters if name in self.inputs}

    def _picture(self, view: str) -> views.Picture:
        return VIEWS[view](self.x, **{name: widget.value for name, widget in self._arguments(view).items()})

    def draw(self) -> None:
        """Draws the view on show."""
        with self.state:
            self.pictures[self.view].value = self.views[self.view]().png()

    def _moved(self, change: dict | None = None) -> None:
        """The slider, a choice or the tab has changed: weights and the view now, accuracies once the slider rests."""
        rests = not self.applying and (change is None or change["owner"] is self.slider)
        if rests:
            self.worker.replace()  # what it measures is another position's
        with self._noting():
            if self.method.value not in self.x.plans or self.layer.value not in self.x.surgeon.weights:
                return  # of new settings the other is still to come
            start = time.perf_counter()
            self._fit()
            at = self.x.sparsity(self.slider.value)
            weights = time.perf_counter() - start
            self.draw()
            self.seconds = weights, time.perf_counter() - start
            total = sum(m.numel() for m in self.x.surgeon.weights.values())
            self.status.value = (
                f"<b>{100 * at:.2f} % sparse</b>: {round(at * total):,} of {total:,} prunable weights are zero. "
                f"Weights in {1000 * self.seconds[0]:.0f} ms, view in {1000 * self.seconds[1]:.0f} ms."
            )
        # New settings measure the slider's position when they are there.
        if rests:
            self._start(self._measure, SETTLE)

    def _fit(self) -> None:
        """Keeps block and step inside the chosen layer; an N:M pattern leaves nothing to slide."""
        self.slider.disabled = self.x.pattern.structured
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
                self.note.value = _red(f"{type(error).__name__}: {error}")

    def _start(self, job: Callable[[], None], delay: float = 0.0) -> None:
        self.stop.disabled = False  # before the work, which may end at once
        self.worker.start(job, delay)

    def _measure(self) -> None:
        """Every method at the slider's position, then those of the sweep that are missing."""
        for at in (self.slider.value, *self.x.config.sparsities):
            for method in ("dense", *self.x.plans):
                if not self.x.has_measured(method, at):
                    self.x.measure(method, at)
                    if self.view == "Accuracy":
                        self.draw()

    def _apply(self) -> None:
        """Prunes anew with the settings as they stand: checked now, worked out in the background."""
        values = {name: widget.value for name, widget in self.settings.items()}
        with self._noting():
            values |= dict(
                methods=list(values["methods"]), model_args=from_yaml("its arguments", values["model_args"]) or {}
            )
            checks.check(config := self.x.config.replace(**values))
            self.applying = True  # from now on; what it replaces may still end
            self._start(partial(self._prune, config))

    def _prune(self, config: Explore) -> None:
        self.applying = True
        x = Explorer(config, before=self.x)
        with self.state:
            self.x = x
            self.method.options, self.layer.options = config.methods, list(x.surgeon.weights)
        self._moved()
        self.applying = False
        self._measure()

    def _tell(self, what: str, done: int, total: int, left: float | None) -> None:
        if (now := time.monotonic()) - self.told > 0.1 or done == total:  # a message each, so not too many
            self.told = now
            self.bar.layout.visibility, self.bar.value = "visible", done / max(total, 1)
            more = f", {left:.0f} s left" if left is not None and left >= 1 else ""
            self.doing.value = escape(f"{what}: {done} of {total}{more}")

    def _end(self, message: str) -> None:
        self.applying, self.stop.disabled, self.bar.layout.visibility = False, True, "hidden"
        self.doing.value = escape(message) if message.startswith("stopped") else _red(message)

    def _save_model(self) -> None:
        with self._noting():
            paths = [self.x.save(method, self.slider.value) for method in self.x.plans]
            self.note.value = "saved " + ", ".join(escape(str(path)) for path in paths)

    def _save_figure(self) -> None:
        with self._noting():
            widgets = self._arguments(self.view) | dict(sparsity=self.slider)
            shown = {name: widget.value for name, widget in widgets.items()}
            path = self.x.save_figure(self.views[self.view](), self.view.lower(), **shown)
            self.note.value = f"saved {escape(str(path))} and .svg"


def panel(x: Explorer, interactive: bool = True) -> w.Widget | None:
    """The panel as a widget; None if not `interactive`, as when papermill executes the notebook."""
    return Panel(x).box if interactive else None


def settings(c: Explore) -> dict[str, w.Widget]:
    """What can be chosen anew: name of the parameter -> widget."""
    damps = [("each method's own, by validation", 0.0), *((f"{v:g}", v) for v in sorted({*c.damps, c.damp} - {0}))]
    at_once = [name for name, method in METHODS.items() if not method.sequential]
    widgets = dict(
        model=w.Combobox(options=models.timm.list_models(), description="model", **WIDE),
        model_args=w.Text(description="its arguments", **WIDE),
        pretrained=w.Checkbox(description="timm's published weights", **WIDE),
        checkpoint=w.Text(description="checkpoint", placeholder="path; none: train it here", **WIDE),
        upstream=w.Combobox(options=sorted({*DATASETS, c.upstream}), description="dataset", **WIDE),
        methods=w.SelectMultiple(options=at_once, description="methods", rows=6, **WIDE),
        block_size=w.BoundedIntText(min=1, max=4096, description="block size", **WIDE),
        gradients=w.BoundedIntText(min=1, max=100_000, description="gradients", **WIDE),
        damp=w.Dropdown(options=damps, description="λ", **WIDE),
        pattern=w.Combobox(options=PATTERNS, description="pattern", **WIDE),
        allocation=w.Dropdown(options=ALLOCATIONS, description="threshold", **WIDE),
        split=w.Dropdown(options=SPLITS, description="measured on", **WIDE),
        images=w.BoundedIntText(min=1, max=1_000_000, description="images", **WIDE),
    )
    values = c.model_dump() | dict(model_args=yaml.safe_dump(c.model_args, default_flow_style=True, width=999).strip())
    for name, widget in widgets.items():
        widget.value = values[name]
    return widgets


def _red(text: str) -> str:
    return f"<span style='color:#b00'>{escape(text)}</span>"


def _button(text: str, act: Callable[[], None], hint: str, **options) -> w.Button:
    button = w.Button(description=text, tooltip=hint, **options)
    button.on_click(lambda _: act())
    return button
