"""Checkpoints as people have them, loaded into timm models: through timm's own filters, or not at all.

timm resamples position embeddings and renames what older versions called otherwise, but only of files whose names are
its own; of others it loads nothing with a mere warning. So wrappers are taken off and Hugging Face's names translated
first, and whatever does not fit is an error.
"""

import argparse
import pickle
import re
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovit_core import disk, masks

NESTED = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student", "net")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "encoder.", "net.")
# Hugging Face's ViT and DeiT -> timm's; query, key and value are joined afterwards.
HUGGING_FACE = (
    (r"^(vit|deit)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.", r"blocks.\1.attn.\2."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"^encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"^layernorm\.", "norm."),
    (r"^(cls_)?classifier\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by timm's names, without wrappers' prefixes.

    Args:
        path: safetensors, or what `torch.save` wrote (read with `weights_only`): a state dict, or a dict that holds one.

    Raises:
        ValueError: the file cannot be read, or holds no tensors by name, or such as promise more numbers than it has;
            names it.
    """
    try:
        if Path(path).suffix == ".safetensors":
            state = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # timm's training script stores its arguments
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint {path} is damaged, or holds more than tensors, which is not unpickled here: save the state dict alone"
        ) from error
    except Exception as error:  # safetensors', zipfile's, pickle's, torch's: whatever half a file makes of them
        what = disk.shown(" ".join(str(error).split()), 200)
        raise ValueError(
            f"cannot read checkpoint {path}, as safetensors or as what torch.save writes of a state dict: "
            f"{what or 'it is empty'}"
        ) from error
    for _ in NESTED:  # not for ever: what was pickled may hold itself
        if isinstance(state, dict) and (key := next((k for k in NESTED if isinstance(state.get(k), dict)), None)):
            state = state[key]
    state = state if isinstance(state, dict) else {}
    state = {name: t for name, t in state.items() if isinstance(name, str) and torch.is_tensor(t)}
    if not state:
        raise ValueError(
            f"checkpoint {path} holds no tensors by name, neither at its top nor under {', '.join(NESTED)}: save the state "
            "dict alone"
        )
    for name, tensor in state.items():
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"checkpoint {path}: {disk.shown(name, 60)} is no plain tensor with all its numbers")
    if any("encoder.layer." in name for name in state):
        try:
            return _from_hugging_face(state)
        except (KeyError, RuntimeError) as error:
            what = disk.shown(error, 100)
            raise ValueError(
                f"checkpoint {path}: query, key and value of an attention do not fit together: {what}"
            ) from None
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if any(name.startswith("backbone.") for name in state):  # DINO's teacher: its projection head is none of ours
        state = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
    return state


def _from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, tensor in state.items():
        for pattern, timms in HUGGING_FACE:
            name = re.sub(pattern, timms, name)
        out[name] = tensor
    for name in [n for n in out if ".attn.query." in n]:
        parts = [out.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        out[name.replace("query", "qkv")] = torch.cat(parts)
    return {name: tensor for name, tensor in out.items() if not name.startswith("pooler.")}


def create(name: str, path: str | Path, num_classes: int, **model_args) -> nn.Module:
    """A timm model with a checkpoint's weights, and its masks where it has some.

    Args:
        name: of the model.
        path: of the checkpoint.
        num_classes: outputs of the head; 0 leaves the head out.
        model_args: passed on to timm; another `img_size` than the checkpoint's resamples its position embeddings.

    Raises:
        ValueError: the file cannot be read, knows other classes, or is another model's.
    """
    state = read(path)
    stored = {
        k: state.pop(k).bool()
        for k in list(state)
        if k.endswith(masks.SUFFIX) and k.removesuffix(masks.SUFFIX) in state
    }
    heads, known = _heads(name), _classes(name, state)
    if num_classes and num_classes != known:
        has = f"knows {known} classes" if known else "has no classifier head"
        raise ValueError(f"checkpoint {path} {has}, but {num_classes} classes are asked for")
    if not num_classes:
        state = {n: t for n, t in state.items() if not n.startswith(tuple(f"{head}." for head in heads))}
    with tempfile.TemporaryDirectory(prefix="ovit-") as folder:
        save_file(
            {n: t.contiguous() for n, t in _unshared(state).items()}, file := str(Path(folder) / "timm.safetensors")
        )
        overlay = dict(file=file, num_classes=num_classes, custom_load=False)
        try:
            model = timm.create_model(
                name, pretrained=True, num_classes=num_classes, pretrained_cfg_overlay=overlay, **model_args
            )
        except (RuntimeError, KeyError) as error:
            what = " ".join(str(error).split())
            raise ValueError(f"checkpoint {path} does not fit {name}: {what[:300]}") from error
    there = dict(model.named_parameters())  # without those of a head that was left out
    return masks.attach(model, {n: m for k, m in stored.items() if (n := k.removesuffix(masks.SUFFIX)) in there})


def classes(name: str, path: str | Path) -> int:
    """How many classes the checkpoint of a model knows; 0 if it has no classifier head. Raises as `read` does."""
    return _classes(name, read(path))


def _classes(name: str, state: dict[str, Tensor]) -> int:
    weights = (state.get(f"{head}.weight") for head in _heads(name))
    return next((len(weight) for weight in weights if weight is not None and weight.ndim), 0)


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that share memory, which safetensors refuses."""
    seen: set[int] = set()
    out = {}
    for name, tensor in state.items():
        out[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return out


def _heads(name: str) -> tuple[str, ...]:
    """The names of a model's classifier heads."""
    config = timm.models.get_pretrained_cfg(name)
    head = (config.classifier if config else None) or "head"
    return (head,) if isinstance(head, str) else tuple(head)
