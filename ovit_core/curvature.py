"""Curvature of a model's weights from a loader: the Fisher of its gradients, or the Hessian of its layers' inputs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovit_core import masks
from ovit_core.fisher import BlockFisher
from ovit_core.inputs import InputHessian
from ovit_core.methods import DAMP
from ovit_core.progress import progress


def estimate(
    model: nn.Module,
    weights: dict[str, nn.Parameter],
    loader: Iterable,
    gradients: int,
    *,
    kind: str = "fisher",
    block_size: int = 192,
    damp: float | None = None,
    dtype: torch.dtype = torch.float32,
    per_sample: bool = False,
    multiple: int = 1,
) -> BlockFisher | InputHessian:
    """The curvature of some of a model's weights, model in eval mode.

    Args:
        model: on its device; left in the mode it was in.
        weights: name -> parameter, as `models.prunable` finds them, or a part of them.
        loader: (images (b, C, H, W), labels (b,)) batches; gone round as often as needed.
        gradients: how many mini-batches.
        kind: `fisher`: of the gradients of each mini-batch's mean cross-entropy, multiplied by the mask their weight
            carries; `inputs`: of the inputs of the weights' linear layers.
        block_size, damp, dtype, multiple: of `BlockFisher` or `InputHessian`; a damp of None is the kind's own.
        per_sample: a gradient for each image instead of each mini-batch (`fisher`).

    Raises:
        ValueError: fewer than one gradient asked for, an empty loader, or `inputs` of what is no linear layer.
        FloatingPointError: a gradient is not finite.
    """
    options: dict[str, Any] = dict(
        block_size=block_size, damp=DAMP[kind] if damp is None else damp, dtype=dtype, multiple=multiple
    )
    device = next(iter(weights.values())).device
    if kind == "inputs":
        hessian = InputHessian(model, list(weights), **options)
        with _evaluating(model), hessian.watching(), torch.no_grad():
            for images, labels in _endless(loader, gradients, "layer inputs"):
                hessian.losses.append(float(F.cross_entropy(model(images.to(device)), labels.to(device))))
        return hessian
    fisher = BlockFisher({n: w.shape for n, w in weights.items()}, device=device, **options)
    kept = {n: m.to(device) for n, m in masks.of(model).items()}
    with _evaluating(model):
        for images, labels in _endless(loader, gradients, "Fisher gradients", per_sample):
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            found = torch.autograd.grad(loss, list(weights.values()))
            fisher.add({n: g * kept[n] if n in kept else g for n, g in zip(weights, found)})
            fisher.losses.append(loss.item())
    return fisher


class SharedInverse:
    """A curvature whose inverses at the last lambda are kept, so that several methods solve with one inversion.

    Args:
        curvature: to invert; stays as it is.
    """

    def __init__(self, curvature: BlockFisher | InputHessian):
        self.curvature = curvature
        self.block_sizes, self.dtype = curvature.block_sizes, curvature.dtype
        self._damp: float | None = None
        self._inverses: dict[str, Tensor] = {}

    def diagonal(self, name: str, damp: float | None = None) -> Tensor:
        """(n_blocks, B) diagonal, damping included."""
        return self.curvature.diagonal(name, damp)

    def inverse(self, name: str, damp: float | None = None, consume: bool = False) -> Tensor:
        """(n_blocks, B, B) inverse, a copy that may be written over."""
        if damp != self._damp:
            self.forget()
            self._damp = damp
        if name not in self._inverses:
            self._inverses[name] = self.curvature.inverse(name, damp)
        return self._inverses[name].clone()

    def forget(self) -> None:
        """Frees the inverses, as large as the curvature."""
        self._inverses.clear()


Curvature = BlockFisher | InputHessian | SharedInverse


@contextmanager
def replayable(loader: Any) -> Iterator[None]:
    """Leaves the loader, and torch's random numbers, as they were: another pass sees the same batches."""
    generator, epoch, random = getattr(loader, "generator", None), getattr(loader, "epoch", None), torch.get_rng_state()
    state = generator.get_state() if generator is not None else None
    try:
        yield
    finally:
        torch.set_rng_state(random)
        if generator is not None and state is not None:
            generator.set_state(state)
        if epoch is not None:
            loader.epoch = epoch


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and afterwards as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


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
