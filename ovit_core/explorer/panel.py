"""The explorer's panel for JupyterLab: settings, a sparsity slider, six views; it draws nothing that `views` does not.

Weights and the view on show answer the slider at once. Accuracies, and other settings, are worked out by one thread in
the background that tells its progress and can be stopped; it works on a new explorer and hands it over whole.
"""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from html import escape

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

SETTLE = 0.4  # seconds the slider must rest before accuracies are measured
PATTERNS = ("unstructured", "2:4", "4:8", "1:4")
WIDE = dict(style={"description_width": "90px"}, layout=w.Layout(width="330px"))


class Stopped(Exception):  # noqa: N818 (no error: somebody asked for it)
    """The work was stopped; what it had measured stays."""


class Worker:
    """One piece of work at a time, in the background; the next one stops the one before, and waits for it there.

    Args:
        tell: told (what, done, total, seconds left) by the work's progress bars.
        end: told how the work ended, "" or why: not of work that another piece has replaced.
    """

    def __init__(self, tell: Callable, end: Callable[[str], None]):
        self.tell, self.end = tell, end
        self.thread: threading.Thread | None = None
        self.stop_asked = threading.Event()

    def start(self, job: Callable[[], None], delay: float = 0.0) -> None:
        """Runs `job` after `delay` seconds, unless it is stopped before that."""
        before, stop = self.thread, threading.Event()
        self.stop_asked, replaced = stop, self.stop_asked
        replaced.set()

        def end(message: str) -> None:
            if self.stop_asked is stop:
                self.end(message)

        def listener(what: str, done: int, total: int, left: float | None) -> None:
            if stop.is_set():
                raise Stopped
            self.tell(what, done, total, left)

        def run() -> None:
            if before is not None:
                before.join()
            try:
                if stop.wait(delay):
                    raise Stopped
                with told_to(listener):
                    job()
                end("")
            except Stopped:
                end("stopped; what was measured stays")
            except Exception as error:  # shown in the panel: a thread's traceback would reach nobody
                end(f"{type(error).__name__}: {error}")

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Asks the work to end: it does at the next step of its progress bar, a batch or a method's factorization."""
        self.stop_asked.set()

    def join(self) -> None:
        """Waits until the work has ended of itself."""
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()


class Panel:
    """The panel of an explorer; `box` is the widget to show.

    Attributes:
        x: the explorer on show; another one after "Apply".
        seconds: how long the last slider position took, until (weights were there, the view was drawn).
    """

    def __init__(self, x: Explorer):
        self.x, self.seconds = x, (0.0, 0.0)
        # Held while the explorer is read or changed, and by matplotlib, which is not made for two threads.
        self.state = threading.RLock()
        self.quiet, self.applying = False, False
        self.worker = Worker(self._tell, self._end)
        self._told = 0.0
        self.settings, self.apply = (
            settings(x.config),
            _button("Apply", self._apply, "Prune anew with these", "primary"),
        )
        self.stop = _button("Stop", self.worker.stop, "End what runs in the background", "warning")
        self.stop.disabled = True
        save_model = _button("Save model", self._save_model, "safetensors, with masks")
        save_figure = _button("Save figure", self._save_figure, "PNG and SVG of the view on show")
        c = x.config
        self.slider = w.FloatSlider(
            value=c.sparsity, min=0, max=0.99, step=0.005, readout_format=".3f", description="sparsity",
            layout=w.Layout(width="640px"), style={"description_width": "90px"},
        )  # fmt: skip
        self.status, self.doing, self.note = w.HTML(), w.HTML(), w.HTML()
        self.bar = w.FloatProgress(min=0, max=1, layout=w.Layout(width="200px", visibility="hidden"))
        self.method = w.Dropdown(options=c.methods, description="method", **WIDE)
        self.layer = w.Dropdown(options=list(x.surgeon.weights), description="layer", **WIDE)
        self.block = w.BoundedIntText(value=0, min=0, max=0, description="block", **WIDE)
        self.step = w.IntSlider(value=0, min=0, max=1, description="step", **WIDE)
        self.views = {
            "Accuracy": lambda: views.accuracy(self.x, self.slider.value),
            "Layers": lambda: views.layers(self.x, self.slider.value),
            "Mask": lambda: views.mask(self.x, self.slider.value, self.layer.value),
            "Weights": lambda: views.histogram(self.x, self.slider.value, self.layer.value, self.method.value),
            "Elimination": lambda: views.elimination(
                self.x, self.layer.value, self.method.value, self.block.value, self.step.value
            ),
            "Images": lambda: views.examples(self.x, self.slider.value, self.method.value),
        }
        self.pictures = {
            name: w.Image(format="png", layout=w.Layout(max_width="min(100%, 760px)")) for name in self.views
        }
        one = dict(layer=self.layer, method=self.method)
        self.single = {"Mask": dict(layer=self.layer), "Weights": one, "Images": dict(method=self.method),
                       "Elimination": one | dict(block=self.block, step=self.step)}  # fmt: skip
        row = w.Layout(flex_flow="row wrap")
        choices = lambda name: w.HBox(list(self.single.get(name, {}).values()), layout=row)
        pages = [w.VBox([choices(name), self.pictures[name]]) for name in self.views]
        self.tabs = w.Tab(pages, titles=list(self.views))
        self._fit()
        self.step.value = self.step.max // 2  # where there is something to see

        for choice in (self.slider, self.method, self.layer, self.block, self.step):
            choice.observe(self._moved, "value")
        self.tabs.observe(self._moved, "selected_index")
        # Arguments fit one model; another begins without.
        self.settings["model"].observe(lambda _: setattr(self.settings["model_args"], "value", "{}"), "value")
        controls = w.Accordion([w.HBox([*self.settings.values(), self.apply], layout=row)], titles=["Settings"])
        actions = w.HBox([self.stop, self.bar, self.doing], layout=w.Layout(align_items="center"))
        saving = w.HBox([self.slider, save_model, save_figure], layout=row)
        self.box = w.VBox([controls, saving, self.status, actions, self.note, self.tabs])
        self._moved()

    @property
    def view(self) -> str:
        """The name of the view on show."""
        return list(self.views)[self.tabs.selected_index or 0]

    def draw(self) -> None:
        """Draws the view on show."""
        with self.state:
            self.pictures[self.view].value = self.views[self.view]().png()

    def _moved(self, change: dict | None = None) -> None:
        """The slider, a choice or the tab has changed: weights and the view now, accuracies once it rests."""
        if self.quiet:
            return
        with self.state, self._noting():
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
        if (change is None or change["owner"] is self.slider) and not self.applying:
            self._start(self._measure, SETTLE)

    def _fit(self) -> None:
        """Keeps block and step inside the chosen layer; an N:M pattern leaves nothing to slide."""
        self.slider.disabled = self.x.pattern.structured
        blocks, B = self.x.plans[self.method.value].layers[self.layer.value].order.shape
        with self._quietly():
            self.block.max, self.step.max = blocks - 1, B

    @contextmanager
    def _quietly(self):
        """Values set by the panel itself are no moves."""
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before

    @contextmanager
    def _noting(self):
        """An error is shown in the panel: a callback's traceback would only reach JupyterLab's log."""
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
        values = {name: choice.value for name, choice in self.settings.items()}
        try:
            values |= dict(methods=list(values["methods"]), model_args=yaml.safe_load(values["model_args"]) or {})
            checks.check(config := self.x.config.replace(**values))
        except (ValueError, FileNotFoundError, yaml.YAMLError) as error:
            self.note.value = _red(str(error))
            return

        def job() -> None:
            self.applying = True
            x = Explorer(config, before=self.x)
            with self.state, self._quietly():
                self.x = x
                self.method.options, self.layer.options = config.methods, list(x.surgeon.weights)
            self._moved({"owner": self.apply})
            self.applying = False
            self._measure()

        self.applying, self.note.value = True, ""  # from now on; what it replaces may still end
        self._start(job)

    def _tell(self, what: str, done: int, total: int, left: float | None) -> None:
        if (now := time.monotonic()) - self._told > 0.1 or done == total:  # a message each, so not too many
            self._told = now
            self.bar.layout.visibility, self.bar.value = "visible", done / max(total, 1)
            more = f", {left:.0f} s left" if left is not None and left >= 1 else ""
            self.doing.value = escape(f"{what}: {done} of {total}{more}")

    def _end(self, message: str) -> None:
        self.applying, self.stop.disabled, self.bar.layout.visibility = False, True, "hidden"
        self.doing.value = escape(message) if message.startswith("stopped") else _red(message)

    def _save_model(self) -> None:
        with self.state, self._noting():
            paths = [self.x.save(method, self.slider.value) for method in self.x.plans]
            self.note.value = "saved " + ", ".join(escape(str(path)) for path in paths)

    def _save_figure(self) -> None:
        with self.state, self._noting():
            shown = {name: choice.value for name, choice in self.single.get(self.view, {}).items()}
            path = self.x.save_figure(self.views[self.view](), self.view.lower(), self.slider.value, **shown)
            self.note.value = f"saved {escape(str(path))} and .svg"


def panel(x: Explorer, interactive: bool = True) -> w.Widget | None:
    """The panel as a widget; None if not `interactive`, as when papermill executes the notebook."""
    return Panel(x).box if interactive else None


def settings(c: Explore) -> dict[str, w.Widget]:
    """What can be chosen anew: name of the parameter -> widget."""
    names = sorted({*DATASETS, c.upstream})
    return dict(
        model=w.Combobox(value=c.model, options=models.timm.list_models(), description="model", **WIDE),
        model_args=w.Text(value=yaml.safe_dump(c.model_args, default_flow_style=True, width=999).strip(), description="its arguments", **WIDE),
        pretrained=w.Checkbox(value=c.pretrained, description="timm's published weights", indent=True, **WIDE),
        checkpoint=w.Text(value=c.checkpoint, description="checkpoint", placeholder="path; none: train it here", **WIDE),
        upstream=w.Combobox(value=c.upstream, options=names, description="dataset", **WIDE),
        methods=w.SelectMultiple(value=c.methods, options=list(METHODS), description="methods", rows=6, **WIDE),
        block_size=w.BoundedIntText(value=c.block_size, min=1, max=4096, description="block size", **WIDE),
        gradients=w.BoundedIntText(value=c.gradients, min=1, max=100_000, description="gradients", **WIDE),
        damp=w.Dropdown(value=c.damp, options=_damps(c), description="λ", **WIDE),
        pattern=w.Combobox(value=c.pattern, options=PATTERNS, description="pattern", **WIDE),
        allocation=w.Dropdown(value=c.allocation, options=ALLOCATIONS, description="threshold", **WIDE),
        split=w.Dropdown(value=c.split, options=SPLITS, description="measured on", **WIDE),
        images=w.BoundedIntText(value=c.images, min=1, max=1_000_000, description="images", **WIDE),
    )  # fmt: skip


def _damps(c: Explore) -> list[tuple[str, float]]:
    """The lambdas to choose from: each method's own, and the list's."""
    values = sorted({*c.damps, *([c.damp] if c.damp else [])})
    return [("each method's own, by validation", 0.0), *((f"{v:g}", v) for v in values)]


def _red(text: str) -> str:
    return f"<span style='color:#b00'>{escape(text)}</span>"


def _button(text: str, act: Callable[[], None], hint: str, style: str = "") -> w.Button:
    button = w.Button(description=text, tooltip=hint, button_style=style)
    button.on_click(lambda _: act())
    return button
