"""The dense model a study prunes: trained by the study itself, taken from timm, or from a checkpoint; cached."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ovit_core import checkpoints, disk, masks, models, training
from ovit_core.data.batches import EVAL_BATCH, batches
from ovit_core.data.loading import Data, load
from ovit_core.data.mixing import Mixed
from ovit_core.study import identity, machine, paths, provenance, released
from ovit_core.study.parameters import Parameters


@dataclass
class Upstream:
    """A dense model, the data it was trained on, the seed that made it, and what identifies its weights."""

    model: nn.Module
    data: Data
    seed: int
    identity: str = ""

    @property
    def headless(self) -> bool:
        """Whether it gives features only: there is no top-1 of it."""
        return getattr(self.model, "num_classes", None) == 0


def blank(config: Parameters, num_classes: int, seed: int) -> nn.Module:
    """The study's architecture with random weights, on its device."""
    torch.manual_seed(seed)
    return models.create(config.model, num_classes, **config.model_args).to(models.pick_device(config.device))


def read(config: Parameters, name: str, *more: Any) -> Data:
    """A dataset as the study's model sees it, every image checked once; `more` as `loading.load` takes it.

    Raises:
        ValueError, FileNotFoundError: it is not there, or an image is missing, truncated or none; names it.
    """
    preprocessing = models.input_config(models.create(config.model, 0, **config.model_args))
    return load(name, config.data_path, preprocessing, *more, cache=paths.cache())


def upstream(config: Parameters, seed: int) -> Upstream:
    """The dense model of a seed (seed 0's for all, unless each has its own), trained only if it is neither in the cache
    nor published.

    Of two processes that want the same one trains it, and the other waits.
    """
    seed = config.dense_seed(seed)
    models.prunable(blank(config, 0, seed), config.prunable)  # a pattern that matches nothing is an error now
    data = read(config, config.upstream)
    if config.pretrained or config.checkpoint_path:
        return Upstream(_given(config, data, seed), data, seed, identity.of_dense(config, seed, data.fingerprint))
    path = identity.dense_path(config, seed, data.fingerprint)
    with disk.locked(path, f"trains the dense model of {config.upstream}, seed {seed}"):
        for _ in range(2):  # the file that was there may be set aside
            released.take(path, config.profile)
            if (model := _cached(config, data, seed, path)) is not None:
                break
        while model is None:
            model = train(config, data, seed, path)
        path.with_suffix(".resume.pt").unlink(missing_ok=True)  # of a kill right after the model was kept
    return Upstream(model, data, seed, identity.of_dense(config, seed, data.fingerprint))


def _cached(config: Parameters, data: Data, seed: int, path: Path) -> nn.Module | None:
    """The model of a file in the cache; None where there is none that can be read."""
    if not path.is_file():  # a pipe would be waited for, for ever
        return None
    try:
        return masks.load(blank(config, len(data.classes), seed), path).eval()
    except Exception as error:  # safetensors' own, torch's, the system's: whatever half a file makes of them
        disk.set_aside(path, error)
        return None


def train(config: Parameters, data: Data, seed: int, path: Path, at_most: int | None = None) -> nn.Module | None:
    """Trains a dense model and writes it to `path`; None where `at_most` epochs were not all that was left. What is
    done lies beside `path` after each epoch, and is taken up again; so does its top-1 on validation images (`curve`).
    """
    model, resume = blank(config, len(data.classes), seed), path.with_suffix(".resume.pt")
    loader, done, begun = _training(config, data, seed), training.epochs_done(resume), time.perf_counter()
    curve = {epoch: top1 for epoch, top1 in identity.curve(path).items() if epoch <= done}

    def look(epoch: int) -> None:
        """Notes what the model can do after so many epochs."""
        if epoch and epoch not in curve:
            curve[epoch] = training.evaluate(model, batches(data.val, EVAL_BATCH)).accuracy
            disk.write(released.curve_path(path), json.dumps(curve) + "\n")

    with machine.threads(config.threads):
        training.train(
            model, loader, config.epochs, config.lr, config.weight_decay, seed=seed, checkpoint=resume,
            before_epoch=look, at_most=at_most, amp_dtype=config.amp_dtype,
            desc=f"dense model, {config.upstream}, seed {seed}",
        )  # fmt: skip
        if at_most is not None and training.epochs_done(resume) < config.epochs:
            return None
        look(config.epochs)
    masks.save(model, path)
    resume.unlink(missing_ok=True)
    # For whoever plans the next one: epochs before an interruption are taken to be as long as those after it.
    seconds = (time.perf_counter() - begun) * config.epochs / max(1, config.epochs - done)
    about = dict(seed=seed, epochs=config.epochs, threads=config.threads, seconds=round(seconds, 1))
    about |= dict(device=provenance.device_name(config.device), commit=provenance.commit())
    about |= dict(versions=provenance.versions())
    with suppress(OSError):  # it only helps to plan
        disk.write(path.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    return model


def _training(config: Parameters, data: Data, seed: int) -> Any:
    """The batches that a dense model learns from, by the study's recipe."""
    loader = batches(data.train, config.batch_size, seed, config.augment)
    if not (config.mixup or config.cutmix or config.smoothing):
        return loader
    return Mixed(loader, len(data.classes), config.mixup, config.cutmix, config.mixup_prob, config.smoothing)


def _given(config: Parameters, data: Data, seed: int) -> nn.Module:
    """A dense model that is not trained here: timm's weights, or a checkpoint's."""
    classes, checkpoint = len(data.classes), config.checkpoint_path
    known = (
        checkpoints.classes(config.model, checkpoint)
        if checkpoint
        else blank(config, 0, seed).pretrained_cfg.get("num_classes", classes)
    )
    if known not in (0, classes):  # timm would give it a new, untrained head
        raise ValueError(
            f"the weights of {config.model} know {known} classes, {config.upstream} has {classes}: the upstream "
            "must be the dataset they were trained on; or give a checkpoint finetuned on it"
        )
    model = models.create(config.model, known, config.pretrained, checkpoint, **config.model_args)
    if config.masks_from_zeros:
        masks.from_zeros(model, models.prunable(model, config.prunable))
    return model.to(models.pick_device(config.device)).eval()
