"""Parameters of ablation A. The notebook's `parameters` cell says what each is."""

import math
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from ovit_core.pattern import ALLOCATIONS, Pattern
from ovit_core.study.parameters import (
    AtLeastOne,
    Count,
    Counts,
    Epochs,
    Lambdas,
    Methods,
    Parameters,
    Positive,
    Share,
    Sparsities,
    Sparsity,
    Text,
    different,
)

PAIR = ("ovit", "ovit_mask_only")  # the same mask with and without the update: what the sweeps compare


def cubic(start: float, end: float, steps: int) -> list[float]:
    """`steps` sparsities from `start` to `end`, both included; fewer weights go the later it is (Zhu & Gupta 2017).

    Raises:
        ValueError: fewer than two steps, or not 0 <= start <= end <= 1.
    """
    if steps < 2 or not 0 <= start <= end <= 1:
        raise ValueError(f"gradual pruning needs two steps and 0 <= start <= end <= 1, not {steps=} {start=} {end=}")
    return [end + (start - end) * (1 - i / (steps - 1)) ** 3 for i in range(steps)]


def regime_of(regime: str) -> tuple[str, Pattern]:
    """The allocation and the pattern of one of `regimes`; an N:M pattern leaves nothing to allocate."""
    return (regime, Pattern()) if regime in ALLOCATIONS else ("uniform", Pattern.parse(regime))


def _regime(regime: str) -> str:
    try:
        allocation, pattern = regime_of(regime)
    except ValueError:
        raise ValueError(f'must be global, uniform or N:M with 0 < N < M, such as "2:4", not {regime!r}') from None
    return str(pattern) if pattern.structured else allocation


class NoWeightUpdate(Parameters):
    """Ablation A."""

    experiment: ClassVar[str] = "no_weight_update"
    methods: Annotated[Methods, AtLeastOne]
    sparsities: Annotated[Sparsities, AtLeastOne]
    regimes: Annotated[tuple[Annotated[Text, AfterValidator(_regime)], ...], AtLeastOne, AfterValidator(different)]
    recovery_methods: Methods
    recovery_sparsities: Sparsities
    recovery_epochs: Epochs
    recovery_images: Count
    recovery_lr: Positive
    gradual_methods: Methods
    gradual_sparsities: Sparsities
    gradual_start: Share
    gradual_cycles: Annotated[Count, Field(le=1000)]
    gradual_epochs: Epochs
    gradual_images: Count
    gradual_lr: Positive
    gradual_final_lr: Positive
    sensitivity_sparsity: Sparsity
    sensitivity_block_sizes: Counts
    sensitivity_gradients: Counts
    sensitivity_batches: Counts
    sensitivity_damps: Lambdas

    @model_validator(mode="after")
    def _fit_together(self) -> "NoWeightUpdate":
        for name in ("recovery_images", "gradual_images"):
            if getattr(self, name) < self.batch_size:
                raise ValueError(f"{name} must be at least batch_size ({self.batch_size}), not {getattr(self, name)}")
        multiple = math.lcm(*(pattern.of for pattern in self.patterns))
        if self.block_size < multiple:
            raise ValueError(f"block_size must be at least {multiple} for {list(self.regimes)}, not {self.block_size}")
        for end in self.gradual_sparsities:
            try:
                cubic(self.gradual_start, end, self.gradual_cycles)
            except ValueError as error:
                raise ValueError(f"gradual_sparsities: {error}") from None
        return self

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """What block sizes have to fit."""
        return tuple(regime_of(regime)[1] for regime in self.regimes)

    @property
    def points(self) -> dict[str, tuple[tuple[str, ...], tuple[float, ...]]]:
        """phase -> the methods and sparsities asked for."""
        implied = [pattern.sparsity for pattern in self.patterns]
        return dict(
            one_shot=(self.methods, (*self.sparsities, *(s for s in implied if s is not None))),
            recovered=(self.recovery_methods, self.recovery_sparsities),
            gradual=(self.gradual_methods, self.gradual_sparsities),
        )

    @property
    def sweeps(self) -> dict[str, tuple]:
        """What the sensitivity of the update's gain is measured against: column -> values."""
        return dict(
            block_size=self.sensitivity_block_sizes,
            gradients=self.sensitivity_gradients,
            gradient_batch=self.sensitivity_batches,
            damp=self.sensitivity_damps,
        )
