"""Curvature of a model's weights from a loader: the Fisher of its gradients, or the Hessian of its layers' inputs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovit_core import masks, refuse
from ovit_core.fisher import BlockFisher
from ovit_core.inputs import InputHessian, Watch
from ovit_core.methods import DAMP
from ovit_core.progress import progress

Loss = Callable[[nn.Module, Any], Tensor]  # of a model and a batch as the loader gives it, on the model's device


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Mean cross-entropy of an (images (b, C, H, W), labels) batch: labels (b,) integers, or (b, classes) shares.

    Raises:
        TypeError: the batch or the output are something else.  ValueError: a label is no class of the model.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(
            f"the default loss takes batches of (images, labels), not {type(batch).__name__}; give loss=f with "
            "f(model, batch) -> scalar"
        )
    images, labels = batch
    logits = model(images)
    if not torch.is_tensor(logits) or logits.ndim != 2:
        raise TypeError("the default loss takes models that return (b, classes); give loss=f with f(model, batch)")
    if not labels.is_floating_point() and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels reach from {int(labels.min())} to {int(labels.max())}, but the model knows {logits.shape[1]} classes"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # no softmax in half precision
    return F.cross_entropy(logits, labels.to(logits.dtype) if labels.is_floating_point() else labels)


def output_sketch(model: nn.Module, batch: Any) -> Tensor:
    """A loss without labels, for models without a head: sum_i <v_i, z(x_i)> / sqrt(b) with v_i ~ N(0, I) for each image.

    Its gradients' second moment is the Gauss-Newton matrix of the squared error of the outputs, mean over images
    (Hutchinson's estimator of J^T J; Martens 2010). A loss that compares the model with its own outputs would not do:
    its gradient is zero.

    Args:
        batch: images (b, C, H, W), or a tuple or list that begins with them.
    """
    images = batch[0] if isinstance(batch, (tuple, list)) else batch
    outputs = model(images).float().flatten(1)  # (b, k)
    v = torch.randn(outputs.shape).to(outputs.device)  # by the CPU's generator, which `replayable` turns back
    return (outputs * v).sum() / len(outputs) ** 0.5


def default_loss(model: nn.Module) -> Loss:
    """`cross_entropy`; `output_sketch` for timm models without a classifier head (num_classes=0)."""
    for wrapper in ("_orig_mod", "module"):
        model = getattr(model, wrapper, model)
    return output_sketch if getattr(model, "num_classes", None) == 0 else cross_entropy


def estimate(
    model: nn.Module,
    weights: dict[str, nn.Parameter],
    loader: Iterable,
    gradients: int,
    *,
    kind: str = "fisher",
    loss: Loss | None = None,
    block_size: int = 192,
    damp: float | None = None,
    dtype: torch.dtype = torch.float32,
    per_sample: bool = False,
    multiple: int = 1,
) -> BlockFisher | InputHessian:
    """The curvature of some of a model's weights, model in eval mode.

    Args:
        model: on its device; left in the mode it was in. Frozen weights and a surrounding `no_grad` do not matter.
        weights: name -> parameter, as `models.prunable` finds them, or a part of them.
        loader: of batches; gone round as often as needed. Floating-point tensors are cast to the weights' dtype.
        gradients: how many mini-batches.
        kind: `fisher`: of the gradients of each mini-batch's loss, multiplied by the mask their weight carries;
            `inputs`: of what the weights are multiplied with.
        loss: f(model, batch) -> scalar; None for `default_loss`. Batches come as the loader gives them.
        block_size: of `BlockFisher`; the Hessian of inputs is one of whole rows.
        damp, dtype, multiple: of either; a damp of None is the kind's own.
        per_sample: a gradient for each image instead of each mini-batch (`fisher`).

    Raises:
        ValueError: fewer than one gradient asked for, an empty loader, a weight whose inputs were not seen, or a loss
            that is not one number with a gradient.
        FloatingPointError: a loss or a gradient is not finite.
    """
    options: dict[str, Any] = dict(damp=DAMP[kind] if damp is None else damp, dtype=dtype, multiple=multiple)
    one = next(iter(weights.values()))
    kept = {n: m.to(one.device) for n, m in masks.of(model).items() if n in weights}
    loss = loss or default_loss(model)
    if kind == "inputs":
        return watched(model, InputHessian(weights, masks=kept, **options), loader, gradients, loss)
    batches = _endless(loader, gradients, one, per_sample)
    with _ready(model, weights):
        shapes = {name: w.shape for name, w in weights.items()}
        fisher = BlockFisher(shapes, block_size, device=one.device, **options)
        reached = dict.fromkeys(weights, False)
        for number, batch in enumerate(batches):
            value = _finite(loss(model, batch), number)
            found = dict(zip(weights, torch.autograd.grad(value, list(weights.values()), allow_unused=True)))
            reached |= {name: True for name, g in found.items() if g is not None}
            found = {name: torch.zeros_like(weights[name]) if g is None else g for name, g in found.items()}
            fisher.add({n: g.masked_fill(~kept[n], 0) if n in kept else g for n, g in found.items()})
            fisher.losses.append(value.item())
    if unseen := [name for name, there in reached.items() if not there]:
        raise ValueError(
            f"no gradient reached {', '.join(unseen)}: the loss does not depend on it; leave it out by `prunable`"
        )
    refuse.no_gradients(fisher)
    return fisher


Watching = TypeVar("Watching", bound=Watch)


def watched(model: nn.Module, watch: Watching, loader: Iterable, count: int, loss: Loss | None = None) -> Watching:
    """What saw `count` batches go through the model, in eval mode; arguments and errors as of `estimate`."""
    loss, weights = loss or default_loss(model), watch.weights
    batches = _endless(loader, count, next(iter(weights.values())), per_sample=False)
    with _ready(model, weights), torch.no_grad(), watch:
        watch.losses += [float(_finite(loss(model, batch), n)) for n, batch in enumerate(batches)]
    watch.check_seen()
    return watch


class SharedInverse:
    """A Fisher whose inverses at the last lambda are kept, so that several methods solve with one inversion.

    Args:
        curvature: to invert; stays as it is.
    """

    def __init__(self, curvature: BlockFisher):
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
def _ready(model: nn.Module, weights: dict[str, nn.Parameter]) -> Iterator[None]:
    """The model in eval mode with gradients for the weights, whatever surrounds it; afterwards all is as it was."""
    training = {module: module.training for module in model.modules()}  # parts may be frozen in eval mode
    frozen = [w for w in weights.values() if not w.requires_grad]
    fast = torch.backends.mha.get_fastpath_enabled()  # a fused attention whose products nobody can watch
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        # Compiled models run as they were written: what is fused cannot be watched.
        with torch.inference_mode(False), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            for weight in frozen:
                weight.requires_grad_(True)
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        for module, mode in training.items():
            module.training = mode
        torch.backends.mha.set_fastpath_enabled(fast)


def _finite(loss: Tensor, number: int) -> Tensor:
    refuse.no_scalar(loss)
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss of batch {number} is {loss.item()}: images, labels or weights hold numbers that are not finite"
        )
    return loss


def _tensors(batch: Any, change: Callable[[Tensor], Any]) -> Any:
    """A batch with every tensor in it changed, however it is nested."""
    if torch.is_tensor(batch):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: _tensors(value, change) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [_tensors(value, change) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _singles(batch: Any) -> list[Any]:
    """A batch's images one by one, each still with its first dimension."""
    sizes: list[int] = []
    _tensors(batch, lambda t: sizes.append(len(t)))
    return [_tensors(batch, lambda t, i=i: t[i : i + 1]) for i in range(min(sizes, default=0))]


def _endless(loader: Iterable, count: int, like: Tensor, per_sample: bool) -> Iterator[Any]:
    """`count` batches, or batches of one image, going round the loader as often as needed; on the device of `like`,
    floating-point numbers in its dtype.
    """
    if count < 1:
        raise ValueError(f"gradients must be at least 1, not {count}")
    done = 0
    with progress(total=count, desc="images for curvature") as bar:
        while done < count:
            before = done
            for batch in loader:
                batch = _tensors(batch, lambda t: t.to(like.device, like.dtype if t.is_floating_point() else t.dtype))
                for part in _singles(batch) if per_sample else [batch]:
                    yield part
                    done += 1
                    bar.update()
                    if done == count:
                        return
            if done == before:
                raise ValueError(
                    f"the loader is empty, or can be gone through only once: it gave {done} of {count} gradients; give a list "
                    "or a DataLoader"
                )
