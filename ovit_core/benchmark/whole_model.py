"""Pruning a whole timm model, random weights and images: peak memory, and seconds of a slider's position."""

import hashlib
import math

import torch
from torch import Tensor

from ovit_core import models
from ovit_core.benchmark.measuring import fastest, measure
from ovit_core.curvature import estimate
from ovit_core.elimination import eliminate
from ovit_core.methods import get_method
from ovit_core.plan import solve
from ovit_core.pruning import prune

GRADIENTS = 8


def random_model(name: str, device: torch.device) -> tuple[torch.nn.Module, list[tuple[Tensor, Tensor]]]:
    """A timm model with random weights, and two batches of four random images."""
    torch.manual_seed(0)
    model = models.create(name, 1000).to(device)
    size = models.input_config(model)["input_size"]
    return model, [(torch.randn(4, *size), torch.randint(1000, (4,))) for _ in range(2)]


def whole_model(name: str, memory: float | None, device: torch.device, block_size: int = 192) -> dict:
    """Seconds and peak memory of pruning a timm model (random weights and images) to 50 %."""
    model, loader = random_model(name, device)
    d = sum(w.numel() for w in models.prunable(model).values())
    eliminate(torch.randn(4, 32, device=device), torch.eye(32, device=device).repeat(4, 1, 1))  # compiles
    options = dict(gradients=GRADIENTS, block_size=block_size, damp=1e-4, memory=memory)
    options |= dict(dtype=torch.float32)  # half the memory of float64, which `prune` takes where it fits
    cost, report = measure(lambda: prune(model, "ovit", 0.5, loader, **options), device)
    masks = hashlib.sha256(b"".join(m.cpu().numpy().tobytes() for m in report.masks.values())).hexdigest()[:12]
    fisher = sum(la["weights"] * la["block_size"] for la in report.layers) * 4 / 1e9
    return dict(
        model=name, d=d, B=block_size, m=GRADIENTS, memory=memory or math.nan, groups=report.groups,
        fisher_gb=fisher, peak_gb=cost.gigabytes, ratio=cost.gigabytes / fisher, seconds=cost.seconds,
        fallbacks=report.fallbacks, masks=masks,
    )  # fmt: skip


def slider(name: str, block_size: int, device: torch.device) -> list[dict]:
    """Seconds of a slider position, weights of a timm model (random weights and images) at another sparsity."""
    model, loader = random_model(name, device)
    weights = models.prunable(model)
    fisher = estimate(model, weights, loader, GRADIENTS, block_size=block_size, damp=1e-4)
    plan = solve(weights, get_method("ovit"), fisher, consume=True)
    d = sum(layer.loss.numel() for layer in plan.layers.values())
    seconds = {at: fastest(lambda: plan.at(at), device)[0].seconds for at in (0.5, 0.7, 0.9)}
    return [dict(model=name, d=d, B=block_size, sparsity=at, seconds=s) for at, s in seconds.items()]
