"""What `prune` did, and its summary."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(repr=False)
class Report:
    """What `prune` did; printed, its summary."""

    method: str
    pattern: str
    sparsity: float  # weights removed by masks over prunable weights
    zeros: float  # prunable weights that are zero, whatever made them so, over prunable weights
    sparsity_model: float  # zeros over all parameters
    masks: dict[str, Tensor]  # name -> boolean tensor, True = kept
    layers: list[dict]  # name, weights, block_size (None without curvature) and sparsity of every weight
    predicted_loss: float | None  # the increase oViT's accumulated loss predicts; None for other methods
    damp: float | None  # lambda used, None for methods that have none
    dtype: torch.dtype | None  # of curvature and elimination, None without curvature
    fallbacks: int  # blocks that had to be eliminated in float64
    groups: int  # parts the model was split into to keep to `memory`
    dense: dict[str, str]  # every weight matrix that was not pruned -> the reason

    def __repr__(self) -> str:
        total, order = sum(layer["weights"] for layer in self.layers), lambda layer: layer["sparsity"]
        least, most = min(self.layers, key=order), max(self.layers, key=order)
        share = lambda layer: f"{100 * layer['sparsity']:.1f} % of {layer['name']}"
        sizes = sorted({layer["block_size"] for layer in self.layers} - {None})
        how = []
        if self.damp is not None:
            how += [f"λ = {self.damp:g}"]
        if self.dtype is not None:
            how += [f"blocks of {' and '.join(map(str, sizes))}", str(self.dtype).removeprefix("torch.")]
        if self.predicted_loss is not None:
            how += [f"loss expected to rise by {self.predicted_loss:.3g}"]
        lines = [
            f"{self.method}, {self.pattern}: {100 * self.sparsity:.2f} % of {total:,} prunable weights removed, "
            f"{100 * self.sparsity_model:.1f} % of the whole model is zero",
            ", ".join(how),
            f"least {share(least)}, most {share(most)}",
            f"{len(self.masks)} masks in .masks, each layer in .layers, {len(self.dense)} matrices left dense in .dense",
        ]
        return "\n".join(filter(None, lines))
