"""Parameters held against the world, before any work: the datasets, the model, the checkpoint, the device.

What needs neither torch nor timm is checked first, so that most mistakes are answered at once.
"""

import os
from collections.abc import Callable
from itertools import product
from typing import Any

from ovit_core.data import catalog
from ovit_core.study.parameters import Parameters


def check(config: Parameters) -> None:
    """Raises ValueError or FileNotFoundError, the parameter's name first, for what cannot be run here."""
    for dataset in config.every_dataset:
        parameter = "upstream" if dataset == config.upstream else "datasets"
        _named(parameter, catalog.check, dataset, config.data_path)
    # Path.is_file raises where a name is too long.
    if config.checkpoint_path and not os.path.isfile(config.checkpoint_path):  # noqa: PTH113
        raise FileNotFoundError(f"checkpoint must be an existing file, not {config.checkpoint!r}")
    if config.checkpoint and config.pretrained:
        raise ValueError("pretrained must be false where there is a checkpoint: the weights are one or the other")
    if config.masks_from_zeros and not (config.checkpoint or config.pretrained):
        raise ValueError("masks_from_zeros must be false where the dense model is trained here: it has no zeros yet")

    import torch

    from ovit_core import checkpoints, models
    from ovit_core.fisher import fit_block_size

    there, number = torch.cuda.device_count(), int(config.device.partition(":")[2] or 0)
    if config.device.startswith("cuda") and number >= there:
        raise ValueError(f"device must be auto or cpu here, not {config.device!r}: torch finds {there} GPUs")
    model = _named("model", models.create, config.model, 1, **config.model_args)
    if (channels := models.input_config(model)["input_size"][0]) not in (1, 3):
        raise ValueError(f"model_args: in_chans must be 1 or 3, gray or colour, not {channels}")
    weights = _named("prunable", models.prunable, model, config.prunable)
    for pattern, weight in product(config.patterns, weights.values()):
        _named(f"block_size for {pattern}", fit_block_size, weight[0].numel(), config.block_size, pattern.of)
    if config.checkpoint_path:
        _named("checkpoint", checkpoints.classes, config.model, config.checkpoint_path)
    total = sum(weight.numel() for weight in weights.values())
    for name, value in config.values().items():
        for sparsity in [value] if name.endswith("sparsity") else value if name.endswith("sparsities") else []:
            if not 0 < round(sparsity * total) < total:
                raise ValueError(f"{name}: {sparsity:g} of {total:,} prunable weights rounds to none or all of them")


def _named(parameter: str, check: Callable, /, *args: Any, **options: Any) -> Any:
    """What `check` returns; before what it raises stands the parameter's name."""
    try:
        return check(*args, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{parameter}: {error}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{parameter}: {error}") from None
