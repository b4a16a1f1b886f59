"""Parameters held against the world, before any work: the datasets, the model, the checkpoint, the device.

What needs neither torch nor timm is checked first, so that most mistakes are answered at once.
"""

from ovit_core.data import catalog
from ovit_core.study.parameters import Parameters


def check(config: Parameters) -> None:
    """Raises ValueError or FileNotFoundError, the parameter's name first, for what cannot be run here."""
    for dataset in config.every_dataset:
        name = "upstream" if dataset == config.upstream else "datasets"
        try:
            catalog.check(dataset, config.data_path)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"{name}: {error}") from None
    path = config.checkpoint_path
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"checkpoint must be an existing file, not {config.checkpoint!r}")

    import torch

    from ovit_core import models

    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device must be auto or cpu here, not {config.device!r}: torch finds no GPU")
    try:
        model = models.create(config.model, 1, **config.model_args)
    except ValueError as error:
        raise ValueError(f"model: {error}") from None
    try:
        models.prunable(model, config.prunable)
    except ValueError as error:
        raise ValueError(f"prunable: {error}") from None
