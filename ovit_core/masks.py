"""Masks that survive optimizer steps, copies and checkpoints.

A mask is a boolean buffer beside the parameter it belongs to, `weight_mask` beside `weight`, `in_proj_weight_mask`
beside `in_proj_weight`: it follows `deepcopy`, `.to()` and `state_dict()`, and is never inferred from which weights
happen to be zero, unless `from_zeros` is asked to.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as dump
from torch import Tensor, nn

from ovit_core import disk, refuse

SUFFIX = "_mask"
WRAPPERS = ("_orig_mod.", "module.")  # what torch.compile and DataParallel put before every name


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and its name there."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _put(model: nn.Module, name: str, mask: Tensor) -> None:
    """Stores a mask beside its parameter."""
    module, leaf = _owner(model, name)
    module.register_buffer(leaf + SUFFIX, mask)


def attach(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """Stores masks (name of a parameter -> boolean tensor of its shape, True = kept) and zeroes what they remove.

    Raises:
        AttributeError: the model has no such parameter.  ValueError: a shape differs. Before anything is stored.
    """
    for name, mask in masks.items():
        try:
            shape = model.get_parameter(name).shape
        except (AttributeError, TypeError):  # a wrapper's own words would name the wrapper
            raise AttributeError(f"the model has no parameter {name}") from None
        if mask.shape != shape:
            raise ValueError(f"mask of {name} has shape {tuple(mask.shape)}, its weight {tuple(shape)}")
    with torch.inference_mode(False):  # a buffer made in it could never be loaded into
        for name, mask in masks.items():
            # A copy: nobody else's tensor.
            _put(model, name, mask.to(device=model.get_parameter(name).device, dtype=torch.bool, copy=True))
    apply(model)
    return model


def of(model: nn.Module) -> dict[str, Tensor]:
    """The masks a model carries: name of the parameter -> boolean tensor."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        name.removesuffix(SUFFIX): buffer
        for name, buffer in model.named_buffers()
        if name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in parameters and buffer.dtype == torch.bool
    }


def from_zeros(model: nn.Module, weights: dict[str, nn.Parameter]) -> nn.Module:
    """Takes the exact zeros of some weights (`models.prunable` names them) for removed: for sparse checkpoints that
    carry no masks. A weight that is zero by chance is taken too, which is why nothing does this unasked.
    """
    return attach(model, {name: weight.detach() != 0 for name, weight in weights.items()})


def detach(model: nn.Module) -> nn.Module:
    """Drops the masks; what they removed stays zero until somebody trains it. For those who hand a model on."""
    for name in of(model):
        module, leaf = _owner(model, name)
        delattr(module, leaf + SUFFIX)
    return model


@torch.no_grad()
def apply(model: nn.Module) -> None:
    """Zeroes the removed weights."""
    for name, mask in of(model).items():
        model.get_parameter(name).masked_fill_(~mask, 0)


def hold(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Keeps removed weights at zero through `optimizer`, whatever its momentum and weight decay.

    Gradients are masked before each step (they would count in momentum and gradient norms), weights and the
    optimizer's own moments after it. Masks are looked up at every step: those attached later are held too.

    Raises:
        ValueError: the optimizer trains nothing of the model.
    """
    refuse.strange_optimizer(model, optimizer)

    @torch.no_grad()
    def before(*_):
        for name, mask in of(model).items():
            if (gradient := model.get_parameter(name).grad) is not None:
                gradient.masked_fill_(~mask, 0)

    @torch.no_grad()
    def after(*_):
        apply(model)
        for name, mask in of(model).items():
            weight = model.get_parameter(name)
            for value in optimizer.state.get(weight, {}).values():  # it need not own every weight
                if torch.is_tensor(value) and value.shape == weight.shape:
                    value.masked_fill_(~mask, 0)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def sparsity(model: nn.Module) -> float:
    """Weights removed by masks over weights that have a mask; 0 for a dense model.

    Raises:
        RuntimeError: a removed weight is no longer zero; names where.
    """
    for name, mask in of(model).items():
        if (back := int(torch.count_nonzero(model.get_parameter(name)[~mask]))) > 0:
            raise RuntimeError(
                f"{back} removed weights of {name} are no longer zero: train with masks.hold(model, optimizer)"
            )
    return removed_share(of(model))


def removed_share(masks: dict[str, Tensor]) -> float:
    """Weights that some masks remove over all they are of; 0 for no masks."""
    total = sum(mask.numel() for mask in masks.values())
    return sum(int((~mask).sum()) for mask in masks.values()) / total if total else 0.0


def zeros(weights: dict[str, nn.Parameter]) -> float:
    """The share of some weights that is exactly zero, whatever made it so."""
    return sum(int((w == 0).sum()) for w in weights.values()) / sum(w.numel() for w in weights.values())


def model_sparsity(model: nn.Module) -> float:
    """Zeros over all parameters, biases and the head included."""
    return zeros(dict(model.named_parameters()))


@contextmanager
def restored(model: nn.Module, names: list[str]) -> Iterator[None]:
    """Leaves the model's masks and some of its weights as they were if the block fails, for whatever reason."""
    weights = {name: model.get_parameter(name).detach().clone() for name in names}
    masks = dict(of(model))
    try:
        yield
    except BaseException:
        detach(model)
        with torch.no_grad():
            for name, weight in weights.items():
                model.get_parameter(name).copy_(weight)
        for name, mask in masks.items():
            _put(model, name, mask)
        raise


def save(model: nn.Module, path: str | Path) -> None:
    """Writes weights and masks to a safetensors file; of tied weights one, as the format wants it."""
    seen: set[tuple] = set()
    state = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or place not in seen:
            state[name] = tensor.contiguous()
        seen.add(place)
    disk.write(Path(path), dump(state))


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Reads weights and masks written by `save` into a model of the same architecture, wrapped or not.

    Raises:
        RuntimeError: names or shapes do not fit the model (torch's message names them).
    """
    return load_state(model, load_file(path))


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Weights and masks of a `state_dict` put into a model, whatever masks it had; errors as of `load`."""
    own = model.state_dict(keep_vars=True)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    is_mask = lambda name: name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in parameters
    wrapped = {name.removesuffix(bare(name)) for name in own}
    prefix = wrapped.pop() if len(wrapped) == 1 else ""
    named = {prefix + bare(name): tensor for name, tensor in state.items()}
    stored = {name.removesuffix(SUFFIX): tensor.bool() for name, tensor in named.items() if is_mask(name)}
    weights = {name: tensor for name, tensor in named.items() if not is_mask(name)}
    for name, tensor in own.items():  # tied weights are stored once
        twin = next((k for k in weights if k in own and own[k] is tensor), None)
        if name not in weights and twin:
            weights[name] = weights[twin]
    with restored(model, [name for name, _ in model.named_parameters()]):
        detach(model)
        model.load_state_dict(weights)
    return attach(model, stored)


def bare(name: str) -> str:
    """A name without what wrappers put before it."""
    while wrapper := next((w for w in WRAPPERS if name.startswith(w)), ""):
        name = name.removeprefix(wrapper)
    return name
