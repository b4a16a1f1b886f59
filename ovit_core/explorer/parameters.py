"""Parameters of the explorer. The notebook's `parameters` cell says what each is."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, model_validator

from ovit_core.methods import get_method
from ovit_core.pattern import Pattern
from ovit_core.study.parameters import AtLeastOne, Count, Methods, Number, Parameters, Share, Text, different

SPLITS = ("val", "test")


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
