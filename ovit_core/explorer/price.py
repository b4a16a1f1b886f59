"""What new settings will take, before they are applied: from speeds measured on this machine, as busy as it is."""

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ovit_core import models, training
from ovit_core.data import manifest
from ovit_core.explorer.parameters import Explore
from ovit_core.explorer.solve import Explorer, kept
from ovit_core.methods import get_method
from ovit_core.study import identity, lambdas, machine, paths

FORWARD = 3  # a step of training takes as long as so many forward passes
ENOUGH = 0.3  # seconds of steps that tell a speed
DRAWS = {"bernoulli", "multinomial", "normal", "rand", "randint", "randn", "randperm"}
DRAWS |= {f"{name}_" for name in ("bernoulli", "exponential", "normal", "random", "trunc_normal", "uniform")}


class OwnStream(TorchFunctionMode):
    """Inside, functions of torch that this thread calls draw from a stream of random numbers of its own; dropout, which
    takes none, leaves all as it is.

    Torch has one for all threads. Another thread may be making the dense model of a seed from it, which would become
    another one, or starting processes that open images, in which its lock, held here just then, would never be opened.
    """

    def __init__(self):
        super().__init__()
        self.stream = cache(torch.Generator)  # of a device

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if "dropout" in name:
            return args[0]
        if name in DRAWS or "generator" in kwargs:
            first = args[0] if args else kwargs.get("tensor")
            where = first.device if isinstance(first, Tensor) else torch.device(kwargs.get("device") or "cpu")
            kwargs["generator"] = self.stream(where)
        if "dropout_p" in kwargs:  # of attention
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def price(config: Explore, x: Explorer | None) -> dict[str, float | None]:
    """Seconds by what is to be done, in order; None where only a dataset's first reading will tell.

    Args:
        x: the explorer there is, whose results are taken over where settings agree.
    """
    model, curvature = kept(config, x)
    where = config.model, json.dumps(config.model_args), config.device, config.batch_size, config.threads
    step = speed(*where, "")
    spent: dict[str, float | None] = {}
    if not model and not config.pretrained and not config.checkpoint:
        record = manifest.known(paths.cache(), config.upstream, config.data_path)
        if record is None:
            spent["training"] = None
        elif not identity.of_dense(config, config.dense_seed(config.seeds[0]), record.fingerprint):
            trained = speed(*where, config.amp_dtype)
            spent["training"] = 0.9 * config.epochs * record.train * trained  # the rest is for validation
    chosen = {name: get_method(name) for name in config.methods}
    one = _factorization(config, x)
    fresh = [m for m in chosen if not (x and curvature and x.solved(m, config))]
    kinds = {chosen[m].curvature for m in fresh if chosen[m].needs_curvature}
    if x and curvature:
        kinds -= {get_method(m).curvature for m in x.plans if get_method(m).needs_curvature}
    images = config.gradients * config.gradient_batch
    spent["curvature"] = sum(images * step / (1 if kind == "fisher" else FORWARD) for kind in kinds)
    tries = 0 if config.damp else sum(len(lambdas.values(config, m)) for m in fresh)
    spent["choosing λ"] = tries * (one + config.search_images * step / FORWARD)
    spent["factorizing"] = one * sum(chosen[m].needs_inverse for m in fresh)
    asked = 1 + len(config.sparsities) * len(fresh)
    spent["measuring"] = asked * config.images * step / FORWARD
    return spent


def worded(spent: dict[str, float | None]) -> str:
    """A price as a sentence."""
    parts = [f"{what} {'?' if s is None else clock(s)}" for what, s in spent.items() if s is None or s >= 0.5]
    known = clock(sum(s for s in spent.values() if s))
    more = " and the training, for which the dataset has to be read first" if None in spent.values() else ""
    return f"Apply will take about {known}{more}" + (f": {', '.join(parts)}." if parts else ".")


def clock(seconds: float) -> str:
    """A time in words."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


@cache
def speed(model: str, model_args: str, device: str, batch: int, threads: int, amp_dtype: str) -> float:
    """Seconds an image in training, of some steps on noise: first of two images, then of a batch if those are few."""
    taken, where = 0.0, models.pick_device(device)
    with machine.threads(threads), OwnStream():
        net = models.create(model, 10, **json.loads(model_args)).to(where).train()
        size = models.input_config(net)["input_size"]
        for count in (2, 2, min(batch, 64)):
            if taken * count > 2 * ENOUGH:
                break
            images, labels = torch.randn(count, *size, device=where), torch.zeros(count, dtype=torch.long, device=where)
            begin = time.perf_counter()
            with training.mixed_precision(where, amp_dtype):
                logits = net(images).float()
            F.cross_entropy(logits, labels).backward()
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            taken = (time.perf_counter() - begin) / count
    return taken


def _factorization(config: Explore, x: Explorer | None) -> float:
    """Seconds to solve one method: as long as the last took, times the weights and the square of the block size."""
    if x is None or not x.factorizing:
        return 0.0
    weights = models.prunable(models.outline(config.model, **config.model_args), config.prunable)
    there = sum(weight.numel() for weight in x.surgeon.weights.values())
    more = sum(weight.numel() for weight in weights.values()) / there
    return x.factorizing * more * (config.block_size / x.config.block_size) ** 2
