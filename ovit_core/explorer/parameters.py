"""Parameters of the explorer. The notebook's `parameters` cell says what each is."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictStr, model_validator

from ovit_core.pattern import Pattern
from ovit_core.study.parameters import Count, MethodName, Number, Parameters, Share

SPLITS = ("val", "test")


class Explore(Parameters):
    """The explorer."""

    methods: Annotated[tuple[MethodName, ...], Field(min_length=1)]
    damp: Annotated[Number, Field(ge=0)]
    pattern: StrictStr
    allocation: Literal["global", "uniform"]
    sparsity: Share
    sparsities: tuple[Share, ...]
    split: Literal["val", "test"]
    images: Count
    interactive: StrictBool

    @model_validator(mode="after")
    def _fits_the_pattern(self) -> "Explore":
        multiple = Pattern.parse(self.pattern).of
        if self.block_size < multiple:
            raise ValueError(f"block_size must be at least {multiple}, for {self.pattern}, not {self.block_size}")
        return self
