"""Masks that survive optimizer steps, copies and checkpoints.

A mask is a boolean buffer `weight_mask` beside the weight it belongs to: it follows `deepcopy`, `.to()` and
`state_dict()`, and is never inferred from which weights happen to be zero.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SUFFIX = "weight_mask"


def attach(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """Stores masks (name of a weight -> boolean tensor of its shape, True = kept) and zeroes what they remove.

    Raises:
        KeyError: the model has no such weight.  ValueError: a shape differs.
    """
    for name, mask in masks.items():
        module, weight = model.get_submodule(name.rpartition(".")[0]), model.get_parameter(name)
        if mask.shape != weight.shape:
            raise ValueError(f"mask of {name} has shape {tuple(mask.shape)}, its weight {tuple(weight.shape)}")
        module.register_buffer(SUFFIX, mask.to(device=weight.device, dtype=torch.bool))
    apply(model)
    return model


def of(model: nn.Module) -> dict[str, Tensor]:
    """The masks a model carries: name of the weight -> boolean tensor."""
    return {n.removesuffix("_mask"): b for n, b in model.named_buffers() if n.rpartition(".")[2] == SUFFIX}


@torch.no_grad()
def apply(model: nn.Module) -> None:
    """Zeroes the removed weights."""
    for name, mask in of(model).items():
        model.get_parameter(name).mul_(mask)


def hold(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Keeps removed weights at zero through `optimizer`, whatever its momentum and weight decay.

    Gradients are masked before each step (they would count in momentum and gradient norms), weights and the
    optimizer's own moments after it.
    """

    @torch.no_grad()
    def before(*_):
        for name, mask in of(model).items():
            if (gradient := model.get_parameter(name).grad) is not None:
                gradient.mul_(mask)

    @torch.no_grad()
    def after(*_):
        for name, mask in of(model).items():
            weight = model.get_parameter(name)
            weight.mul_(mask)
            for value in optimizer.state[weight].values():
                if torch.is_tensor(value) and value.shape == weight.shape:
                    value.mul_(mask)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def sparsity(model: nn.Module) -> float:
    """Zeros over weights that have a mask, counted in the weights themselves; 0 for a dense model."""
    masked = [model.get_parameter(name) for name in of(model)]
    total = sum(w.numel() for w in masked)
    return sum(int((w == 0).sum()) for w in masked) / total if total else 0.0


def model_sparsity(model: nn.Module) -> float:
    """Zeros over all parameters, biases and the head included."""
    return sum(int((p == 0).sum()) for p in model.parameters()) / sum(p.numel() for p in model.parameters())


def save(model: nn.Module, path: str | Path) -> None:
    """Writes weights and masks to a safetensors file."""
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Reads weights and masks written by `save` into a model of the same architecture.

    Raises:
        RuntimeError: names or shapes do not fit the model (torch's message names them).
    """
    state = load_file(path)
    stored = {k.removesuffix("_mask"): state.pop(k) for k in list(state) if k.rpartition(".")[2] == SUFFIX}
    for name in of(model):
        delattr(model.get_submodule(name.rpartition(".")[0]), SUFFIX)
    model.load_state_dict(state)
    return attach(model, {name: mask.bool() for name, mask in stored.items()})
