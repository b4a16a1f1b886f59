"""Gradual pruning: the sparsity of each cycle, and the cycle itself (prune, then train at a falling learning rate).

Cubic sparsity after Zhu & Gupta 2017; a learning rate that falls linearly and starts anew at every pruning step, as
oViT section 4 does it.
"""

from collections.abc import Callable

from torch import nn


def cubic(start: float, end: float, steps: int) -> list[float]:
    """`steps` sparsities from `start` to `end`, both included; fewer weights go the later it is.

    Raises:
        ValueError: fewer than two steps, or not 0 <= start <= end <= 1.
    """
    if steps < 2 or not 0 <= start <= end <= 1:
        raise ValueError(
            f"gradual pruning needs two steps or more and 0 <= start <= end <= 1, not {steps=} {start=} {end=}"
        )
    return [end + (start - end) * (1 - i / (steps - 1)) ** 3 for i in range(steps)]


def gradual(
    model: nn.Module,
    sparsities: list[float],
    prune: Callable[[nn.Module, float], None],
    train: Callable[[nn.Module], None],
) -> nn.Module:
    """Prunes to each sparsity in turn and trains after each: `prune` sees the current weights and masks."""
    for sparsity in sparsities:
        prune(model, sparsity)
        train(model)
    return model
