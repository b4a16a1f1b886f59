"""Train, recover and evaluate: plain loops with a cosine learning rate, masks held, a checkpoint each epoch."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from torch import nn

from ovit_core import masks
from ovit_core.progress import progress

OPTIMIZERS = ("adamw", "sgd")  # timm's names
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
    checkpoint: Path | None = None,
    desc: str = "train",
) -> nn.Module:
    """Trains in place with cross-entropy; masks the model carries stay exactly as they are.

    Args:
        model: on its device.
        loader: sized iterable of (images, labels); iterated once per epoch.
        epochs: 0 leaves the model alone.
        lr: peak learning rate, after a linear warm-up over the first `warmup` of all steps; then down to
            `final_lr` along `decay`, "cosine" or "linear".
        weight_decay: on matrices only; biases, norms and what `model.no_weight_decay()` names (tokens, position
            embeddings) are not decayed.
        optimizer: a name of OPTIMIZERS; "sgd" has Nesterov momentum 0.9.
        checkpoint: file written after each epoch and taken up again if it is there; removed at the end.

    Raises:
        ValueError: unknown optimizer or decay.  FloatingPointError: the loss is not finite.
    """
    if optimizer not in OPTIMIZERS or decay not in DECAYS:
        raise ValueError(f"unknown {optimizer=} or {decay=}; one of {', '.join(OPTIMIZERS)} and {', '.join(DECAYS)}")
    device = next(model.parameters()).device
    opt = create_optimizer_v2(model, optimizer, lr=lr, weight_decay=weight_decay, momentum=0.9)
    masks.hold(model, opt)
    steps, first_epoch = epochs * len(loader), 0
    start = max(1, round(warmup * steps))
    schedule = DECAYS[decay](
        opt, t_initial=max(2, steps - start), lr_min=final_lr, warmup_t=start, warmup_lr_init=lr / start,
        warmup_prefix=True, t_in_epochs=False,
    )  # fmt: skip
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        opt.load_state_dict(state["optimizer"])
        first_epoch = loader.epoch = state["epoch"]

    model.train()
    step = first_epoch * len(loader)
    schedule.step_update(step)
    with progress(total=steps, initial=step, desc=desc) as bar:
        for epoch in range(first_epoch, epochs):
            for images, labels in loader:
                loss = F.cross_entropy(model(images.to(device)), labels.to(device), label_smoothing=label_smoothing)
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
                state = dict(
                    model=model.state_dict(),
                    optimizer=opt.state_dict(),
                    epoch=epoch + 1,
                )
                partial = checkpoint.with_suffix(".partial")
                torch.save(state, partial)
                partial.replace(checkpoint)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return model.eval()


@torch.no_grad()
def evaluate(model: nn.Module, loader: Iterable) -> tuple[np.ndarray, float]:
    """(n,) bool, which images were classified correctly, in the loader's order; and the mean cross-entropy."""
    device = next(model.parameters()).device
    model.eval()
    correct, loss = [], 0.0
    for images, labels in loader:
        labels = labels.to(device)
        logits = model(images.to(device))
        correct.append((logits.argmax(1) == labels).cpu())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    correct = torch.cat(correct).numpy()
    return correct, loss / len(correct)
