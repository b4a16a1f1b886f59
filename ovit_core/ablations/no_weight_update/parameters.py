"""Parameters of ablation A. The notebook's `parameters` cell says what each is."""

import math
from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from ovit_core.pattern import ALLOCATIONS, Pattern
from ovit_core.study.lambdas import GLOBAL, Regime
from ovit_core.study.parameters import (
    AtLeastOne,
    Count,
    Counts,
    Lambdas,
    Methods,
    Positive,
    Sparsities,
    Sparsity,
    Text,
    different,
)
from ovit_core.study.recovery import Recovery

PAIR = ("ovit", "ovit_mask_only")  # oViT's score with and without the update: what the sweeps compare
COMPUTE = ("ovit", "obert", "magnitude_joint")  # what is compared at equal numbers of gradients
MOST = 100  # pruning steps, recomputations and repetitions that a study may ask for


def _regime(regime: str) -> str:
    if regime in ALLOCATIONS:
        return regime
    try:
        pattern = Pattern.parse(regime)
        assert pattern.structured
    except (ValueError, AssertionError):
        raise ValueError(f'must be global, uniform or N:M with 0 < N < M, such as "2:4", not {regime!r}') from None
    return str(pattern)


def regime_of(regime: str) -> Regime:
    """One of `regimes` as rows tell it; an N:M pattern leaves nothing to allocate."""
    return Regime(regime) if regime in ALLOCATIONS else Regime("uniform", regime)


def _rising(steps: tuple[float, ...]) -> tuple[float, ...]:
    if any(a >= b for a, b in pairwise(steps)):
        raise ValueError(f"must rise, not {list(steps)}")
    return steps


class NoWeightUpdate(Recovery):
    """Ablation A."""

    experiment: ClassVar[str] = "no_weight_update"
    methods: Annotated[Methods, AtLeastOne]
    sparsities: Annotated[Sparsities, AtLeastOne]
    regimes: Annotated[tuple[Annotated[Text, AfterValidator(_regime)], ...], AtLeastOne, AfterValidator(different)]
    damp_checks: Sparsities
    recovery_methods: Methods
    recovery_sparsities: Sparsities
    recovery_epochs: Counts
    gradual_methods: Methods
    gradual_steps: Annotated[tuple[Sparsity, ...], Field(min_length=1, max_length=MOST), AfterValidator(_rising)]
    gradual_epochs: Annotated[Count, Field(le=10**6)]
    gradual_lrs: Annotated[Lambdas, AtLeastOne]
    gradual_final_lr: Positive
    sensitivity_sparsity: Sparsity
    sensitivity_block_sizes: Counts
    sensitivity_gradients: Counts
    sensitivity_batches: Counts
    sensitivity_damps: Lambdas
    sensitivity_draws: Annotated[tuple[Annotated[Count, Field(le=MOST)], ...], AfterValidator(different)]
    compute_passes: Annotated[tuple[Annotated[Count, Field(gt=1, le=MOST)], ...], AfterValidator(different)]

    @model_validator(mode="after")
    def _fit_together(self) -> "NoWeightUpdate":
        multiple = math.lcm(*(pattern.of for pattern in self.patterns))
        if self.block_size < multiple:
            raise ValueError(f"block_size must be at least {multiple} for {list(self.regimes)}, not {self.block_size}")
        if odd := [passes for passes in self.compute_passes if self.gradients % passes]:
            raise ValueError(
                f"compute_passes must divide gradients ({self.gradients}), which they share out, not {odd[0]}"
            )
        for name in ("recovery_methods", "gradual_methods"):
            if odd := [method for method in getattr(self, name) if not GLOBAL.takes(method)]:
                raise ValueError(f"{name} must be judged with one threshold for the model, which {odd[0]!r} is not")
        return self

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """What block sizes have to fit."""
        return tuple(Pattern.parse(regime_of(regime).pattern) for regime in self.regimes)

    @property
    def gradual_cycles(self) -> int:
        """Cycles of training as long as each other: one after every pruning step, and a last one to hold."""
        return len(self.gradual_steps) + 1

    @property
    def points(self) -> dict[str, tuple[tuple[str, ...], tuple[float, ...]]]:
        """phase -> the methods and sparsities asked for."""
        implied = [pattern.sparsity for pattern in self.patterns]
        return dict(
            one_shot=(self.methods, (*self.sparsities, *(s for s in implied if s is not None))),
            recovered=(self.recovery_methods, self.recovery_sparsities),
            gradual=(self.gradual_methods, self.gradual_steps[-1:]),
        )

    @property
    def sweeps(self) -> dict[str, tuple]:
        """The settings of the curvature that are varied, each with a lambda of its own and at oViT's: column -> values."""
        return dict(
            block_size=self.sensitivity_block_sizes,
            gradients=self.sensitivity_gradients,
            gradient_batch=self.sensitivity_batches,
        )
