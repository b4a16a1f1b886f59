"""How the panel looks: its style sheet, buttons, and errors that can be read in both themes."""

from collections.abc import Callable
from html import escape

import ipywidgets as w

# Red on white 6.6 : 1, on the dark theme 7.5 : 1; WCAG AA asks for 4.5.
LOOK = """<style>.ovit-warning{border-left:4px solid #e65100;padding-left:8px}
.ovit-red{color:#b71c1c;font-weight:600}body[data-jp-theme-light=false] .ovit-red{color:#ef9a9a}
.ovit-view,.ovit-view .widget-html-content{min-width:0;max-width:100%}
.ovit-view .widget-html-content{line-height:1.4}.ovit-numbers .widget-html-content{overflow-x:auto}
.ovit-numbers table{font-variant-numeric:tabular-nums;border-collapse:collapse;margin:2px 0}
.ovit-numbers th,.ovit-numbers td{text-align:left;padding:0 14px 1px 0;white-space:nowrap}
.ovit-numbers tbody th{white-space:normal;min-width:118px;overflow-wrap:anywhere}
.ovit-tabs,.ovit-tabs>.lm-TabBar{min-width:0!important;max-width:100%}
.ovit-tabs>.lm-TabBar{height:auto!important;max-height:none!important}
.ovit-tabs>.lm-TabBar .lm-TabBar-content{flex-wrap:wrap;min-width:0;width:100%}
.ovit-tabs>.lm-TabBar .lm-TabBar-tab{flex:0 0 auto!important;min-width:0!important;padding:0 8px}</style>"""


def red(text: str) -> str:
    """What went wrong, as HTML."""
    return f"<span class='ovit-red'>{escape(text)}</span>"


def button(text: str, act: Callable[[], None], hint: str, **options) -> w.Button:
    """A button and what it does."""
    made = w.Button(description=text, tooltip=hint, layout=w.Layout(width="auto"), **options)
    made.on_click(lambda _: act())
    return made
