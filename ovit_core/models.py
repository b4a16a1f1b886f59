"""timm models: create by name, load weights, and say which weights are prunable."""

import difflib
import re
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from ovit_core import masks

# Attention and MLP projections; XCiT's class attention has q, k and v apart, ConvNeXt's blocks only the MLP.
# The head, the patch embedding, norms and biases stay dense.
PRUNABLE = r"attn\.(qkv|q|k|v|proj)\.weight|mlp\.fc[12]\.weight"


def create(
    name: str, num_classes: int, pretrained: bool = False, checkpoint: str | Path | None = None, **model_args
) -> nn.Module:
    """A timm model by name.

    Args:
        name: any name of `timm.list_models()`.
        num_classes: outputs of the head; 0 for features.
        pretrained: timm's published weights (downloads).
        checkpoint: path of a local checkpoint instead: a state dict as timm writes it, or a file of `masks.save`.
        model_args: passed on to timm, e.g. `img_size=32, patch_size=8, embed_dim=64, depth=4`.

    Raises:
        ValueError: timm has no such model (the nearest names are given), or its arguments do not fit.
        FileNotFoundError: no checkpoint at that path.
    """
    if name not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(f"timm has no model {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    if checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(f"no checkpoint at {checkpoint}")
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **model_args)
    except TypeError as error:
        raise ValueError(f"model_args {model_args} do not fit {name}: {error}") from error
    if checkpoint:
        load = masks.load if Path(checkpoint).suffix == ".safetensors" else timm.models.load_checkpoint
        load(model, str(checkpoint))
    return model


def prunable(model: nn.Module, pattern: str = PRUNABLE) -> dict[str, nn.Parameter]:
    """The weights whose name matches `pattern`, in the model's order.

    Raises:
        ValueError: nothing matches; shows names that could have.
    """
    found = {n: p for n, p in model.named_parameters() if re.search(pattern, n) and p.ndim >= 2}
    if not found:
        candidates = [n for n, p in model.named_parameters() if p.ndim >= 2]
        raise ValueError(f"no weight matches {pattern!r}; the model has {', '.join(candidates[:8])}, ...")
    return found


def unmatched(model: nn.Module, pattern: str = PRUNABLE) -> dict[str, str]:
    """Every weight matrix that stays dense, with the reason."""
    matched = prunable(model, pattern)
    head = getattr(model, "pretrained_cfg", {}).get("classifier") or "head"
    heads = (head,) if isinstance(head, str) else tuple(head)

    def reason(name: str) -> str:
        if name.startswith(heads):
            return "classifier head"
        if "embed" in name or "token" in name or name.startswith("stem"):
            return "embedding"
        return f"name does not match {pattern!r}"

    return {
        n: reason(n) for n, p in model.named_parameters() if p.ndim >= 2 and n not in matched and p.squeeze().ndim >= 2
    }


def input_config(model: nn.Module) -> dict:
    """timm's preprocessing of a model: input_size (C, H, W), mean, std, interpolation, crop_pct.

    timm keeps the pretrained resolution here even where `img_size` was overridden; the patch embedding knows better.
    """
    config = resolve_data_config({}, model=model)
    if (size := getattr(getattr(model, "patch_embed", None), "img_size", None)) is not None:
        config["input_size"] = (config["input_size"][0], *size)
    return config


def features(model: Any, images: Tensor) -> Tensor:
    """(batch, num_features) what the classifier head would see."""
    return model.forward_head(model.forward_features(images), pre_logits=True)


def pick_device(device: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
