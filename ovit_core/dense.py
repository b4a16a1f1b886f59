"""The dense model a study prunes: trained by the study itself, taken from timm, or from a checkpoint; cached."""

import hashlib
import sys
from dataclasses import dataclass

import torch
from torch import nn

from ovit_core import batches as loading
from ovit_core import config as configs
from ovit_core import data, masks, models, pictures, training
from ovit_core.batches import batches
from ovit_core.config import Config
from ovit_core.pictures import Pictures
from ovit_core.results import CACHE, write_atomically

# The images themselves have a fingerprint; this is the code that turns them into a trained model.
CODE = configs.source(
    training.train,
    loading,
    pictures,
    data.load,
    data.split,
    data.resize,
    models.create,
    models.input_config,
    sys.modules[__name__],
)


@dataclass
class Upstream:
    """A dense model, the data it was trained on, and the seed that made it."""

    model: nn.Module
    data: data.Data
    seed: int


def blank(config: Config, num_classes: int, seed: int) -> nn.Module:
    """The study's architecture with random weights, on its device."""
    torch.manual_seed(seed)
    return models.create(config.model, num_classes, **config.model_args).to(models.pick_device(config.device))


def verify(d: data.Data) -> None:
    """Reads every image file of a dataset, once for the same files: a mark in the cache says that they were sound.

    Raises:
        ValueError: an image is missing, truncated or none; names it.
    """
    parts = [p for p in (d.train, d.val, d.test) if isinstance(p, Pictures) and p.on_disk]
    mark = CACHE / f"verified-{d.fingerprint}"
    if parts and not mark.exists():
        for part in parts:
            part.verify()
        write_atomically(mark, f"{d.name}\n")


def upstream(config: Config, seed: int) -> Upstream:
    """The dense model of a seed (seed 0's for all, unless each has its own), trained only if it is not in the cache."""
    seed = seed if config.dense_per_seed else 0
    model = blank(config, 0, seed)
    models.prunable(model, config.prunable)  # a pattern that matches nothing is an error now, not after training
    checkpoint = config.checkpoint_path
    loaded = data.load(config.upstream, config.data_path, models.input_config(model))
    verify(loaded)
    classes = len(loaded.classes)
    if config.pretrained or checkpoint:
        known = model.pretrained_cfg.get("num_classes", classes)
        if config.pretrained and not checkpoint and known != classes:  # timm would give it a new, untrained head
            raise ValueError(
                f"timm's weights of {config.model} know {known} classes, {config.upstream} has {classes}: the upstream "
                "must be the dataset they were trained on; or give a checkpoint finetuned on it"
            )
        model = models.create(config.model, classes, config.pretrained, checkpoint, **config.model_args)
        if checkpoint:  # another file under the same name gives other numbers
            content = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
            loaded.fingerprint = configs.digest(loaded.fingerprint, content)
        return Upstream(model.to(models.pick_device(config.device)).eval(), loaded, seed)
    model = blank(config, classes, seed)
    recipe = [
        config.model,
        config.model_args,
        config.epochs,
        config.lr,
        config.weight_decay,
        config.batch_size,
        config.augment,
        {k: str(v) for k, v in models.input_config(model).items()},
    ]
    key = configs.digest(recipe, loaded.fingerprint, seed, CODE)
    path = CACHE / f"dense-{config.upstream.replace(':', '_')}-{key}.safetensors"
    if path.exists():
        return Upstream(masks.load(model, path).eval(), loaded, seed)
    CACHE.mkdir(parents=True, exist_ok=True)
    loader = batches(loaded.train, config.batch_size, seed, tuple(config.augment))
    print(
        f"training the dense {config.model} on {config.upstream}, seed {seed}: {config.epochs} epochs, once; then cached"
    )
    training.train(
        model, loader, config.epochs, config.lr, config.weight_decay,
        checkpoint=path.with_suffix(".resume.pt"), desc=f"dense model, {config.upstream}, seed {seed}",
    )  # fmt: skip
    partial = path.with_suffix(".partial")
    masks.save(model, partial)
    partial.replace(path)
    return Upstream(model, loaded, seed)
