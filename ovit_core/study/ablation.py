"""An ablation as a record: a folder with the parameters, the run, what its rows say, and its figures.

    NAME/__init__.py     ABLATION = Ablation("what it asks", __name__, Parameters)
    NAME/parameters.py   its parameters, plain values
    NAME/tasks.py        STAGES: functions that list what is to be measured, plain values too
    NAME/run.py          Seed(config, seed, world), whose `measure` does a task
    NAME/analysis.py     headline(results), answers(rows), tables(rows), not_run(config); families(config) if `compares`,
                         guide(results) if `guides`
    NAME/figures.py      FIGURES: name -> Drawing

Its notebook is NAME.ipynb in `notebooks/`, or in the folder itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ovit_core.study import paths
from ovit_core.study.parameters import Parameters

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ovit_core.study.families import Family
    from ovit_core.study.store import Images
    from ovit_core.study.tasks import Stage


class Drawing(NamedTuple):
    """A figure of an ablation; None where the rows for it were not run. Its label, if it has one, tells its numbers."""

    make: "Callable[[Any], Figure | None]"  # of the rows alone,
    title: str
    caption: str
    compared: bool = False  # or of the `Results`, for it shows their comparisons


class Text(str):
    """Markdown, shown as such by a notebook."""

    def _repr_markdown_(self) -> str:
        return str(self)


def _said(text: str) -> Text:
    """A text of an analysis as a page has it: with datasets' bare names."""
    from ovit_core.study import plots

    return Text(plots.bare(text))


class Fold(NamedTuple):
    """Markdown that a page shows when it is asked for."""

    title: str
    body: str

    def __str__(self) -> str:
        return f"<details>\n<summary>{self.title}</summary>\n\n{self.body}\n\n</details>" if self.body else ""

    def _repr_markdown_(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Ablation:
    """The record of an ablation; what it holds beyond this is imported when it is asked for."""

    title: str  # what it asks, for headings
    package: str  # where it lies
    parameters: type[Parameters]  # their `experiment` is the ablation's name
    sweeps: tuple[str, ...] = ()  # what the rows of its sweeps have for `experiment`
    prunes: bool = True  # whether it needs the dense model,
    needs_head: bool = False  # and whether one without a classifier head is of no use to it
    compares: bool = False  # whether its analysis lists families of comparisons
    guides: bool = False  # whether its analysis says what to take

    @property
    def name(self) -> str:
        return self.parameters.experiment

    @property
    def experiments(self) -> tuple[str, ...]:
        """The values of the column `experiment` that are its own."""
        return (self.name, *self.sweeps)

    @property
    def notebook(self) -> Path:
        beside = Path(str(import_module(self.package).__file__)).with_name(f"{self.name}.ipynb")
        return beside if beside.is_file() else paths.NOTEBOOKS / beside.name

    def check_parts(self) -> None:
        """Raises FileNotFoundError if a module or the notebook to show it with is missing, before anything is measured."""
        for part in PARTS:
            if find_spec(f"{self.package}.{part}") is None:
                raise FileNotFoundError(f"ablation {self.name} needs {part}.py in its package, {self.package}")
        if not self.notebook.is_file():
            place = Path(str(import_module(self.package).__file__)).parent
            raise FileNotFoundError(f"ablation {self.name} needs a notebook, {self.notebook.name}, in {place}")

    @property
    def analysis(self) -> ModuleType:
        return import_module(f"{self.package}.analysis")

    def families(self, config: Parameters) -> "list[Family]":
        """The comparisons that its sentences make, listed from its parameters alone; none for those of an older study."""
        return self.analysis.families(config) if self.compares and self.knows(config) else []

    def knows(self, config: Parameters) -> bool:
        """Whether parameters, as a study exported them, have all of those there are by now."""
        return {*self.parameters.model_fields} <= {*config.__dict__}

    @property
    def figures(self) -> Mapping[str, Drawing]:
        return import_module(f"{self.package}.figures").FIGURES

    @property
    def stages(self) -> "tuple[Stage, ...]":
        return import_module(f"{self.package}.tasks").STAGES

    def seed(self, config: Parameters, seed: int, *world: Any) -> Any:
        """One seed, ready to measure (in the `tasks.World` that tasks were listed for); this is what needs torch."""
        return import_module(f"{self.package}.run").Seed(config, seed, *world)


PARTS = ("tasks", "run", "analysis", "figures")  # modules of an ablation's package
Asked = tuple[Ablation, Parameters]  # an ablation, and what is asked of it


@dataclass(frozen=True)
class Results:
    """The rows of one ablation with the parameters that asked for them: what notebooks and the report show."""

    ablation: Ablation
    config: Parameters
    rows: "pd.DataFrame"
    failures: tuple[str, ...] = ()  # what could not be measured
    images: "Sequence[Images | None]" = ()  # behind each row

    @classmethod
    def of(
        cls,
        ablation: Ablation,
        config: Parameters,
        rows: "pd.DataFrame",
        images: "Sequence[Images | None]",
        failures: Sequence[str] = (),
    ) -> "Results":
        """Rows with the columns `each` and `labels` from the images behind them; losses where comparisons use them."""
        from ovit_core.study import families, per_image

        behind = per_image.slim(rows, images, families.used(rows, ablation.families(config)))
        return cls(ablation, config, per_image.with_images(rows, behind), tuple(failures), behind)

    def shown(self, name: str) -> "Figure | Text":
        """A figure on a notebook's page, written to runs/PROFILE; in words that there is none."""
        figure = self.figure(name)
        return (
            Text("*Not drawn: what it shows was not run, tells nothing, or stands in the figure before it.*")
            if figure is None
            else figure
        )

    def figure(self, name: str, save: bool = True) -> "Figure | None":
        """A figure, written to runs/PROFILE if it is to be saved; None where there is nothing."""
        from matplotlib.pyplot import close

        from ovit_core.study import plots

        with plots.style(**plots.PAPER):
            if name not in self._drawn:
                drawing = self.ablation.figures[name]
                figure = plots.laid_out(drawing.make(self if drawing.compared else self.rows))
                if figure is not None:
                    figure.set_label(_said(figure.get_label()))
                self._drawn[name] = figure
            figure = self._drawn[name]
            if save:
                plots.save(figure, name, self.rows)
        if figure is not None:
            close(figure)  # a notebook shows it as the cell's value, and not a second time
        return figure

    @cached_property
    def _drawn(self) -> "dict[str, Figure | None]":
        return {}

    def headline(self) -> Text:
        """What was found, in a sentence or two."""
        failed = [f"**Not measured**: {failure}." for failure in self.failures]
        return _said(" ".join([*failed, self.ablation.analysis.headline(self)]))

    def guide(self) -> Text:
        """What to take for which purpose, as Markdown; "" where nothing says so."""
        says = self.ablation.guides and self.ablation.knows(self.config)
        return _said(self.ablation.analysis.guide(self) if says else "")

    def answers(self) -> Text:
        """The headline, and behind it every comparison in words and what they rest on."""
        return Text(f"{self.headline()}\n\n{self.comparisons()}")

    def comparisons(self) -> Fold:
        """Every comparison, a sentence each, and what they rest on."""
        from ovit_core.study import families

        out, compared = [], self.differences()
        for family in self.families:
            if why := family.silent(self.rows) if family.silent else "":
                out.append(f"- **{family.title}**: {why}.")
                continue
            lines = compared[compared.family == family.name]
            said = family.says(lines) if family.says else ""
            later = " (listed once first rows of the study had been seen)" * family.later
            out.append(f"- **{families.titled(family, lines)}**{later}" + f": {said}." * bool(said))
            out += [f"  - {sentence}" for sentence in families.sentences(lines)]
        rest = [f"- {sentence}" for sentence in self.ablation.analysis.answers(self.rows)]
        title = f"In words: {len(compared)} comparisons, and what they rest on" if out else "What the numbers rest on"
        return Fold(title, _said("\n".join([*out, *rest])))

    @cached_property
    def families(self) -> "list[Family]":
        """The comparisons, whatever the rows are."""
        return self.ablation.families(self.config)

    def differences(self) -> "pd.DataFrame":
        """Those comparisons, a line each, with intervals and Holm's p."""
        return self._differences

    @cached_property
    def _differences(self) -> "pd.DataFrame":
        from ovit_core.study import families

        return families.differences(self.rows, self.families)

    def setting(self) -> Text:
        """In what setting it was found."""
        from ovit_core.study import statistics

        return Text(statistics.setting(self.rows, self.config))

    def absent(self) -> Text:
        """What was not run."""
        older = not self.ablation.knows(self.config)
        return _said("" if older else self.ablation.analysis.not_run(self.config))

    def table(self, phase: str, regimes: bool = False) -> "pd.DataFrame | None":
        """Methods by sparsities in percent on the upstream dataset, with one threshold, or in the other regimes."""
        from ovit_core.study import statistics

        return statistics.table(self.rows, phase, self.config.upstream, regimes)

    def tables(self) -> Text:
        """Means and intervals of what was measured, as Markdown."""
        return _said(self.ablation.analysis.tables(self.rows))

    def export(self) -> None:
        """Writes rows, the images behind them, parameters, comparisons and the table of means to runs/PROFILE, where
        the report finds them.

        Raises:
            RuntimeError: something could not be measured; the rest is written.
        """
        from ovit_core.study import export, statistics

        export.export(self)
        export.export_table(statistics.accuracy(self.rows), self.config.profile, self.ablation.name)
        if self.failures:
            raise RuntimeError(f"{len(self.failures)} could not be measured; the first: {self.failures[0]}")
