"""Which weights of a row may go: any of them, or all but N of every M consecutive inputs."""

import re
from dataclasses import dataclass

from ovit_core import refuse

ALLOCATIONS = ("global", "uniform")  # one threshold for the model, or the same sparsity in every weight


def check_sparsity(sparsity: float) -> float:
    """Raises ValueError unless 0 <= sparsity <= 1, and TypeError for what is no number."""
    refuse.no_number("sparsity", sparsity)
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must lie in [0, 1], not {sparsity}")
    return sparsity


def check_allocation(allocation: str) -> str:
    """Raises ValueError, with the ones there are, for an unknown allocation."""
    if allocation not in ALLOCATIONS:
        raise ValueError(f"unknown allocation {allocation!r}; one of {', '.join(ALLOCATIONS)}")
    return allocation


@dataclass(frozen=True)
class Pattern:
    """N:M sparsity as a value. Unstructured pruning is 0:1: of every weight, none has to stay."""

    kept: int = 0  # N, weights that stay
    of: int = 1  # M, of so many consecutive inputs; block sizes are multiples of it

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """The pattern of a text, "unstructured" or "N:M"; ValueError for anything else."""
        if text == "unstructured":
            return cls()
        numbers = re.fullmatch(r"(\d+):(\d+)", text)
        if not numbers or not 0 < int(numbers[1]) < int(numbers[2]):
            raise ValueError(f'pattern must be "unstructured" or "N:M" with 0 < N < M, such as "2:4"; not {text!r}')
        return cls(int(numbers[1]), int(numbers[2]))

    def __str__(self) -> str:
        return f"{self.kept}:{self.of}" if self.structured else "unstructured"

    @property
    def structured(self) -> bool:
        return self.kept > 0

    @property
    def group(self) -> tuple[int, int] | None:
        """(N, M) as `eliminate` takes it; None if unstructured."""
        return (self.kept, self.of) if self.structured else None

    @property
    def sparsity(self) -> float | None:
        """The sparsity it implies, to six digits; None if unstructured."""
        return round(1 - self.kept / self.of, 6) if self.structured else None

    def target(self, sparsity: float) -> float:
        """The sparsity that holds where `sparsity` is asked for; ValueError if that matters and is outside [0, 1]."""
        return check_sparsity(sparsity) if self.sparsity is None else self.sparsity

    def removals(self, block_size: int) -> int:
        """How many of a block's weights may go."""
        return block_size // self.of * (self.of - self.kept)


UNSTRUCTURED = Pattern()
