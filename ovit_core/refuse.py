"""What cannot be meant: one clear error, or a warning, instead of a traceback or of numbers that mean nothing.

Functions here read their arguments and raise or warn, and change nothing that is computed. A statement `refuse.NAME(...)`
of values that are there is therefore no part of the code that rows are known by (`study.provenance.normal`): whatever
is refused one day, no number moves.
"""

import logging
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from ovit_core.fisher import BlockFisher

log = logging.getLogger(__name__)
LOST = 2.0**-23  # of damp: what float32 cannot tell from nothing beside it


def wrong_kinds(
    *, text: Mapping[str, Any], numbers: Mapping[str, Any], integers: Mapping[str, tuple[Any, int | None]],
    switches: Mapping[str, Any], functions: Mapping[str, Any],
) -> None:  # fmt: skip
    """Arguments that are of another kind than theirs.

    Args:
        text, switches: name -> value.
        numbers, functions: the same; None is one of them, for "the default".
        integers: name -> (value, the least it may be, or None).

    Raises:
        TypeError: a value is of another kind; names both.  ValueError: an integer is too small.
    """
    for name, value in text.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} must be text, not {value!r}")
    for name, value in numbers.items():
        if value is not None:
            no_number(name, value)
    for name, (value, least) in integers.items():
        if not _is_integer(value):
            raise TypeError(f"{name} must be an integer, not {value!r}")
        if least is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, not {value!r}")
    for name, value in functions.items():
        if not (value is None or callable(value)):
            raise TypeError(f"{name} must be a function, not {value!r}")


def no_number(name: str, value: Any) -> None:
    """What has to be a number.

    Raises:
        TypeError: it is none.
    """
    if not _is_number(value):
        raise TypeError(f"{name} must be a number, not {value!r}")


def no_scalar(loss: Any) -> None:
    """What a loss gave, unless it is one number, and one that can be differentiated where gradients are wanted.

    Raises:
        TypeError: it is no tensor.  ValueError: it has several numbers, or no gradient.
    """
    import torch

    if not torch.is_tensor(loss):
        raise TypeError(f"the loss must be a tensor of one number, not {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(f"the loss must be one number, not a tensor of shape {tuple(loss.shape)}: take its mean")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ValueError("the loss has no gradient: it is detached, made under no_grad, or not made by the model")


def no_gradients(fisher: "BlockFisher") -> None:
    """Warns of a Fisher that is nothing beside its damp: with it a block's weights are ranked by their size alone."""
    if all(float(fisher.diagonal(name).max()) <= fisher.damp * (1 + LOST) for name in fisher.shapes):
        log.warning(
            "gradients are nothing beside damp=%g, so that weights of a block are ranked by their size alone: is the gradient "
            "of the loss zero, or damp too large?", fisher.damp,
        )  # fmt: skip


def strange_optimizer(model: "nn.Module", optimizer: "Optimizer") -> None:
    """An optimizer that trains nothing of a model, and so cannot hold its masks.

    Raises:
        ValueError: no parameter is in both.
    """
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError(
            "the optimizer trains no parameter of this model: make it of model.parameters(), after any copy of the model"
        )


def _is_integer(value: Any) -> bool:
    """Whether it is an integer, also numpy's; no truth value."""
    try:
        return operator.index(value) is not None and not isinstance(value, bool)
    except TypeError:
        return False


def _is_number(value: Any) -> bool:
    """Whether it is a real number, also numpy's or a tensor of no dimensions; no text, no truth value."""
    kind = str(getattr(value, "dtype", type(value).__name__))
    other = isinstance(value, str) or kind in ("bool", "torch.bool")
    return hasattr(value, "__float__") and not other and getattr(value, "ndim", 0) == 0
