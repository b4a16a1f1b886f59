"""The panel's settings: a widget for each parameter that can be chosen anew, and what is wrong with them, in words."""

import re
from collections.abc import Callable
from difflib import get_close_matches
from inspect import signature
from typing import Any

import ipywidgets as w
import yaml

from ovit_core.data.catalog import DATASETS
from ovit_core.explorer.parameters import SPLITS, Explore
from ovit_core.methods import METHODS
from ovit_core.pattern import ALLOCATIONS
from ovit_core.study import checks
from ovit_core.study.parameters import from_yaml

PATTERNS = ("unstructured", "2:4", "4:8", "1:4")
WIDE = dict(style={"description_width": "90px"}, layout=w.Layout(width="330px", max_width="100%"))
ROW = w.Layout(flex_flow="row wrap")


class Settings:
    """`box` is the widget to show, `widgets` has one for each parameter, methods apart: `methods`, a box to tick each."""

    def __init__(self, c: Explore):
        damps = [("each method's own, by validation", 0.0), *((f"{v:g}", v) for v in sorted({*c.damps, c.damp} - {0}))]
        self.widgets: dict[str, w.Widget] = dict(
            model=w.Combobox(description="model", **WIDE),
            model_args=w.Text(description="its arguments", placeholder="{img_size: 32}", **WIDE),
            pretrained=w.Checkbox(description="timm's published weights", **WIDE),
            checkpoint=w.Text(description="checkpoint", placeholder="path; none: train it here", **WIDE),
            upstream=w.Combobox(options=sorted({*DATASETS, c.upstream}), description="dataset", **WIDE),
            epochs=w.BoundedIntText(max=10_000, description="epochs", **WIDE),
            lr=w.FloatText(step=0.0001, description="learning rate", **WIDE),
            block_size=w.BoundedIntText(min=1, max=4096, description="block size", **WIDE),
            gradients=w.BoundedIntText(min=1, max=100_000, description="gradients", **WIDE),
            damp=w.Dropdown(options=damps, description="λ", **WIDE),
            pattern=w.Combobox(options=PATTERNS, description="pattern", **WIDE),
            allocation=w.Dropdown(options=ALLOCATIONS, description="threshold", **WIDE),
            split=w.Dropdown(options=SPLITS, description="measured on", **WIDE),
            images=w.BoundedIntText(min=1, max=1_000_000, description="images", **WIDE),
        )
        args = yaml.safe_dump(c.model_args, default_flow_style=True, width=999).strip()
        for name, value in (c.model_dump() | dict(model_args=args)).items():
            if name in self.widgets:
                self.widgets[name].value = value
        look = dict(indent=False, layout=w.Layout(width="200px", margin="0"))
        self.methods = {
            name: w.Checkbox(value=name in c.methods, description=name, tooltip=method.about, **look)
            for name, method in METHODS.items()
            if not method.sequential
        }
        ticks = w.HBox(list(self.methods.values()), layout=w.Layout(flex_flow="row wrap", width="100%"))
        self.box = w.VBox([w.HBox(list(self.widgets.values()), layout=ROW), w.HTML("<b>methods</b>"), ticks])
        # Arguments fit one model; another begins without.
        self.widgets["model"].observe(lambda _: self.widgets["model_args"].set_trait("value", "{}"), "value")

    def observe(self, act: Callable[[], None]) -> None:
        """Calls `act` after each change."""
        for widget in (*self.widgets.values(), *self.methods.values()):
            widget.observe(lambda _: act(), "value")

    def chosen(self, config: Explore) -> Explore:
        """A config with these settings in it. ValueError, in one line, for what no parameter can be."""
        values = {name: widget.value for name, widget in self.widgets.items()}
        if not (methods := [name for name, box in self.methods.items() if box.value]):
            raise ValueError("methods: tick one at least")
        return config.replace(**values | dict(methods=methods, model_args=arguments(values["model_args"])))


def arguments(text: str) -> dict[str, Any]:
    """A model's arguments as they are written in the settings; ValueError with what would be right."""
    if not text.strip():
        return {}
    found = from_yaml("its arguments", text)
    if isinstance(found, dict) and None not in found.values():
        return found
    pairs = re.findall(r"([A-Za-z_]\w*)\s*[=:]?\s*([^\s,{}]+)", text.replace(":", " "))
    meant = (
        "{" + ", ".join(f"{name}: {value}" for name, value in pairs) + "}" if pairs else "{img_size: 32, patch_size: 8}"
    )
    raise ValueError(f"its arguments: expected a YAML mapping such as {meant}, not {text.strip()[:60]!r}")


def check(config: Explore) -> None:
    """As `checks.check`; arguments that timm does not know are named with the nearest ones it does."""
    try:
        checks.check(config)
    except ValueError as error:
        if not str(error).startswith("model: model_args"):
            raise
        from ovit_core import models

        known = [name for name in signature(type(models.outline(config.model)).__init__).parameters if name != "self"]
        strange = [name for name in config.model_args if name not in known]
        if not strange:
            raise ValueError(f"its arguments: {str(error).partition(': ')[2]}") from None
        near = [hit for name in strange for hit in get_close_matches(name, known, 1, 0.5)] or known[:8]
        said = f"{', '.join(strange)} {'is' if len(strange) == 1 else 'are'} not known to {config.model}"
        raise ValueError(f"its arguments: {said}; did you mean {' or '.join(near)}?") from None
