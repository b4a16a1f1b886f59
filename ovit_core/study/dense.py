"""The dense model a study prunes: trained by the study itself, taken from timm, or from a checkpoint; cached."""

import hashlib
from dataclasses import dataclass

import torch
from joblib import cpu_count
from torch import nn

from ovit_core import checkpoints, masks, models, training
from ovit_core.data.batches import batches
from ovit_core.data.loading import Data, load
from ovit_core.study import paths, provenance
from ovit_core.study.parameters import Parameters

# Raised by whoever changes how a dense model is trained; finished ones survive all other work on the code.
RECIPE = 2


@dataclass
class Upstream:
    """A dense model, the data it was trained on, and the seed that made it."""

    model: nn.Module
    data: Data
    seed: int

    @property
    def headless(self) -> bool:
        """Whether it gives features only: there is no top-1 of it."""
        return getattr(self.model, "num_classes", None) == 0


def blank(config: Parameters, num_classes: int, seed: int) -> nn.Module:
    """The study's architecture with random weights, on its device."""
    torch.manual_seed(seed)
    return models.create(config.model, num_classes, **config.model_args).to(models.pick_device(config.device))


def upstream(config: Parameters, seed: int) -> Upstream:
    """The dense model of a seed (seed 0's for all, unless each has its own), trained only if it is not in the cache."""
    if torch.get_num_threads() > (allowed := cpu_count()):  # a container's quota, which torch does not ask for
        torch.set_num_threads(allowed)
    seed = seed if config.dense_per_seed else 0
    model = blank(config, 0, seed)
    models.prunable(model, config.prunable)  # a pattern that matches nothing is an error now, not after training
    data = load(config.upstream, config.data_path, models.input_config(model), cache=paths.cache())
    if config.pretrained or config.checkpoint_path:
        return _given(config, model, data, seed)
    model = blank(config, len(data.classes), seed)
    path = paths.cache() / f"dense-{config.upstream.replace(':', '_')}-{_key(config, model, data, seed)}.safetensors"
    if path.exists():
        return Upstream(masks.load(model, path).eval(), data, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"dense {config.model} on {config.upstream}, seed {seed}: {config.epochs} epochs, once; then cached")
    training.train(
        model, batches(data.train, config.batch_size, seed, config.augment), config.epochs, config.lr,
        config.weight_decay, checkpoint=path.with_suffix(".resume.pt"),
        desc=f"dense model, {config.upstream}, seed {seed}",
    )  # fmt: skip
    partial = path.with_suffix(".partial")
    masks.save(model, partial)
    partial.replace(path)
    return Upstream(model, data, seed)


def _given(config: Parameters, blank: nn.Module, data: Data, seed: int) -> Upstream:
    """A dense model that is not trained here: timm's weights, or a checkpoint's."""
    classes, checkpoint = len(data.classes), config.checkpoint_path
    known = (
        checkpoints.classes(config.model, checkpoint)
        if checkpoint
        else blank.pretrained_cfg.get("num_classes", classes)
    )
    if known not in (0, classes):  # timm would give it a new, untrained head
        raise ValueError(
            f"the weights of {config.model} know {known} classes, {config.upstream} has {classes}: the upstream "
            "must be the dataset they were trained on; or give a checkpoint finetuned on it"
        )
    model = models.create(config.model, known, config.pretrained, checkpoint, **config.model_args)
    if checkpoint:  # another file under the same name gives other numbers
        content = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        data.fingerprint = provenance.digest(data.fingerprint, content)
    if config.masks_from_zeros:
        masks.from_zeros(model, models.prunable(model, config.prunable))
    return Upstream(model.to(models.pick_device(config.device)).eval(), data, seed)


def _key(config: Parameters, model: nn.Module, data: Data, seed: int) -> str:
    """Of all that the weights depend on."""
    recipe = [
        config.model, config.model_args, config.epochs, config.lr, config.weight_decay, config.batch_size,
        list(config.augment), {k: str(v) for k, v in models.input_config(model).items()},
    ]  # fmt: skip
    return provenance.digest(recipe, data.fingerprint, seed, RECIPE)
