"""What there is to measure, as plain values: listed without torch, done anywhere, known again by its rows.

An ablation lists its tasks in stages; between two stages is a barrier, for what a stage measures decides what the next
one asks (first the searches of all seeds, then the measurements at what they chose).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ovit_core.methods import METHODS, get_method
from ovit_core.study import provenance
from ovit_core.study.parameters import Parameters

TESTED = ("top1", "cross_entropy", "expected_calibration_error")  # what is measured of a model upstream
SHARED = "shared"  # the `experiment` of rows that any ablation may ask for; each exports them under its own name
COLUMNS = """experiment profile model upstream dataset method score update allocation pattern phase source_phase
damp_rule passes shots epochs dense_seed gradient_seed finetune_seed threads sparsity_target sparsity sparsity_model
block_size damp gradients gradient_batch recomputations lr C scope scope_name seed metric value n_test seconds device
commit versions run_id""".split()
NUMBERS = """passes shots epochs dense_seed gradient_seed finetune_seed threads sparsity_target sparsity sparsity_model
block_size damp gradients gradient_batch recomputations lr C seed value n_test seconds""".split()
MEASURED = ("sparsity", "sparsity_model", "value", "n_test", "seconds", "device", "commit", "versions")
KEY = tuple(column for column in COLUMNS if column not in MEASURED)  # what identifies a row
Row = Mapping[str, Any]


@dataclass(frozen=True)
class World:
    """What rows depend on beside parameters and code, known once data and dense models are there."""

    fingerprints: Mapping[str, str] = field(default_factory=dict)  # dataset -> of its images and labels
    dense: Mapping[int, str] = field(default_factory=dict)  # dense seed -> of the model's weights
    headless: bool = False  # whether the model gives features only


@dataclass(frozen=True)
class Task:
    """One measurement."""

    kind: str  # the method of the ablation's `Seed` that does it
    columns: Row  # what all of its rows have in common
    metrics: tuple[tuple[str, str], ...]  # (metric, scope) of rows without which it is not done
    choose: tuple[str, tuple[float, ...]] | None = None  # a column chosen from values by rows of VALIDATION
    modules: tuple[str, ...] = ()  # the code that does it,
    code: str = ""  # and the hash of that code where the task was listed
    sources: "tuple[Task, ...]" = ()  # those whose models it begins with, or compares

    @property
    def source(self) -> "Task":
        """The task whose model it begins with."""
        return self.sources[0]

    @property
    def wanted(self) -> frozenset[tuple[str, str]]:
        """(metric, scope) of the rows that are kept of it."""
        return frozenset((*self.metrics, *([(VALIDATION, "all")] if self.choose else [])))

    def asks(self, row: Row) -> bool:
        """Whether a row is one of those that are kept of it: a measurement may know more than it is asked for."""
        return (row["metric"], row["scope"]) in self.wanted

    def __str__(self) -> str:
        c = self.columns
        at = f" at {c['sparsity_target']:g}" if c["sparsity_target"] else ""
        return f"{c['phase']} of {c['method']}{at} on {c['dataset']}"


Stage = Callable[[Any, int, World, Sequence[Row]], list[Task]]  # (parameters, seed, world, rows of the stages before)
VALIDATION = "validation_top1"  # the metric of rows by which something is chosen
HELD_OUT = "held_out_top1"  # likewise on validation, of what was chosen: whether a dataset can tell anything


def task(
    config: Parameters,
    seed: int,
    world: World,
    kind: str,
    metrics: Sequence[str | tuple[str, str]],
    *,
    depends: Iterable[str] = (),
    datasets: Iterable[str] = (),
    modules: Iterable[str] = provenance.STUDY,
    choose: tuple[str, Sequence[float]] | None = None,
    sources: Sequence[Task] = (),
    **columns: Any,
) -> Task:
    """A task of a seed, with the columns that every row has.

    Args:
        depends: parameters on which its rows depend and that have no column; the dense model's are known by its weights.
        datasets: those it reads besides the upstream one.
        modules: the code that its rows depend on.
        choose: a column, and the values it is chosen from on validation.
        sources: tasks of the same seed whose models it begins with, or compares; its rows depend on all they depend on.
    """
    dense_seed = seed if config.dense_per_seed else 0
    method = get_method(columns["method"]) if columns["method"] in METHODS else None  # else dense, or a floor
    score, update = method[:2] if method else ("", "")
    common = dict(
        experiment=config.experiment, profile=config.profile, model=config.model, upstream=config.upstream,
        dataset=config.upstream, score=score, update=update, allocation="global", pattern="unstructured",
        passes=int(bool(method and method.needs_curvature)), dense_seed=dense_seed, gradient_seed=seed,
        threads=config.threads, sparsity_target=0.0, block_size=config.block_size, gradients=config.gradients,
        gradient_batch=config.gradient_batch, recomputations=0, seed=seed,
    )  # fmt: skip
    values = config.values()
    known = [world.fingerprints.get(name, "") for name in (config.upstream, *datasets)]
    code = provenance.code(*modules)
    told = {name: values[name] for name in ("prunable", *depends)}
    if columns["method"] in (later := provenance.added()):
        told["method"] = later[columns["method"]]
    run_id = provenance.digest(told, known, world.dense.get(dense_seed, ""), code, [dict(s.columns) for s in sources])
    pairs = tuple((metric, "all") if isinstance(metric, str) else metric for metric in metrics)
    chosen = (choose[0], tuple(choose[1])) if choose else None
    columns = dict.fromkeys(KEY, "") | common | dict(scope="all") | columns | dict(run_id=run_id)
    return Task(kind, columns, pairs, chosen, tuple(modules), provenance.guard(*modules), tuple(sources))


def identity_of(task: Task) -> tuple:
    """What tells a task from all others."""
    return task.kind, *task.columns.items()


class Found:
    """The rows there are, asked by task."""

    def __init__(self, rows: Iterable[Row]):
        self._rows = defaultdict(list)
        for row in rows:
            self._rows[self._place(row)].append(row)

    @staticmethod
    def _place(row: Row) -> tuple:
        return row["run_id"], row["phase"], row["dataset"], row["method"], row["sparsity_target"], row["seed"]

    def of(self, task: Task) -> list[Row]:
        """All rows of a task that is done; none of one that is not."""
        free = {"metric", "scope", "scope_name"} | ({task.choose[0]} if task.choose else set())
        if task.columns["scope_name"]:
            free -= {"scope_name"}
        fixed = [column for column in KEY if column not in free]
        rows = [row for row in self._rows[self._place(task.columns)] if all(row[c] == task.columns[c] for c in fixed)]
        if task.choose:
            column, values = task.choose
            tried = {row[column]: row for row in rows if row["metric"] == VALIDATION and row[column] in values}
            if len(tried) < len(values):
                return []
            best = max(values, key=lambda value: tried[value]["value"])  # the first of equals
            rows = [*tried.values(), *(row for row in rows if row["metric"] != VALIDATION and row[column] == best)]
        rows = [row for row in rows if task.asks(row)]
        return rows if {(row["metric"], row["scope"]) for row in rows}.issuperset(task.metrics) else []


def best_of(
    rows: Iterable[Row], column: str, values: Sequence[float], larger: bool, within: float = 1e-9
) -> float | None:
    """Which of some values of a column has the best mean over seeds of the rows' `value`.

    Values `within` so much of the best are equal, and go to the larger or the smaller. None where a seed has tried some
    of them and not all: what part of a search says is not what all of it would.
    """
    tried = {value: {} for value in values}
    for row in rows:
        if row[column] in tried:
            tried[row[column]][row["seed"]] = row["value"]
    if not all(tried.values()) or len({frozenset(seeds) for seeds in tried.values()}) > 1:
        return None
    means = {value: fmean(seeds.values()) for value, seeds in tried.items()}
    best = [value for value, mean in means.items() if mean >= max(means.values()) - within]
    return (max if larger else min)(best, default=None)
