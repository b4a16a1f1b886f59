"""Stopping in the middle of a step: no loop of the pruner has to know of it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class Stoppable(TorchFunctionMode):
    """Inside, each of torch's functions that this thread calls, and each gradient on the way back, first calls `check`;
    what that raises ends the work. No number changes.

    A training step of minutes thus ends within one product. What cannot be ended is one call that is not torch's, such
    as the elimination of one layer by the compiled loop.
    """

    def __init__(self, check: Callable[[], None]):
        super().__init__()
        self.check = check

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.check()
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.grad_fn is not None:
            out.register_hook(self._on_the_way_back)
        return out

    def _on_the_way_back(self, gradient: Tensor) -> None:
        self.check()
