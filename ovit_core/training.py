"""Train, recover and evaluate: plain loops with a cosine learning rate, masks held, a checkpoint each epoch."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovit_core import disk, masks
from ovit_core.progress import progress

OPTIMIZERS = ("adamw", "sgd")  # timm's names
AMP_DTYPES = ("", "bfloat16")  # float16 would want its gradients scaled
DECAYS = {"cosine": CosineLRScheduler, "linear": partial(PolyLRScheduler, power=1.0)}


def train(
    model: nn.Module,
    loader: Any,
    epochs: int,
    lr: float,
    weight_decay: float = 0.05,
    optimizer: str = "adamw",
    warmup: float = 0.05,
    label_smoothing: float = 0.0,
    final_lr: float = 0.0,
    decay: str = "cosine",
    cycles: int = 1,
    before_epoch: Callable[[int], None] | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    at_most: int | None = None,
    amp_dtype: str = "",
    desc: str = "train",
) -> nn.Module:
    """Trains in place with cross-entropy; masks the model carries stay exactly as they are.

    Args:
        model: on its device.
        loader: sized iterable of (images, labels); iterated once per epoch.
        epochs: 0 leaves the model alone.
        lr: peak learning rate, after a linear warm-up over the first `warmup` of all steps (none at 0); then down to
            `final_lr` along `decay`, "cosine" or "linear".
        cycles: how many times the rate goes down, each time from `lr` anew and over as many steps.
        before_epoch: called with the number of each epoch before it begins, also where an interrupted one begins anew;
            it may change weights and masks: the optimizer and its moments go on.
        weight_decay: on matrices only; biases, norms and what `model.no_weight_decay()` names (tokens, position
            embeddings) are not decayed.
        optimizer: a name of OPTIMIZERS; "sgd" has Nesterov momentum 0.9.
        seed: of dropout and the like, anew for each epoch, so that an interruption changes nothing.
        checkpoint: file written after each epoch and taken up again if it is there, by the same call to the same
            weights. It stays at the end: remove it when the model itself is kept. One that cannot be read is set aside.
        at_most: epochs to train now; None for all. `epochs_done` tells how many a checkpoint holds.
        amp_dtype: of matrix products, one of AMP_DTYPES (timm's name): mixed precision, in which weights, their gradients
            and the optimizer stay as they are; "" for none.

    Raises:
        ValueError: unknown optimizer, decay or amp_dtype.  FloatingPointError: the loss is not finite.
    """
    if optimizer not in OPTIMIZERS or decay not in DECAYS:
        raise ValueError(f"unknown {optimizer=} or {decay=}; one of {', '.join(OPTIMIZERS)} and {', '.join(DECAYS)}")
    if amp_dtype not in AMP_DTYPES:
        raise ValueError(f"unknown {amp_dtype=}; one of {AMP_DTYPES}")
    device = next(model.parameters()).device
    opt = create_optimizer_v2(model, optimizer, lr=lr, weight_decay=weight_decay, momentum=0.9)
    masks.hold(model, opt)
    steps, first_epoch = epochs * len(loader), 0
    start = max(1, round(warmup * steps)) if warmup else 0
    schedule = DECAYS[decay](
        opt, t_initial=max(2, (steps - start) // cycles), lr_min=final_lr, warmup_t=start,
        warmup_lr_init=lr / max(1, start), warmup_prefix=True, t_in_epochs=False, cycle_limit=cycles,
    )  # fmt: skip
    if (state := _taken_up(checkpoint, device)) is not None:
        masks.load_state(model, state["model"])
        opt.load_state_dict(state["optimizer"])
        first_epoch = state["epoch"]
        loader.epoch += first_epoch
    last_epoch = epochs if at_most is None else min(epochs, first_epoch + at_most)

    model.train()
    step = first_epoch * len(loader)
    schedule.step_update(step)
    with progress(total=steps, initial=step, desc=desc) as bar:
        for epoch in range(first_epoch, last_epoch):
            if before_epoch is not None:
                before_epoch(epoch)
                model.train()
            with _seeded(seed * 100_003 + epoch, device):
                for images, labels in loader:
                    with mixed_precision(device, amp_dtype):
                        logits = model(images.to(device)).float()  # (b, classes)
                    loss = F.cross_entropy(logits, labels.to(device), label_smoothing=label_smoothing)
                    opt.zero_grad()
                    loss.backward()
                    opt.step()
                    step += 1
                    schedule.step_update(step)
                    bar.update()
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"{desc}: the loss is {loss.item()} after epoch {epoch + 1}; try a lower lr than {lr:g}"
                )
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if checkpoint is not None:
                state, file = dict(model=model.state_dict(), optimizer=opt.state_dict(), epoch=epoch + 1), BytesIO()
                torch.save(state, file)  # not to the disk itself: of a full one torch says "unexpected pos"
                disk.write(checkpoint, file.getvalue())
    return model.eval()


@contextmanager
def mixed_precision(device: torch.device, amp_dtype: str):
    """Inside, matrix products on a device take numbers of a shorter type, one of AMP_DTYPES.

    On a CPU attention is then made of plain products: the backward pass of torch's fused one (2.14) takes three fifths of
    a small model's step in bfloat16, where all else is two to four times as fast as in float32.
    """
    with ExitStack() as stack:
        if amp_dtype:
            stack.enter_context(torch.autocast(device.type, getattr(torch, amp_dtype)))
            if device.type == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


@contextmanager
def _seeded(seed: int, device: torch.device):
    """Random numbers from a seed inside; outside torch's go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _taken_up(checkpoint: Path | None, device: torch.device) -> dict | None:
    """What a checkpoint holds; None where there is none, or none that can be read."""
    if checkpoint is None or not checkpoint.is_file():  # a pipe would be waited for, for ever
        return None
    try:
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        return {name: state[name] for name in ("model", "optimizer", "epoch")}
    except Exception as error:  # zipfile's, pickle's, torch's: whatever half a file makes of them
        disk.set_aside(checkpoint, error)
        return None


def epochs_done(checkpoint: Path) -> int:
    """Epochs that a checkpoint of `train` has behind it; 0 where there is none."""
    state = _taken_up(checkpoint, torch.device("cpu"))
    return state["epoch"] if state else 0


class Evaluation(NamedTuple):
    """What a model made of each image, in the loader's order."""

    correct: np.ndarray  # (n,) bool
    loss: np.ndarray  # (n,) float32 cross-entropy
    top: np.ndarray  # (n,) float32 probability of the class it took the image for

    @property
    def accuracy(self) -> float:
        """The share of images that are right."""
        return float(self.correct.mean())


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable) -> Evaluation:
    """A model on labelled images, in eval mode."""
    device = next(model.parameters()).device
    model.eval()
    found = []
    for images, labels in loader:
        labels, logits = labels.to(device), model(images.to(device)).float()  # (b,), (b, classes)
        loss, top = F.cross_entropy(logits, labels, reduction="none"), logits.softmax(1).amax(1)  # (b,), (b,)
        found.append([part.cpu() for part in (logits.argmax(1) == labels, loss, top)])
    return Evaluation(*(torch.cat(parts).numpy() for parts in zip(*found)))
