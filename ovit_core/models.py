"""timm models: create by name, load weights, and say which weights are prunable."""

import difflib
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable
from operator import index
from pathlib import Path
from typing import Any

import psutil
import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ovit_core import checkpoints, disk, masks

# Networks of positions and what makes tokens of images, by the names timm gives them; heads are found by `_heads`.
EMBEDDINGS = re.compile(
    r"(^|\.|_)(patch_embed\w*|patchify\w*|stem\w*|conv_embed|tokens_to_token|embed|embeddings)(\.|$)"
)
POSITIONS = re.compile(r"(^|[._])pos([._]|$|ition)|cpb|rel_|relative|rotary|rope")
HEADS = ("head", "head_dist", "aux_head", "classifier", "fc_head")
MOST_PARAMETERS = 10_000  # tensors of a model: timm's largest have some thousand
PATIENCE = 2.0  # seconds that an expression may take for all names of a model
SEARCHES = "import json, re, sys; pattern, names = json.load(sys.stdin); [re.search(pattern, name) for name in names]"


def create(
    name: str, num_classes: int, pretrained: bool = False, checkpoint: str | Path | None = None, **model_args
) -> nn.Module:
    """A timm model by name.

    Args:
        name: any name of `timm.list_models()`, with a tag of `timm.list_pretrained()` or without; `hf-hub:OWNER/NAME`
            or `local-dir:PATH` as timm takes them.
        num_classes: outputs of the head; 0 for features.
        pretrained: timm's published weights (downloads).
        checkpoint: path of a local checkpoint instead: as timm, DINO or Hugging Face write it, or a file
            of `masks.save`.
        model_args: passed on to timm, e.g. `img_size=32, patch_size=8, embed_dim=64, depth=4`.

    Raises:
        ValueError: timm has no such model (the nearest names are given), its arguments do not fit, or the checkpoint
            is another model's.
        FileNotFoundError: no checkpoint at that path.
    """
    check_name(name)
    if checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(f"no checkpoint at {checkpoint}")
    model: Any
    try:
        if checkpoint:
            model = checkpoints.create(name, checkpoint, num_classes, **model_args)
        else:
            model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **model_args)
        if {"img_size", "in_chans"} & model_args.keys():  # timm keeps the pretrained ones in the model's configuration
            channels, *size = model.pretrained_cfg["input_size"]
            side = model_args.get("img_size", size)
            size = (model_args.get("in_chans", channels), *((side, side) if isinstance(side, int) else side))
            model.pretrained_cfg = {**model.pretrained_cfg, "input_size": tuple(map(index, size))}
    except (ValueError, OSError):
        raise
    except Exception as error:  # whatever layers make of arguments that nobody has checked
        what = f"model_args {model_args} do not fit {name}" if model_args else f"timm cannot make {name}"
        raise ValueError(f"{what}: {disk.shown(' '.join(str(error).split()))}") from error
    if getattr(getattr(model, "patch_embed", None), "num_patches", None) == 0:
        raise ValueError(f"model_args {model_args} do not fit {name}: the image is smaller than a patch")
    return model


def outline(name: str, **model_args) -> nn.Module:
    """A model by name as `create` makes it with one output, where possible on torch's "meta" device: names and shapes
    alone, which take no memory and no time.

    Raises:
        ValueError: as `create` does; or its weights would take more than half of this machine's memory (pruning works
            on a copy), or are more than a model can have.
    """
    memory, count, size = psutil.virtual_memory().total, 0, 0

    def registered(module: nn.Module, _: str, parameter: nn.Parameter | None) -> None:
        nonlocal count, size
        if parameter is not None:
            count, size = count + 1, size + parameter.numel() * parameter.element_size()
        if count > MOST_PARAMETERS or size > memory / 2:
            what = f"{MOST_PARAMETERS:,} tensors" if count > MOST_PARAMETERS else f"{memory / 2e9:,.0f} GB"
            raise _TooLargeError(f"model_args {model_args} of {name} make more than {what} of weights")

    hook = register_module_parameter_registration_hook(registered)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those that matter are heard when the model is made to be used
            try:
                with torch.device("meta"):
                    return create(name, 1, **model_args)
            except _TooLargeError:
                raise
            except Exception:  # it cannot be made without memory, or at all: then these are not the words for it
                count = size = 0
                return create(name, 1, **model_args)
    finally:
        hook.remove()


class _TooLargeError(ValueError):
    """More weights than a model can have, or this machine."""


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest names, if timm has no such model."""
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return
    base, _, tag = name.partition(".")
    known = timm.list_models() if not tag else timm.list_pretrained()
    if (name if tag else base) not in known:
        begin = {k[: len(name) + 1]: k for k in reversed(known)}  # names are long: one is near if its beginning is
        near = [begin[part] for part in difflib.get_close_matches(name, begin, n=3)]
        raise ValueError(
            f"timm has no model {disk.shown(repr(name), 100)}" + (f"; did you mean {', '.join(near)}?" if near else "")
        )


def prunable(model: nn.Module, pattern: str | None = None) -> dict[str, nn.Parameter]:
    """The prunable weights, in the model's order.

    By default, whatever they are called, the weights of all linear layers, 1 x 1 convolutions and `nn.MultiheadAttention`
    of the model's body. Head, patch embedding and networks of positions stay dense. Of ViT and DeiT that is `attn.qkv`,
    `attn.proj`, `mlp.fc1` and `mlp.fc2`.

    Args:
        pattern: a regular expression over names instead.

    Raises:
        ValueError: nothing matches (shows names that could have), or no expression.
    """
    matrices = {name: p for name, p in model.named_parameters() if p.squeeze().ndim >= 2}
    if pattern:
        expression = _compiled(pattern)
        found = {name: p for name, p in matrices.items() if expression.search(name)}
    else:
        reasons = _stays_dense(model)
        found = {name: p for name, p in matrices.items() if name not in reasons}
    if not found:
        what = (
            f"matches {disk.shown(repr(pattern), 100)}"
            if pattern
            else "of a linear layer was found in the model's body"
        )
        raise ValueError(f"no weight {what}; the model has {', '.join(list(matrices)[:8])}, ...")
    return found


def _compiled(pattern: str) -> re.Pattern:
    """An expression; ValueError if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what a later Python may read otherwise
            return re.compile(pattern)
    except Exception as error:  # re's own; OverflowError and RecursionError of what is too large
        raise ValueError(f"{disk.shown(repr(pattern), 100)} is no regular expression: {error}") from None


def check_expression(pattern: str, names: Iterable[str]) -> None:
    """Raises ValueError if a regular expression is none, or takes more than PATIENCE for some names: the time of such
    as (a+)+b doubles with each letter. Tried in another process, for nothing in this one could end it.
    """
    if not pattern:
        return
    _compiled(pattern)
    said = json.dumps([pattern, list(names)])
    try:
        subprocess.run([sys.executable, "-Ic", SEARCHES], input=said, text=True, timeout=PATIENCE, capture_output=True)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{disk.shown(repr(pattern), 100)} takes more than {PATIENCE:g} seconds for the names of a model: write it without nested repetitions"
        ) from None


def unmatched(model: nn.Module, pattern: str | None = None) -> dict[str, str]:
    """Every weight matrix that stays dense, with the reason."""
    matched, reasons = prunable(model, pattern), _stays_dense(model)
    return {
        name: reasons.get(name) or f"name does not match {pattern!r}"
        for name, p in model.named_parameters()
        if name not in matched and p.squeeze().ndim >= 2
    }


def _stays_dense(model: nn.Module) -> dict[str, str]:
    """name -> reason, of the parameters with two dimensions or more that are not pruned by default."""
    modules, heads = dict(model.named_modules()), _heads(model)
    first = _as_tuple(getattr(model, "pretrained_cfg", None) or {}, "first_conv")
    out = {}
    for name, p in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        module, plain = modules[path], masks.bare(name)
        pointwise = isinstance(module, (nn.Conv1d, nn.Conv2d)) and set(module.kernel_size) == {1} and module.groups == 1
        projects = isinstance(module, nn.Linear) or pointwise
        if p.squeeze().ndim < 2:
            continue
        if plain.startswith(tuple(f"{head}." for head in heads)):
            out[name] = "classifier head"
        elif EMBEDDINGS.search(masks.bare(path)) or masks.bare(path) in first:
            out[name] = "embedding"
        elif POSITIONS.search(plain):
            out[name] = "position"
        elif isinstance(module, nn.MultiheadAttention) and leaf.endswith("proj_weight"):
            continue
        elif not projects:
            kind = type(module).__name__
            out[name] = f"{leaf} of {kind}, no linear layer" if leaf != "weight" else f"{kind}, no linear layer"
    return out


def _heads(model: nn.Module) -> tuple[str, ...]:
    return (*HEADS, *_as_tuple(getattr(model, "pretrained_cfg", None) or {}, "classifier"))


def _as_tuple(config: dict, key: str) -> tuple[str, ...]:
    value = config.get(key) or ()
    return (value,) if isinstance(value, str) else tuple(value)


def input_config(model: nn.Module) -> dict:
    """timm's preprocessing of a model: input_size (C, H, W), mean, std (one number a channel), interpolation, crop_pct.

    timm keeps the pretrained resolution here even where `img_size` was overridden; the patch embedding knows better.
    """
    config = resolve_data_config({}, model=model)
    if (size := getattr(getattr(model, "patch_embed", None), "img_size", None)) is not None:
        config["input_size"] = (config["input_size"][0], *size)
    if (channels := config["input_size"][0]) != len(config["mean"]):  # of a gray image: the mean over the colours
        config |= {key: (sum(config[key]) / len(config[key]),) * channels for key in ("mean", "std")}
    return config


def features(model: Any, images: Tensor) -> Tensor:
    """(batch, num_features) what the classifier head would see."""
    return model.forward_head(model.forward_features(images), pre_logits=True)


def pick_device(device: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
