"""A drawing that a panel shows as HTML and a notebook as a PNG."""

from ovit_core.explorer import page, paper
from ovit_core.explorer.chart import Drawing


class Picture(Drawing):
    """A view. A notebook shows it as matplotlib draws it: that needs no style sheet, and is trusted on every page."""

    def html(self) -> str:
        """For a browser."""
        return page.html(self)

    def _repr_png_(self) -> bytes:
        return paper.png(self)
