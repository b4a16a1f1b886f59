"""The look of figures."""

from ovit_core.methods import METHODS
from ovit_core.study import plots


def test_every_method_has_its_colour():
    assert set(plots.STYLE) == set(METHODS)
