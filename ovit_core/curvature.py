"""Curvature of a model's weights from a loader: the Fisher of its gradients, or the Hessian of its layers' inputs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovit_core import masks, models
from ovit_core.fisher import BlockFisher
from ovit_core.inputs import InputHessian
from ovit_core.progress import progress

Curvature = BlockFisher | InputHessian


@contextmanager
def replayable(loader: Iterable) -> Iterator[None]:
    """Leaves the loader, and torch's random numbers, as they were: another pass sees the same batches."""
    generator, epoch, random = getattr(loader, "generator", None), getattr(loader, "epoch", None), torch.get_rng_state()
    state = generator.get_state() if generator is not None else None
    try:
        yield
    finally:
        torch.set_rng_state(random)
        if state is not None:
            generator.set_state(state)
        if epoch is not None:
            loader.epoch = epoch


def _endless(loader: Iterable, count: int, desc: str, per_sample: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` batches, or batches of one image, going round the loader as often as needed."""
    if count < 1:
        raise ValueError(f"gradients must be at least 1, not {count}")
    done = 0
    with progress(total=count, desc=desc) as bar:
        while done < count:
            before = done
            for images, labels in loader:
                parts = zip(images.split(1), labels.split(1)) if per_sample else [(images, labels)]
                for part in parts:
                    yield part
                    done += 1
                    bar.update()
                    if done == count:
                        return
            if done == before:
                raise ValueError("the loader is empty: images are needed to estimate curvature")


def estimate_fisher(
    model: nn.Module,
    loader: Iterable,
    gradients: int,
    block_size: int = 192,
    damp: float = 1e-8,
    prunable: str = models.PRUNABLE,
    dtype: torch.dtype = torch.float32,
    names: list[str] | None = None,
    per_sample: bool = False,
    multiple: int = 1,
) -> BlockFisher:
    """The Fisher of a model's prunable weights from gradients of the mean cross-entropy, model in eval mode, each
    gradient multiplied by the mask its weight carries.

    Args:
        gradients: how many; each of one mini-batch, or of one image if `per_sample`. Goes round the loader as often
            as needed.
        names: a part of the prunable weights; all if None.
        block_size, damp, dtype, multiple: of the `BlockFisher`.

    Raises:
        ValueError: fewer than one gradient asked for, or an empty loader.
    """
    weights = models.prunable(model, prunable)
    weights = {n: weights[n] for n in (names or weights)}
    device = next(iter(weights.values())).device
    shapes = {n: w.shape for n, w in weights.items()}
    fisher = BlockFisher(shapes, block_size, damp, device=device, dtype=dtype, multiple=multiple)
    current = {n: m.to(device) for n, m in masks.of(model).items()}
    training = model.training
    model.eval()
    for images, labels in _endless(loader, gradients, "Fisher gradients", per_sample):
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        found = torch.autograd.grad(loss, list(weights.values()))
        fisher.add({n: g * current[n] if n in current else g for n, g in zip(weights, found)})
        fisher.losses.append(loss.item())
    model.train(training)
    return fisher


@torch.no_grad()
def estimate_inputs(
    model: nn.Module,
    loader: Iterable,
    batches: int,
    block_size: int = 192,
    damp: float = 0.01,
    prunable: str = models.PRUNABLE,
    dtype: torch.dtype = torch.float32,
    names: list[str] | None = None,
    multiple: int = 1,
) -> InputHessian:
    """The input Hessian of a model's prunable linear layers over `batches` mini-batches, model in eval mode.

    Raises:
        ValueError: a prunable weight that is no linear layer's, or an empty loader.
    """
    weights = list(names or models.prunable(model, prunable))
    hessian = InputHessian(model, weights, block_size, damp, dtype, multiple)
    device = model.get_parameter(weights[0]).device
    training = model.training
    model.eval()
    with hessian.watching():
        for images, labels in _endless(loader, batches, "layer inputs"):
            hessian.losses.append(float(F.cross_entropy(model(images.to(device)), labels.to(device))))
    model.train(training)
    return hessian
