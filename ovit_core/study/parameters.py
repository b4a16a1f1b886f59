"""Parameters of a study: plain values, checked for themselves. `checks` holds them against data, models and devices.

A notebook's `parameters` cell and a profile's YAML file hold these; the comments there say what each is.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StrictBool, StrictInt, StrictStr

from ovit_core import disk
from ovit_core.methods import get_method
from ovit_core.pattern import Pattern
from ovit_core.study.paths import ROOT, check_name

RULES = {  # what pydantic calls an error -> what the parameter must be, where pydantic's own words say less
    "int_type": "a whole number",
    "tuple_type": "a list (with papermill: -y 'NAME: [a, b]')",
    "greater_than": "above {gt:.10g}",
    "greater_than_equal": "at least {ge:.10g}",
    "less_than": "below {lt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "too_short": "a list of at least one",
    "bool_type": "true or false",
    "dict_type": "a mapping of names to values",
    "string_type": "a text",
    "too_long": "at most {max_length} characters long",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "auto, cpu, cuda or cuda:N",
}
P = TypeVar("P", bound="Parameters")
MOST_YAML = 100_000  # characters, those behind an alias counted wherever it stands; a profile has some three thousand
LARGEST = 100_000  # of a whole number in model_args: timm makes lists as long as a model is deep
DEEPEST = 8  # of lists and mappings in model_args
OWN_ARGS = {
    "name": "it is the parameter model",
    "model_name": "it is the parameter model",
    "checkpoint": "it is a parameter of its own",
    "cache_dir": "HF_HOME says where downloads are kept",
    "pretrained_cfg": "weights come by pretrained or checkpoint",
    "pretrained_cfg_overlay": "weights come by pretrained or checkpoint",
    "num_classes": "the dataset says how many there are",
    "pretrained": "it is a parameter of its own",
    "checkpoint_path": "give it as checkpoint",
    "features_only": "a classifier is pruned",
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses what a person cannot mean: a key that stands twice, of which one would
    be dropped without a word, and aliases of aliases, which make gigabytes of a few lines.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        left, todo = MOST_YAML, [node]
        while todo:
            one = todo.pop()
            left -= 1 + len(one.value)
            if left < 0:
                raise yaml.YAMLError(f"it says more than {MOST_YAML:,} characters, aliases written out")
            if isinstance(one, yaml.ScalarNode):
                one.value.encode()  # no halves of characters, which no file could be written with
            elif isinstance(one, yaml.SequenceNode):
                todo += one.value
            else:
                names = Counter((key.tag, key.value) for key, _ in one.value if isinstance(key, yaml.ScalarNode))
                if twice := [name for (_, name), times in names.items() if times > 1]:
                    raise yaml.YAMLError(f"the key {twice[0]!r} stands twice")
                todo += chain.from_iterable(one.value)
        return super().construct_document(node)


def from_yaml(where: str, text: str) -> Any:
    """What a text says in YAML; ValueError, a line beginning with `where`, if it is none or asks for Python objects."""
    try:
        if len(text) > MOST_YAML:
            raise yaml.YAMLError(f"it has more than {MOST_YAML:,} characters")
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except Exception as error:  # PyYAML's own, and whatever its constructors make of `!!int ""` or a 32nd of May
        why = disk.shown(" ".join(str(error).split()) or type(error).__name__, 160)
        raise ValueError(f"{disk.shown(where)}: {text.strip()[:60]!r} is no YAML: {why}") from None


def _number(value: Any) -> Any:
    """PyYAML reads 1e-8 as a string."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def different(values: tuple) -> tuple:
    """A validator: ValueError if a value stands twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"must be different from each other, not {list(values)!r}")
    return values


def _text(value: Any) -> Any:
    """YAML reads nothing as null, and 2:4 as two minutes and four seconds."""
    if value is None:
        return ""
    return f"{value // 60}:{value % 60}" if type(value) is int and value >= 60 else value


def _path(text: str) -> str:
    try:
        if b"\0" not in os.fsencode(text):
            return text
    except UnicodeEncodeError:
        pass
    raise ValueError(f"must be a path, not {text!r}")


def _plain(name: str, value: Any, depth: int = DEEPEST) -> None:
    """Raises ValueError unless a value of `model_args` is one that timm can mean, and JSON can hold."""
    of = disk.shown(name, 60)
    if isinstance(value, dict) and (odd := [key for key in value if not isinstance(key, str)]):
        raise ValueError(f"must name values by texts, but {of} has the key {disk.shown(repr(odd[0]), 60)}")
    if isinstance(value, list | dict) and depth:
        for part in value.values() if isinstance(value, dict) else value:
            _plain(name, part, depth - 1)
    elif not (value is None or isinstance(value, bool | str | int | float)):
        what = "what is nested too deep" if isinstance(value, list | dict) else f"a {type(value).__name__}"
        raise ValueError(f"must hold plain values, but {of} holds {what}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"must hold whole numbers of at most {LARGEST:,}, but {of} holds a larger one")


def _model_args(args: dict[str, Any]) -> dict[str, Any]:
    if own := args.keys() & OWN_ARGS.keys():
        name = sorted(own)[0]
        raise ValueError(f"must not hold {name}: {OWN_ARGS[name]}")
    for name, value in args.items():
        _plain(name, value)
    return args


def _method(name: str) -> str:
    get_method(name)
    return name


Text = Annotated[StrictStr, BeforeValidator(_text)]
FilePath = Annotated[Text, AfterValidator(_path)]
Expression = Annotated[Text, Field(max_length=1000)]
Number = Annotated[float, BeforeValidator(_number), Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Sparsity = Annotated[Number, Field(gt=0, lt=1)]  # dense is always measured, and nothing is left at 1
Count = Annotated[StrictInt, Field(ge=1, le=10**8)]
Epochs = Annotated[StrictInt, Field(ge=0, le=10**6)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**31)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(different)]
ProfileName = Annotated[StrictStr, AfterValidator(check_name)]
MethodName = Annotated[StrictStr, AfterValidator(_method)]
Methods = Annotated[tuple[MethodName, ...], AfterValidator(different)]
Sparsities = Annotated[tuple[Sparsity, ...], AfterValidator(different)]
Lambdas = Annotated[tuple[Positive, ...], AfterValidator(different)]
Counts = Annotated[tuple[Count, ...], AfterValidator(different)]
AtLeastOne = Field(min_length=1)
Device = Annotated[StrictStr, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,4})?)$")]


class Parameters(BaseModel):
    """What all ablations and the explorer share."""

    model_config = dict(frozen=True, extra="forbid", protected_namespaces=())
    experiment: ClassVar[str] = ""  # the name that an ablation's rows carry
    varies: ClassVar[str] = " and the data order"  # what the seeds vary besides the gradients, in words

    profile: ProfileName
    upstream: StrictStr
    data_dir: Annotated[StrictStr, AfterValidator(_path)]
    model: StrictStr
    model_args: Annotated[dict[str, Any], AfterValidator(_model_args)]
    pretrained: StrictBool
    checkpoint: FilePath
    masks_from_zeros: StrictBool
    prunable: Expression
    epochs: Epochs
    lr: Positive
    weight_decay: NotNegative
    batch_size: Count
    augment: tuple[Literal["flip", "shift"], ...]
    mixup: NotNegative = 0.0  # these four in dense training alone
    cutmix: NotNegative = 0.0
    mixup_prob: Share = 1.0
    smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    amp_dtype: Annotated[Literal["", "bfloat16"], BeforeValidator(_text)] = ""
    seeds: Seeds
    dense_per_seed: StrictBool
    gradients: Count
    gradient_batch: Count
    block_size: Count
    damps: Annotated[Lambdas, AtLeastOne]
    input_damps: Annotated[Lambdas, AtLeastOne]
    damp_sparsity: Share
    search_images: Count
    device: Device
    engine: Literal["local", "ray", "dask"] = "local"
    workers: Annotated[StrictInt, Field(ge=0, le=4096)] = 0
    threads: Annotated[StrictInt, Field(ge=1, le=1024)] = 1

    @pydantic.model_validator(mode="after")
    def _pairs(self: P) -> P:
        if (self.mixup or self.cutmix or self.smoothing) and self.batch_size % 2:
            raise ValueError(f"batch_size must be even where images are mixed in pairs, not {self.batch_size}")
        return self

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
    def patterns(self) -> tuple[Pattern, ...]:
        """What block sizes have to fit."""
        return (Pattern(),)

    @property
    def points(self) -> dict[str, tuple[tuple[str, ...], tuple[float, ...]]]:
        """phase -> the methods and sparsities asked for."""
        return {}

    def values(self) -> dict[str, Any]:
        """name -> value, as JSON and YAML hold it."""
        return self.model_dump(mode="json")

    def dense_seed(self, seed: int) -> int:
        """The seed of the dense model that a seed prunes."""
        return seed if self.dense_per_seed else 0

    def replace(self: P, **changes: Any) -> P:
        """The same parameters with some changed, checked. Raises ValueError as `build` does."""
        return build(type(self), self.values() | changes)


def build(kind: type[P], values: Mapping[str, Any], also_known: Iterable[str] = ()) -> P:
    """Parameters of a kind from values; names that are `also_known` belong to other kinds and are left out, so that one
    profile serves all notebooks.

    Raises:
        ValueError: one line, the parameter's name first: unknown, missing, of the wrong type or out of range.
    """
    known = {*kind.model_fields, *also_known}
    for name in values:
        if name not in known:
            nearest = disk.meant(str(name), known)  # YAML also knows numbers and dates for keys
            raise ValueError(f"unknown parameter {_given(name)}{nearest}")
    try:
        return kind(**{name: value for name, value in values.items() if name in kind.model_fields})
    except pydantic.ValidationError as error:
        raise ValueError(_in_words(error)) from None


def _in_words(error: pydantic.ValidationError) -> str:
    """The first thing that is wrong, in one line: the parameter, the rule, and what was given."""
    if missing := [str(e["loc"][0]) for e in error.errors() if e["type"] == "missing"]:
        return f"missing parameters: {', '.join(missing)}"
    first = error.errors()[0]
    name = "".join(f"[{disk.shown(part, 60)}]" if i else str(part) for i, part in enumerate(first["loc"]))
    name = f"a key of {first['loc'][0]}" if "[key]" in first["loc"] else name
    if first["type"] == "value_error":  # said by a validator of ours
        words = str(first["ctx"]["error"])
        return f"{name} {words}" if words.startswith("must ") else f"{name}: {words}" if name else words
    rule = RULES.get(first["type"], "").format(**first.get("ctx", {})) or first["msg"].removeprefix("Input should be ")
    return f"{name} must be {rule}, not {_given(first['input'])}"


def _given(value: Any) -> str:
    """A value as it was given, as far as it is worth a line."""
    try:
        return disk.shown(repr(value))
    except ValueError:  # Python does not write these out
        return "a number of more than 4,300 digits"
