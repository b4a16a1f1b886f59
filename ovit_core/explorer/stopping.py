"""Stopping in the middle of a step: no loop of the pruner has to know of it."""

import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.data import dataloader

LOOK = 0.5  # seconds after which a loader that waits for images asks whether it still should; torch's are 5


class Stoppable(TorchFunctionMode):
    """Inside, each of torch's functions that this thread calls, each gradient on the way back, and each look of a loader
    that waits for images, first calls `check`; what that raises ends the work. No number changes.

    A training step of minutes thus ends within one product. What cannot be ended is one call that is not torch's, such
    as the elimination of one layer by the compiled loop.
    """

    def __init__(self, check: Callable[[], None]):
        super().__init__()
        self.check = check

    def __enter__(self) -> "Stoppable":
        _here.check = self.check
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        del _here.check
        super().__exit__(*error)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.check()
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.grad_fn is not None:
            out.register_hook(self._on_the_way_back)
        return out

    def _on_the_way_back(self, gradient: Tensor) -> None:
        self.check()


_here = threading.local()  # `check` of the Stoppable that this thread is inside
# Torch has no argument for how often it looks. Where a version of it has other names inside, it goes on looking as it does.
_Loading: Any = getattr(dataloader, "_MultiProcessingDataLoaderIter", None)
_look: Any = getattr(_Loading, "_try_get_data", None)


def _ask_and_look(self: Any, *timeout: float) -> tuple[bool, Any]:
    """Whether the next batch has come from the processes that open images, and the batch; a `timeout` is the loader's."""
    if timeout or (check := getattr(_here, "check", None)) is None:
        return _look(self, *timeout)
    check()
    return _look(self, LOOK)


if _look is not None:
    _Loading._try_get_data = _ask_and_look
