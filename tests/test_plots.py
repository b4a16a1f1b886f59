"""The look of figures."""

import pandas as pd

from ovit_core.ablations.no_weight_update import figures
from ovit_core.methods import METHODS, Method
from ovit_core.study import plots


def test_every_method_has_its_colour():
    assert set(plots.STYLE) == set(METHODS)


def test_a_method_that_somebody_added_is_drawn_beside_as_many_as_can_be_told_apart(monkeypatch):
    """Also without a colour of its own: it is what they want to see."""
    every = pd.DataFrame(dict(method=[*METHODS, "mine"]))
    assert "mine" not in plots.shown(every)  # of no table
    monkeypatch.setitem(METHODS, "mine", Method("diagonal", "joint", "mine"))
    for module in (plots, figures):
        monkeypatch.setattr(module, "added", lambda: {"mine": ""})
    assert plots.shown(every) == [*list(plots.STYLE)[:6], "mine"]
    columns = dict(
        phase="one_shot", dataset="d", upstream="d", allocation="global", pattern="unstructured", scope="all"
    )
    lines = [
        columns | dict(experiment="no_weight_update", metric="top1", damp_rule="own", method=m, seed=s, sparsity_target=at,
                       value=0.5, shots=float("nan"), epochs=float("nan"), recomputations=0.0, source_phase="", profile="q")
        for m in ("ovit", "mine") for s in (0, 1) for at in (0.5, 0.9)
    ]  # fmt: skip
    fig = figures.accuracies(pd.DataFrame(lines), ("a", "global", "sparsity_target"))
    assert {"ovit", "mine"} <= {one.get_label() for one in fig.axes[0].containers}
