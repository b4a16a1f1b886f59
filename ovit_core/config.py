"""Parameters of a study: what a notebook's `parameters` cell may hold, checked before any work is done."""

import ast
import dataclasses
import difflib
import hashlib
import inspect
import json
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

from ovit_core import data, models
from ovit_core.batches import AUGMENTATIONS
from ovit_core.plan import ALLOCATIONS, check_sparsity, parse_pattern
from ovit_core.pruning import get_method
from ovit_core.schedule import cubic

ROOT = Path(__file__).resolve().parent.parent
PROTOCOLS = ("linear", "full")


@dataclass(frozen=True)
class Config:
    """What both ablations share. The notebooks' `parameters` cells explain each field."""

    profile: str
    upstream: str
    data_dir: str
    model: str
    model_args: dict
    pretrained: bool
    checkpoint: str
    prunable: str
    epochs: int
    lr: float
    weight_decay: float
    batch_size: int
    augment: list[str]
    seeds: list[int]
    dense_per_seed: bool
    gradients: int
    gradient_batch: int
    block_size: int
    damps: list[float]
    damp_sparsity: float
    device: str

    @property
    def data_path(self) -> Path:
        """`data_dir`, relative to the repository wherever the notebook runs."""
        return ROOT / self.data_dir

    @property
    def checkpoint_path(self) -> Path | None:
        """`checkpoint`, likewise; None for none."""
        return ROOT / self.checkpoint if self.checkpoint else None

    def __post_init__(self):
        check_name(self.profile)
        data.check(self.upstream, self.data_path)
        if self.model not in models.timm.list_models():
            models.create(self.model, 1)  # raises with the nearest names
        for name in ("batch_size", "gradients", "gradient_batch", "block_size"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.epochs >= 0, "epochs", "at least 0", self.epochs)
        require(self.lr > 0, "lr", "positive", self.lr)
        require(
            bool(self.seeds) and len(set(self.seeds)) == len(self.seeds),
            "seeds",
            "different and at least one",
            self.seeds,
        )
        require(bool(self.damps) and min(self.damps) > 0, "damps", "positive and at least one", self.damps)
        require(
            set(self.augment) <= set(AUGMENTATIONS),
            "augment",
            f"among {', '.join(AUGMENTATIONS)}",
            self.augment,
        )
        check_sparsity(self.damp_sparsity)
        path = self.checkpoint_path
        require(path is None or path.is_file(), "checkpoint", "an existing file", self.checkpoint)
        require(
            self.device in ("auto", "cpu") or self.device.startswith("cuda"), "device", "auto, cpu or cuda", self.device
        )

    @property
    def experiment(self) -> str:
        return EXPERIMENTS[type(self)]


@dataclass(frozen=True)
class NoWeightUpdate(Config):
    """Ablation A."""

    methods: list[str]
    sparsities: list[float]
    regimes: list[str]
    recovery_methods: list[str]
    recovery_sparsities: list[float]
    recovery_epochs: int
    recovery_images: int
    recovery_lr: float
    gradual_methods: list[str]
    gradual_sparsities: list[float]
    gradual_start: float
    gradual_cycles: int
    gradual_epochs: int
    gradual_images: int
    gradual_lr: float
    gradual_final_lr: float
    sensitivity_sparsity: float
    sensitivity_block_sizes: list[int]
    sensitivity_gradients: list[int]
    sensitivity_batches: list[int]
    sensitivity_damps: list[float]

    @property
    def points(self) -> dict[str, tuple[list[str], list[float]]]:
        """phase -> the methods and sparsities asked for."""
        patterns = [p for p in map(parse_pattern, self.regime_patterns) if p]
        implied = [round(1 - n / m, 6) for n, m in patterns]
        return dict(
            one_shot=(self.methods, [*self.sparsities, *implied]),
            recovered=(self.recovery_methods, self.recovery_sparsities),
            gradual=(self.gradual_methods, self.gradual_sparsities),
        )

    @property
    def sweeps(self) -> dict[str, list]:
        """What the sensitivity of the update's gain is measured against: column -> values."""
        return dict(
            block_size=self.sensitivity_block_sizes,
            gradients=self.sensitivity_gradients,
            gradient_batch=self.sensitivity_batches,
            damp=self.sensitivity_damps,
        )

    @property
    def regime_pairs(self) -> set[tuple[str, str]]:
        """(allocation, pattern) of each of `regimes`, as in the rows."""
        return {(r, "unstructured") if r in ALLOCATIONS else ("uniform", r) for r in self.regimes}

    @property
    def regime_patterns(self) -> list[str]:
        """ "unstructured" or N:M, for each of `regimes`."""
        return ["unstructured" if r in ALLOCATIONS else r for r in self.regimes]

    def __post_init__(self):
        super().__post_init__()
        for method in (*self.methods, *self.recovery_methods, *self.gradual_methods):
            get_method(method)
        for s in (*self.sparsities, *self.recovery_sparsities, *self.gradual_sparsities, self.sensitivity_sparsity):
            check_sparsity(s)
        for pattern in self.regime_patterns:
            parse_pattern(pattern)
        for s in self.gradual_sparsities:
            cubic(self.gradual_start, s, self.gradual_cycles)
        for name in ("methods", "sparsities", "regimes"):
            require(bool(getattr(self, name)), name, "at least one", getattr(self, name))
        for name in ("recovery_epochs", "gradual_epochs"):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        for name in ("recovery_images", "gradual_images"):
            require(getattr(self, name) >= self.batch_size, name, "at least batch_size", getattr(self, name))
        for name in ("recovery_lr", "gradual_lr", "gradual_final_lr"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for s in (*self.sparsities, *self.recovery_sparsities, *self.gradual_sparsities, self.sensitivity_sparsity):
            require(0 < s < 1, "sparsity", "above 0 and below 1 (dense is always measured)", s)
        multiple = math.lcm(*(found[1] for p in self.regime_patterns if (found := parse_pattern(p))))
        for name in ("sensitivity_block_sizes", "sensitivity_gradients", "sensitivity_batches"):
            require(min(getattr(self, name), default=1) >= 1, name, "at least 1", getattr(self, name))
        require(self.block_size >= multiple, "block_size", f"at least {multiple}, for {self.regimes}", self.block_size)
        require(min(self.sensitivity_damps, default=1.0) > 0, "sensitivity_damps", "positive", self.sensitivity_damps)


@dataclass(frozen=True)
class Transfer(Config):
    """Ablation B."""

    datasets: list[str]
    protocols: list[str]
    transfer_methods: list[str]
    transfer_sparsities: list[float]
    full_sparsities: list[float]
    full_steps: int
    full_batch_size: int
    full_lrs: list[float]
    probe_Cs: list[float]

    @property
    def points(self) -> dict[str, tuple[list[str], list[float]]]:
        """phase -> the methods and sparsities asked for."""
        sparsities = dict(linear=self.transfer_sparsities, full=self.full_sparsities)
        asked = {phase: (self.transfer_methods, sparsities[phase]) for phase in self.protocols}
        return asked | dict(
            one_shot=(self.transfer_methods, sorted({s for p in self.protocols for s in sparsities[p]}))
        )

    def __post_init__(self):
        super().__post_init__()
        for dataset in self.datasets:
            data.check(dataset, self.data_path)
        for method in self.transfer_methods:
            get_method(method)
        for s in (*self.transfer_sparsities, *self.full_sparsities):
            check_sparsity(s)
        for name in ("datasets", "transfer_methods", "transfer_sparsities"):
            require(bool(getattr(self, name)), name, "at least one", getattr(self, name))
        require(
            set(self.protocols) <= set(PROTOCOLS) and self.protocols,
            "protocols",
            f"among {', '.join(PROTOCOLS)}",
            self.protocols,
        )
        require(
            self.full_steps >= 1 and self.full_batch_size >= 1,
            "full_steps and full_batch_size",
            "at least 1",
            self.full_steps,
        )
        require(bool(self.full_lrs) and min(self.full_lrs) > 0, "full_lrs", "positive and at least one", self.full_lrs)
        require(bool(self.probe_Cs) and min(self.probe_Cs) > 0, "probe_Cs", "positive and at least one", self.probe_Cs)


# More methods or sparsities add rows to a run; they do not change those it has.
GRID = (
    "methods", "sparsities", "regimes", "recovery_methods", "recovery_sparsities", "gradual_methods", "gradual_sparsities",
    "sensitivity_sparsity", "sensitivity_block_sizes", "sensitivity_gradients", "sensitivity_batches", "sensitivity_damps",
    "protocols", "transfer_methods", "transfer_sparsities", "full_sparsities",
)  # fmt: skip
EXPERIMENTS = {NoWeightUpdate: "no_weight_update", Transfer: "transfer"}


def require(condition: bool, name: str, rule: str, value: Any) -> None:
    """Raises ValueError naming the parameter, its rule and what was given."""
    if not condition:
        raise ValueError(f"parameter {name} must be {rule}, not {value!r}")


def check_name(profile: str) -> str:
    require(bool(profile) and profile.replace("_", "").replace("-", "").isalnum(), "profile", "a plain name", profile)
    return profile


def from_parameters(kind: type[Config], parameters: dict[str, Any]) -> Config:
    """Builds and checks a config from parameters, e.g. a notebook's `globals()`.

    A parameter of the other ablation is accepted and left out, so that one profile serves both.

    Raises:
        ValueError: a parameter is unknown, missing, of the wrong type or out of range; names it.
    """
    plain = {
        k: v
        for k, v in parameters.items()
        if not k.startswith("_") and isinstance(v, (bool, int, float, str, list, dict))
    }
    # In a notebook other names are the reader's own; what papermill injected is in the cell it heads "# Parameters".
    cells = [c for c in plain.pop("In", []) if c.startswith("# Parameters\n")] if "In" in parameters else None
    plain.pop("Out", None)
    known = {f.name for c in (*EXPERIMENTS, kind) for f in dataclasses.fields(c)}
    given = (
        plain
        if cells is None
        else [line.partition("=")[0].strip() for c in cells for line in c.splitlines() if " = " in line]
    )
    for name in given:
        if name not in known and name.isidentifier():
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"unknown parameter {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    fields = {f.name: f.type for f in dataclasses.fields(kind)}
    if missing := fields.keys() - plain.keys():
        raise ValueError(f"missing parameters: {', '.join(sorted(missing))}")
    return kind(**{name: _convert(name, plain[name], hint) for name, hint in fields.items()})


def _convert(name: str, value: Any, hint: Any) -> Any:
    """The value in the field's type. PyYAML reads 1e-8 as a string, and 1 is a good float."""
    if get_origin(hint) is list:
        require(isinstance(value, list), name, "a list (with papermill: -y 'NAME: [a, b]')", value)
        return [_convert(name, v, get_args(hint)[0]) for v in value]
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    require(
        isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool)),
        name,
        f"a {hint.__name__}",
        value,
    )
    return value


def digest(*parts: Any) -> str:
    """A short hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def source(*code: ModuleType | type | Callable) -> str:
    """A hash of the code of modules, classes or functions, so that numbers are never mistaken for those of other code.

    Comments, docstrings and layout do not count.
    """
    trees = [ast.parse(textwrap.dedent(inspect.getsource(c))) for c in code]
    for node in (n for tree in trees for n in ast.walk(tree) if isinstance(getattr(n, "body", None), list)):
        node.body = [b for b in node.body if not (isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant))]
    return digest([ast.dump(tree) for tree in trees])
