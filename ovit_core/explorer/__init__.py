"""A dense model with methods solved for it, a slider away: `solve` has the answers, `views` draws, `panel` drives."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ovit_core.study import paths

if TYPE_CHECKING:
    from torch import nn


def load(path: str | Path) -> "nn.Module":
    """A model saved by the explorer, with its masks, built from the settings beside it; a relative path is one of the
    working folder or of the study's.

    Raises:
        FileNotFoundError: no such file, or no settings beside it (then create the model and use `masks.load`).
    """
    from ovit_core import models  # torch and timm take seconds; the parameters beside this need neither

    path = Path(path) if Path(path).exists() else paths.home() / path
    settings = path.with_suffix(".json")
    if not settings.is_file():
        raise FileNotFoundError(f"no {settings}: create the model with timm and use ovit_core.masks.load(model, path)")
    s = json.loads(settings.read_text())
    return models.create(s["model"], s["num_classes"], checkpoint=path, **s["model_args"])
