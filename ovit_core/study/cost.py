"""What measurements take, before they are made: from the seconds of earlier rows, else from a model of the cost.

The model counts operations of a Vision Transformer and takes elimination from the benchmark's rows; it knows the order
of magnitude. Without torch: an estimate is there at once.
"""

import csv
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import numpy as np

from ovit_core.data import catalog
from ovit_core.study import paths
from ovit_core.study.parameters import Parameters
from ovit_core.study.tasks import KEY, Row, Task

# timm's names -> width, depth
SIZES = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}
BACKWARD = 3  # forward and backward take so many times the forward pass
SHARE = 0.45  # of a large product's speed that training a small transformer reaches (ViT of width 64 to 192, two cores)
MIXED = 2.0  # so many times as fast is training in bfloat16, on a processor that has instructions for it (the same)
ROUGH = 2.0  # factor by which the model may be wrong where no rows tell
START, PAGE = 9.0, 14.0  # seconds: processes that import torch, once a run; a notebook that only reads rows
IMAGES, PROBE = 3000, 8.0  # test images, and seconds of a linear probe, where nothing is known
ONE = tuple(column for column in KEY if column not in ("metric", "scope", "scope_name", "C"))  # same in a task's rows


class Estimate(NamedTuple):
    """Seconds, and the factor by which they may be wrong."""

    seconds: float
    factor: float


class Shape(NamedTuple):
    """A Vision Transformer, as far as its name and arguments tell."""

    width: int
    depth: int
    tokens: int
    pixels: int  # of an image's side

    @property
    def prunable(self) -> int:
        """Weights of the projections: qkv, proj, fc1, fc2."""
        return 12 * self.width**2 * self.depth

    @property
    def flops(self) -> float:
        """Of a forward pass of one image."""
        return self.depth * (24 * self.tokens * self.width**2 + 4 * self.tokens**2 * self.width)


def shape(config: Any) -> Shape | None:
    """The model's shape; None for one that is not called like a ViT or DeiT, or has not their arguments."""
    name = re.match(r"(?:vit|deit3?)_(tiny|small|base|large)\w*?_patch(\d+)(?:_\w*?(\d{2,4}))?", config.model)
    if not name:
        return None
    width, depth = SIZES[name[1]]
    a = dict(embed_dim=width, depth=depth, patch_size=int(name[2]), img_size=int(name[3] or 224)) | config.model_args
    try:
        size, patch = (max(v) if isinstance(v, list | tuple) else v for v in (a["img_size"], a["patch_size"]))
        return Shape(int(a["embed_dim"]), int(a["depth"]), (size // patch) ** 2 + 1, size)
    except (TypeError, ValueError, ArithmeticError):  # no ViT has such arguments; a run will say so
        return None


@cache
def speed() -> float:
    """Operations a second of one thread, from a product of the size that small models make."""
    from threadpoolctl import threadpool_limits

    a, b = (np.ones(s, np.float32) for s in ((2048, 256), (256, 1024)))
    with threadpool_limits(1):
        seconds = []
        for _ in range(8):
            begin = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - begin)
    return 2 * 2048 * 256 * 1024 / min(seconds)


@cache
def elimination() -> tuple[np.ndarray, float] | None:
    """log seconds of Fisher, inverse and elimination as a linear function of 1, log d, log B and log m, fitted to the
    benchmark's rows, and the factor by which it misses them; None without rows.
    """
    path = paths.ROOT / "figures" / "benchmark" / "scaling.csv"
    if not path.is_file():
        return None
    seconds: dict[tuple, float] = defaultdict(float)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            seconds[row["varies"], row["d"], row["B"], row["m"]] += float(row["seconds"])
    x = np.array([[1, *(math.log(float(v)) for v in key[1:])] for key in seconds])
    y = np.log(list(seconds.values()))
    fit = np.linalg.lstsq(x, y, rcond=None)[0]
    return fit, math.exp(2 * float(np.std(y - x @ fit)))


class Costs:
    """Seconds of tasks.

    Args:
        config: of an ablation.
        rows: measured here earlier.
        images: of the upstream training split and test split, where they are known.
        published: rows that somebody measured, perhaps on another machine: where there are own ones of the same kinds
            too, the others' seconds are stretched by the ratio of both.
    """

    def __init__(
        self, config: Parameters, rows: Iterable[Row], images: tuple[int, int] | None, published: Iterable[Row] = ()
    ):
        self.config, self.images = config, images or (0, IMAGES)
        # A step of training costs as much as so many forward passes.
        self._step = BACKWARD / (MIXED if config.amp_dtype else 1)
        self._known, others = self._seconds_by_place(rows), self._seconds_by_place(published)
        both = [(fmean(self._known[place]), fmean(others[place])) for place in self._known.keys() & others.keys()]
        theirs = sum(other for _, other in both)
        pace = sum(own for own, _ in both) / theirs if theirs else 1.0
        for place in others.keys() - self._known.keys():
            self._known[place] = [pace * seconds for seconds in others[place]]

    def _seconds_by_place(self, rows: Iterable[Row]) -> dict[tuple, list[float]]:
        """Seconds of tasks, by what makes them alike."""
        taken: dict[tuple, float] = defaultdict(float)
        for row in rows:
            if row["seconds"]:
                place = self._place(row, row.get("scope") or "all")
                taken[place, tuple(str(row.get(column, "")) for column in ONE)] += row["seconds"]
        known: dict[tuple, list[float]] = defaultdict(list)
        for (place, _), seconds in taken.items():
            known[place].append(seconds)
            for longer in (place[:-1], place[:-2]):  # an epoch's
                known[longer].append(seconds / (place[-1] or 1))
        return dict(known)

    @staticmethod
    def _place(columns: Row, scope: str) -> tuple:
        """By what tasks are alike: the phase, of what their first row is (all, layers, pairs of methods), the dataset,
        whether they train for a number of epochs, the method, and that number.
        """
        epochs = 0.0 if columns.get("source_phase") else float(columns.get("epochs") or 0)
        return columns["phase"], scope, columns["dataset"], epochs > 0, columns["method"], epochs

    def of(self, task: Task) -> Estimate:
        """What a task takes on one worker."""
        place = self._place(task.columns, task.metrics[0][1])
        for key, times in ((place, 1), (place[:-1], place[-1] or 1), (place[:-2], place[-1] or 1)):
            if seconds := self._known.get(key):
                spread = pstdev(seconds) / fmean(seconds) / math.sqrt(len(seconds)) if len(seconds) > 1 else 0.5
                return Estimate(times * fmean(seconds), 1.2 + 2 * spread)
        return self._modelled(task)

    def dense(self, known: Sequence[float]) -> Estimate:
        """Training one dense model; `known` are seconds of earlier ones."""
        if known:
            return Estimate(fmean(known), 1.25)
        return self._seconds(self._trained(self.config.epochs))

    def _trained(self, epochs: float) -> float:
        """Forward passes that training a dense model costs as much as: a tenth of the images is for validation."""
        return self._step * epochs * 0.9 * (self.images[0] or 10 * IMAGES)

    def _seconds(self, images: float) -> Estimate:
        """Of so many forward passes."""
        one = shape(self.config)
        flops = one.flops if one else 1e9
        return Estimate(images * flops / (SHARE * speed() * self.config.threads), ROUGH if one else 10.0)

    def _modelled(self, task: Task) -> Estimate:
        c, columns, one = self.config, task.columns, shape(self.config)
        if task.kind == "where_it_acts":  # masks of copies that are made anyhow
            return Estimate(0.0, ROUGH)
        values, phase, epochs = c.values(), columns["phase"], columns["epochs"] or 0
        recovery = self._step * values.get("recovery_images", 0) * epochs
        steps = values.get("scratch_steps" if columns["method"] == "from_scratch" else "full_steps", 0)
        full = self._step * steps * values.get("full_batch_size", 0)
        held = min(0.1 * (self.images[0] or 10 * IMAGES), catalog.MOST_VALIDATION)
        searched = c.search_images if phase == "lambda_search" else held
        images = (searched if phase.endswith("_search") or phase == "dense_length" else self.images[1]) + {
            # That of full length is there already: it is the dense model itself.
            "dense_length": self._trained(epochs) if epochs < c.epochs else 0,
            **dict.fromkeys(("recovered", "recovery_search", "gradual", "gradual_search"), recovery),
            **dict.fromkeys(("full", "full_length"), full),
            "lr_search": full / 2,
            "linear": 3 * IMAGES,  # whose features the other ways to read them share
        }.get(phase, 0)
        curved = columns["damp_rule"] != ""
        gradients = BACKWARD * columns["gradients"] * columns["gradient_batch"]
        if curved and columns["passes"] > 1:
            images += gradients * columns["passes"]
        elif curved and phase == "lambda_search":
            images += gradients / len(c.damps)
        seconds, factor = self._seconds(images)
        if phase == "linear":
            seconds += PROBE / 8 if columns["shots"] else PROBE
        if curved and one and (fit := elimination()):
            # Searches of rates and lengths of training share a factorization, and so does what reads features.
            shared = {"lambda_search": 1, "gradual": 1, "gradual_search": 1, "linear": 0.1, "knn": 0.1, "features": 0.1}
            kept = columns["source_phase"] == "recovered"  # in the cache, from when it was trained
            count = 0 if kept else columns["passes"] if columns["passes"] > 1 else shared.get(phase, 0.3)
            x = [1, math.log(one.prunable), math.log(columns["block_size"]), math.log(columns["gradients"])]
            seconds += count * math.exp(float(np.dot(x, fit[0])))
            factor = max(factor, fit[1])
        return Estimate(seconds, factor)


def makespan(units: Sequence[float], workers: int) -> float:
    """Seconds until the last of some units ends, each taken up in turn by the first worker that is free."""
    busy = [0.0] * max(1, workers)
    for seconds in units:
        busy[busy.index(min(busy))] += seconds
    return max(busy)


def memory(config: Parameters) -> float | None:
    """Gigabytes that a worker holds at most: Fisher, inverse and factor in float64, beside torch and images."""
    one = shape(config)
    return None if one is None else 1.0 + 3 * 8 * one.prunable * config.block_size / 1e9


def decoded(config: Parameters, images: int) -> float:
    """Gigabytes that so many images take at most in the cache, once small pictures among them are decoded."""
    one = shape(config)
    return 3 * one.pixels**2 * images / 1e9 if one and one.pixels <= catalog.IN_MEMORY else 0.0
