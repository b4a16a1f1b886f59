"""Parameters held against the world, before any work: the datasets, the model, the checkpoint, the device.

What needs neither torch nor timm is checked first, so that most mistakes are answered at once.
"""

import importlib.util
import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ovit_core import disk
from ovit_core.data import catalog
from ovit_core.methods import DAMP, METHODS, SCORES, UPDATES
from ovit_core.study.parameters import Parameters

log = logging.getLogger(__name__)

CLUSTER = dict(ray="RAY_ADDRESS", dask="DASK_SCHEDULER_ADDRESS")  # engine -> what names a cluster that exists
EXTRA = dict(ray="ray", dask="distributed")  # engine -> the package it needs, one of this project's extras by its name


def check(config: Parameters) -> None:
    """Raises ValueError or FileNotFoundError, the parameter's name first, for what cannot be run here."""
    if (package := EXTRA.get(config.engine)) and importlib.util.find_spec(package) is None:
        raise ValueError(f"engine: {package} is not installed; pip install -e '.[{config.engine}]' brings it")
    _check_methods()
    _check_cluster(config)
    if os.path.exists(config.data_path) and not os.path.isdir(config.data_path):  # noqa: PTH110, PTH112 (long names)
        raise ValueError(f"data_dir must be a folder, not {config.data_dir!r}")
    for dataset in config.every_dataset:
        parameter = "upstream" if dataset == config.upstream else "datasets"
        _named(parameter, catalog.check, dataset, config.data_path)
    if config.checkpoint_path:
        _check_file(config, config.checkpoint_path)
    if config.checkpoint and config.pretrained:
        raise ValueError("pretrained must be false where there is a checkpoint: the weights are one or the other")
    if config.masks_from_zeros and not (config.checkpoint or config.pretrained):
        raise ValueError("masks_from_zeros must be false where the dense model is trained here: it has no zeros yet")

    import torch

    from ovit_core import checkpoints, models
    from ovit_core.fisher import fit_block_size

    there, number = torch.cuda.device_count(), int(config.device.partition(":")[2] or 0)
    if config.device.startswith("cuda") and number >= there:
        raise ValueError(f"device must be auto or cpu here, not {config.device!r}: torch finds {there} GPUs")
    _named("model", _check_hub, config.model)
    model = _named("model", models.outline, config.model, **config.model_args)
    if (channels := models.input_config(model)["input_size"][0]) not in (1, 3):
        raise ValueError(f"model_args: in_chans must be 1 or 3, gray or colour, not {channels}")
    _named("prunable", models.check_expression, config.prunable, [name for name, _ in model.named_parameters()])
    weights = _named("prunable", models.prunable, model, config.prunable)
    for pattern, weight in product(config.patterns, weights.values()):
        _named(f"block_size for {pattern}", fit_block_size, weight[0].numel(), config.block_size, pattern.of)
    if config.checkpoint_path:
        classes = _named("checkpoint", checkpoints.classes, config.model, config.checkpoint_path)
        given = dict(checkpoint=config.checkpoint_path) | config.model_args
        loaded = _named("checkpoint", models.create, config.model, classes, **given)
        odd = next((n for n, t in loaded.state_dict().items() if t.is_floating_point() and not t.isfinite().all()), "")
        if odd:
            raise ValueError(
                f"checkpoint: {disk.shown(repr(config.checkpoint))} holds numbers that are not finite, in {odd}"
            )
    total = sum(weight.numel() for weight in weights.values())
    for name, value in config.values().items():
        for sparsity in [value] if name.endswith("sparsity") else value if name.endswith("sparsities") else []:
            if not 0 < round(sparsity * total) < total:
                raise ValueError(f"{name}: {sparsity:g} of {total:,} prunable weights rounds to none or all of them")


def _check_methods() -> None:
    """Raises ValueError for a method of the table that names no score, update or curvature: it would run as another."""
    known = dict(score=SCORES, update=UPDATES, curvature=DAMP)
    for name, method in METHODS.items():
        for part, names in known.items():
            if (given := getattr(method, part)) not in names:
                raise ValueError(
                    f"methods: {name} has no {part} {given!r}{disk.meant(given, names) or '.'} There are {', '.join(names)}"
                )


def _check_cluster(config: Parameters) -> None:
    """Raises ValueError where the cluster that a variable names cannot be reached: engines try for minutes, or for ever."""
    variable = CLUSTER.get(config.engine, "")
    if not (given := os.environ.get(variable)) or given in ("auto", "local"):
        return
    url = urlsplit(given if "://" in given else f"tcp://{given}")
    try:
        where, port = url.hostname, url.port
    except ValueError:
        where = port = None
    if not where or not port:
        raise ValueError(f"engine: {variable} must be HOST:PORT, not {given!r}")
    if url.scheme in ("tcp", "tls", "ray") and (why := catalog.unreachable(f"{url.scheme}://{where}:{port}")):
        raise ValueError(f"engine: no {config.engine} at {variable}={given}: {why}")


def read(config: Parameters, name: str) -> str:
    """Reads a dataset, and holds against it what only its images can tell; its fingerprint.

    Raises:
        ValueError, FileNotFoundError: as `dense.read`; or no class has as many images to learn from as `few_shots` asks for.
    """
    from ovit_core.study import dense

    data = dense.read(config, name)
    if name in getattr(config, "datasets", ()):
        _check_shots(name, getattr(config, "few_shots", ()), Counter(data.labels("train").tolist()).values())
    return data.fingerprint


def _check_shots(name: str, shots: Sequence[int], counts: Collection[int]) -> None:
    """Raises ValueError if no class has so many images; where some have fewer, a line in the log."""
    for count in shots:
        if count > max(counts):
            raise ValueError(
                f"few_shots: no class of {name} has {count} images to learn from; the largest has {max(counts)} "
                "(few_shots=[] asks for none)"
            )
        if fewer := sum(n < count for n in counts):
            log.warning(
                "%s: of %d classes %d with fewer than %d images to learn from, the smallest of %d: a probe on so many a class "
                "takes all of theirs", name, len(counts), fewer, count, min(counts),
            )  # fmt: skip


def _check_file(config: Parameters, path: Path) -> None:
    """Raises FileNotFoundError or ValueError unless `checkpoint` is a file with something in it. Devices are none, and
    what /proc makes up as it is read says that it is empty: both could be read for ever.
    """
    given = disk.shown(repr(config.checkpoint))
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises where a name is too long)
        raise FileNotFoundError(f"checkpoint must be an existing file, not {given}")
    if not path.stat().st_size:
        raise ValueError(f"checkpoint must hold weights, and {given} is empty")


def _check_hub(name: str) -> None:
    """Raises FileNotFoundError if a model of the hub is neither in its cache nor to be had: it would be asked for again
    and again, and each try be said.
    """
    prefix, _, repository = name.partition(":")
    if prefix.replace("_", "-") != "hf-hub":
        return
    from huggingface_hub import constants, try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    there = isinstance(try_to_load_from_cache(repository, "config.json", revision=revision or None), str)
    if not there and not constants.HF_HUB_OFFLINE and (why := catalog.unreachable(constants.ENDPOINT)):
        raise FileNotFoundError(f"{disk.shown(name)} cannot be downloaded: {why}")


def _named(parameter: str, check: Callable, /, *args: Any, **options: Any) -> Any:
    """What `check` returns; before what it raises stands the parameter's name."""
    try:
        return check(*args, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{parameter}: {error}") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{parameter}: {error}") from None
