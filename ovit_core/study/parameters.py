"""Parameters of a study: plain values, checked for themselves. `checks` holds them against data, models and devices.

A notebook's `parameters` cell and a profile's YAML file hold these; the comments there say what each is.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
)

from ovit_core.methods import get_method
from ovit_core.pattern import ALLOCATIONS, Pattern
from ovit_core.study.paths import ROOT

AUGMENTATIONS = ("flip", "shift")
P = TypeVar("P", bound="Parameters")


def _number(value: Any) -> Any:
    """PyYAML reads 1e-8 as a string."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def one_of(*choices: str) -> AfterValidator:
    """A validator: one of some words."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    return AfterValidator(check)


def _different(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError(f"must be different from each other, not {list(values)!r}")
    return values


def check_name(name: str) -> str:
    """Raises ValueError unless a name can be a profile's: it becomes a folder."""
    if not name or not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"must be a plain name of letters, digits, - and _, not {name!r}")
    return name


def _method(name: str) -> str:
    get_method(name)
    return name


def _regime(regime: str) -> str:
    if regime not in ALLOCATIONS:
        Pattern.parse(regime)
    return regime


Number = Annotated[float, BeforeValidator(_number), Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Sparsity = Annotated[Number, Field(gt=0, lt=1)]  # dense is always measured, and nothing is left at 1
Count = Annotated[StrictInt, Field(ge=1)]
Seeds = Annotated[tuple[StrictInt, ...], Field(min_length=1), AfterValidator(_different)]
ProfileName = Annotated[StrictStr, AfterValidator(check_name)]
MethodName = Annotated[StrictStr, AfterValidator(_method)]
Regime = Annotated[StrictStr, AfterValidator(_regime)]  # an allocation, or an N:M pattern
Device = Annotated[StrictStr, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


class Parameters(BaseModel):
    """What all ablations and the explorer share.

    Class attributes:
        experiment: the name that an ablation's rows carry.
        grid: parameters that only say which rows there should be: more of them add rows to a run, and change none.
        varies: what the seeds vary besides the gradients, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    experiment: ClassVar[str] = ""
    grid: ClassVar[tuple[str, ...]] = ()
    varies: ClassVar[str] = " and the data order"

    profile: ProfileName
    upstream: StrictStr
    data_dir: StrictStr
    model: StrictStr
    model_args: dict[str, Any]
    pretrained: StrictBool
    checkpoint: StrictStr
    prunable: StrictStr
    epochs: Annotated[StrictInt, Field(ge=0)]
    lr: Positive
    weight_decay: Annotated[Number, Field(ge=0)]
    batch_size: Count
    augment: tuple[Annotated[StrictStr, one_of(*AUGMENTATIONS)], ...]
    seeds: Seeds
    dense_per_seed: StrictBool
    gradients: Count
    gradient_batch: Count
    block_size: Count
    damps: Annotated[tuple[Positive, ...], Field(min_length=1)]
    damp_sparsity: Share
    device: Device

    @property
    def data_path(self) -> Path:
        """`data_dir`, relative to the repository wherever the notebook runs."""
        return ROOT / self.data_dir

    @property
    def checkpoint_path(self) -> Path | None:
        """`checkpoint`, likewise; None for none."""
        return ROOT / self.checkpoint if self.checkpoint else None

    @property
    def every_dataset(self) -> tuple[str, ...]:
        """All datasets that are read."""
        return (self.upstream,)

    @property
    def points(self) -> dict[str, tuple[tuple[str, ...], tuple[float, ...]]]:
        """phase -> the methods and sparsities asked for."""
        return {}

    def values(self) -> dict[str, Any]:
        """name -> value, as JSON and YAML hold it."""
        return self.model_dump(mode="json")

    def settings(self) -> dict[str, Any]:
        """The values that measured numbers depend on."""
        return {k: v for k, v in self.values().items() if k not in ("profile", "seeds", "data_dir", *self.grid)}

    def replace(self: P, **changes: Any) -> P:
        """The same parameters with some changed, checked. Raises ValueError as `build` does."""
        return build(type(self), self.values() | changes)


def build(kind: type[P], values: Mapping[str, Any], also_known: Iterable[str] = ()) -> P:
    """Parameters of a kind from values.

    Args:
        kind: which parameters.
        values: name -> value.
        also_known: names of other kinds, accepted and left out, so that one profile serves all notebooks.

    Raises:
        ValueError: one line, the parameter's name first: unknown, missing, of the wrong type or out of range.
    """
    known = {*kind.model_fields, *also_known}
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ValueError(f"unknown parameter {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    try:
        return kind(**{name: value for name, value in values.items() if name in kind.model_fields})
    except ValidationError as error:
        raise ValueError(_in_words(error)) from None


def _in_words(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: the parameter, the rule, and what was given."""
    missing = [str(e["loc"][0]) for e in error.errors() if e["type"] == "missing"]
    if missing:
        return f"missing parameters: {', '.join(missing)}"
    first = error.errors()[0]
    kind, value, bounds = first["type"], first["input"], first.get("ctx", {})
    name = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in first["loc"])
    if kind == "value_error":  # said by a validator of ours
        words = str(bounds["error"])
        return f"{name} {words}" if words.startswith("must ") else f"{name}: {words}" if name else words
    rules = {
        "int_type": "a whole number", "float_type": "a number", "string_type": "a text", "bool_type": "true or false",
        "tuple_type": "a list (with papermill: -y 'NAME: [a, b]')", "dict_type": "a mapping of names to values",
        "greater_than": f"above {bounds.get('gt'):g}" if "gt" in bounds else "",
        "greater_than_equal": f"at least {bounds.get('ge'):g}" if "ge" in bounds else "",
        "less_than": f"below {bounds.get('lt'):g}" if "lt" in bounds else "",
        "less_than_equal": f"at most {bounds.get('le'):g}" if "le" in bounds else "",
        "finite_number": "finite", "too_short": "at least one", "string_pattern_mismatch": "auto, cpu, cuda or cuda:N",
    }  # fmt: skip
    return f"{name} must be {rules.get(kind) or first['msg'].lower()}, not {value!r}"
