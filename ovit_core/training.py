"""Train, recover and evaluate: plain loops with a cosine learning rate, masks held, a checkpoint each epoch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ovit_core import masks
from ovit_core.progress import progress


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
        weight_decay: on matrices only; biases and norms are not decayed.
        optimizer: "adamw", or "sgd" with momentum 0.9.
        checkpoint: file written after each epoch and taken up again if it is there; removed at the end.

    Raises:
        ValueError: unknown optimizer or decay.  FloatingPointError: the loss is not finite.
    """
    if decay not in ("cosine", "linear"):
        raise ValueError(f"unknown decay {decay!r}; one of cosine, linear")
    device = next(model.parameters()).device
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=matrices, weight_decay=weight_decay), dict(params=rest, weight_decay=0.0)]
    if optimizer == "adamw":
        opt = torch.optim.AdamW(groups, lr=lr)
    elif optimizer == "sgd":
        opt = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    else:
        raise ValueError(f"unknown optimizer {optimizer!r}; one of adamw, sgd")
    masks.hold(model, opt)
    steps = epochs * len(loader)
    start, first_epoch = max(1, round(warmup * steps)), 0

    def factor(step: int) -> float:
        if step < start:
            return (step + 1) / start
        done = (step - start) / max(1, steps - start)
        left = (1 + np.cos(np.pi * done)) / 2 if decay == "cosine" else 1 - done
        return float(left + (1 - left) * final_lr / lr)

    schedule = torch.optim.lr_scheduler.LambdaLR(opt, factor)
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        model.load_state_dict(state["model"])
        opt.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first_epoch = loader.epoch = state["epoch"]

    model.train()
    with progress(total=steps, initial=first_epoch * len(loader), desc=desc) as bar:
        for epoch in range(first_epoch, epochs):
            for images, labels in loader:
                loss = F.cross_entropy(model(images.to(device)), labels.to(device), label_smoothing=label_smoothing)
                opt.zero_grad()
                loss.backward()
                opt.step()
                schedule.step()
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
                    schedule=schedule.state_dict(),
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
