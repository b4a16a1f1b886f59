"""Second-order pruning of Vision Transformers, and the study that takes it apart.

What lies in this folder is the pruner; `data`, `study`, `ablations`, `explorer` and `benchmark`
are the study around it.

    from ovit_core import METHODS, masks, prune
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovit_core import masks as masks
    from ovit_core.methods import METHODS as METHODS
    from ovit_core.pruning import prune as prune

__all__ = ["METHODS", "masks", "prune"]
_MODULES = {"METHODS": "ovit_core.methods", "prune": "ovit_core.pruning"}


def __getattr__(name: str) -> Any:
    """Imports what the front door offers when it is asked for: torch takes seconds, its users alone should wait."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name == "masks":
        return import_module("ovit_core.masks")
    raise AttributeError(f"module 'ovit_core' has no attribute {name!r}")
