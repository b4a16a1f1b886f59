"""Parameters held against the world, before any work: the datasets, the model, the checkpoint, the device.

What needs neither torch nor timm is checked first, so that most mistakes are answered at once.
"""

from collections.abc import Callable
from typing import Any

from ovit_core.data import catalog
from ovit_core.study.parameters import Parameters


def check(config: Parameters) -> None:
    """Raises ValueError or FileNotFoundError, the parameter's name first, for what cannot be run here."""
    for dataset in config.every_dataset:
        parameter = "upstream" if dataset == config.upstream else "datasets"
        _named(parameter, catalog.check, dataset, config.data_path)
    if config.checkpoint_path and not config.checkpoint_path.is_file():
        raise FileNotFoundError(f"checkpoint must be an existing file, not {config.checkpoint!r}")

    import torch

    from ovit_core import models

    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device must be auto or cpu here, not {config.device!r}: torch finds no GPU")
    model = _named("model", models.create, config.model, 1, **config.model_args)
    _named("prunable", models.prunable, model, config.prunable)


def _named(parameter: str, check: Callable, /, *args: Any, **options: Any) -> Any:
    """What `check` returns; before what it raises stands the parameter's name."""
    try:
        return check(*args, **options)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{parameter}: {error}") from None
