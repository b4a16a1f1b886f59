"""Layer after layer, each on the inputs that the layers pruned before it give (as SparseGPT does it, 2023).

The layers before a layer have changed what reaches it: its Hessian is that of the model as it is by then. Its outputs
are still held to those of its own dense weights on these inputs, so errors made before are followed, not made good. A
layer is pruned for good when its turn comes, so its sparsity has to be known: no threshold over all layers can be had.
"""

from collections.abc import Iterable

import torch
from torch import nn

from ovit_core import masks
from ovit_core.curvature import Loss, estimate, replayable, watched
from ovit_core.inputs import Watch
from ovit_core.methods import Method
from ovit_core.pattern import UNSTRUCTURED, Pattern
from ovit_core.plan import Point, install, solve


def check_in_turn(allocation: str, pattern: Pattern) -> None:
    """Raises ValueError where layers cannot be pruned one after the other: under one threshold for all of them."""
    if allocation == "global" and not pattern.structured:
        raise ValueError(
            "a sequential method prunes one layer after the other, and a global threshold would have to know all of them "
            "first: give allocation='uniform'"
        )


def prune_in_turn(
    model: nn.Module,
    weights: dict[str, nn.Parameter],
    method: Method,
    loader: Iterable,
    batches: int,
    sparsity: float,
    *,
    allocation: str = "uniform",
    pattern: Pattern = UNSTRUCTURED,
    loss: Loss | None = None,
    damp: float | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    backend: str = "auto",
) -> tuple[Point, int]:
    """Prunes a model's weights in place, in the order in which the forward pass first uses them.

    The model goes through the loader once to learn that order, and once for each weight: all `batches` each time, which
    are the same where the loader can be wound back (`curvature.replayable`).

    Args:
        model, weights, loader, loss, damp, dtype: as of `curvature.estimate`.
        method: a row of METHODS that looks at layer inputs.
        batches: for the inputs of each weight.
        sparsity, allocation: as of `Plan.at`.
        pattern, seed, backend: as of `plan.solve`.

    Returns:
        What is now in the model, and how many rows were eliminated again in float64.

    Raises:
        ValueError: a global threshold is asked for, or a weight is not used.  Else what `estimate` and `solve` raise;
            the weights before it are pruned by then.
    """
    check_in_turn(allocation, pattern)
    with replayable(loader):
        order = list(watched(model, Watch(weights), loader, batches, loss).count)
    found, fallbacks = {}, 0
    for name in order:
        one = {name: weights[name]}
        with replayable(loader):
            inputs = estimate(
                model, one, loader, batches, kind="inputs", loss=loss, damp=damp, dtype=dtype, multiple=pattern.of
            )
        alone, gone = method._replace(sequential=False), masks.of(model)
        plan = solve(one, alone, inputs, pattern=pattern, masks=gone, seed=seed, backend=backend)
        found[name] = plan.at(sparsity, allocation)
        install(model, found[name])
        fallbacks += plan.fallbacks
    kept = {name: found[name].masks[name] for name in weights}
    return Point({name: found[name].weights[name] for name in weights}, kept, None), fallbacks
