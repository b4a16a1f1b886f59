"""Parameters of the explorer. The notebook's `parameters` cell says what each is."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, model_validator

from ovit_core.methods import get_method
from ovit_core.pattern import Pattern
from ovit_core.study.parameters import AtLeastOne, Count, Methods, Number, Parameters, Share, Text, different

SPLITS = ("val", "test")
NAMES = dict(damp="λ", model_args="arguments", upstream="dataset", block_size="B", allocation="threshold", split="on",
             pretrained="timm's weights", gradients="gradients", lr="learning rate")  # fmt: skip
SHOWN = {"sparsity", "sparsities", "interactive", "methods", "profile"}  # what makes no other curves


class Explore(Parameters):
    """The explorer."""

    methods: Annotated[Methods, AtLeastOne]
    damp: Annotated[Number, Field(ge=0)]
    pattern: Text
    allocation: Literal["global", "uniform"]
    sparsity: Share
    sparsities: Annotated[tuple[Share, ...], AfterValidator(different)]
    split: Literal["val", "test"]
    images: Count
    interactive: StrictBool

    @model_validator(mode="after")
    def _fits_the_pattern(self) -> "Explore":
        multiple = Pattern.parse(self.pattern).of
        if self.block_size < multiple:
            raise ValueError(f"block_size must be at least {multiple}, for {self.pattern}, not {self.block_size}")
        return self

    @model_validator(mode="after")
    def _solved_once(self) -> "Explore":
        for method in self.methods:
            if get_method(method).sequential:
                raise ValueError(f"{method} is solved anew for each sparsity: leave it out of the explorer's methods")
        return self

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """What block sizes have to fit."""
        return (Pattern.parse(self.pattern),)


def differences(a: Explore, b: Explore) -> tuple[str, str]:
    """What sets two explorers' curves apart, in words, as either has it; empty where nothing does."""
    names = [n for n in type(a).model_fields if n not in SHOWN and getattr(a, n) != getattr(b, n)]
    return tuple(
        ", ".join(f"{NAMES.get(n, n.replace('_', ' '))} = {_worded(n, getattr(c, n))}" for n in names) for c in (a, b)
    )


def _worded(name: str, value: object) -> str:
    if name == "damp" and not value:
        return "own"
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
