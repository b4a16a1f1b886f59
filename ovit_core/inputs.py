"""The layer-wise Hessian X^T X / n of a linear layer's inputs, in the Fisher's shape: what OBC and Wanda prune by.

A layer's squared output error after a change D of its weights is sum over rows of D X^T X D^T, the same matrix for
every output row (OBC, Frantar & Alistarh 2022; SparseGPT 2023; Wanda, Sun et al. 2023).
"""

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ovit_core.fisher import fit_block_size, ieee_float32, invert


class InputHessian:
    """Sums of x x^T over the inputs of linear layers, one (B, B) block per B consecutive inputs.

    Args:
        model: holds the layers.
        names: of their weights.
        block_size, multiple, dtype: as of `BlockFisher`.
        damp: lambda relative to the mean of the diagonal (0.01 as SparseGPT does), added to the diagonal.

    Raises:
        ValueError: a weight does not belong to a linear layer, or damp <= 0.
    """

    def __init__(
        self,
        model: nn.Module,
        names: list[str],
        block_size: int = 192,
        damp: float = 0.01,
        dtype: torch.dtype = torch.float32,
        multiple: int = 1,
    ):
        if not damp > 0:
            raise ValueError(f"damp must be positive, not {damp}: it is what makes the Hessian invertible")
        self.damp, self.dtype = damp, dtype
        self.count: dict[str, int] = {}  # inputs seen
        self.losses: list[float] = []  # as of `BlockFisher`
        self.layers: dict[str, nn.Linear] = {}
        for name in names:
            layer = model.get_submodule(name.rpartition(".")[0])
            if not isinstance(layer, nn.Linear):
                raise ValueError(f"layer-wise methods need linear layers; {name} belongs to a {type(layer).__name__}")
            self.layers[name] = layer
        self.shapes = {name: layer.weight.shape for name, layer in self.layers.items()}
        self.block_sizes = {n: fit_block_size(s[1], block_size, multiple) for n, s in self.shapes.items()}
        self._sum = {
            n: torch.zeros(s[1] // B, B, B, device=self.layers[n].weight.device, dtype=dtype)
            for (n, s), B in zip(self.shapes.items(), self.block_sizes.values())
        }

    @contextmanager
    def watching(self):
        """Adds up the inputs of every forward pass made inside."""

        def hook(name):
            def add(_, inputs):
                X = inputs[0].detach().flatten(0, -2).to(self.dtype)  # (tokens, row)
                X = X.unflatten(1, (-1, self.block_sizes[name])).transpose(0, 1)  # (row / B, tokens, B)
                with ieee_float32():
                    self._sum[name].baddbmm_(X.transpose(1, 2), X)  # (row / B, B, B) += (B, tokens) @ (tokens, B)
                self.count[name] = self.count.get(name, 0) + X.shape[1]

            return add

        handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in self.layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _lambda(self, name: str, damp: float | None) -> float:
        mean = float(self._sum[name].diagonal(dim1=1, dim2=2).mean()) / max(self.count.get(name, 0), 1)
        return (damp or self.damp) * mean

    def diagonal(self, name: str, damp: float | None = None) -> Tensor:
        """(n_blocks, B) diagonal, damping included, repeated for every output row."""
        one = self._sum[name].diagonal(dim1=1, dim2=2) / max(self.count.get(name, 0), 1)
        return (one + self._lambda(name, damp)).repeat(self.shapes[name][0], 1)

    def inverse(self, name: str, damp: float | None = None, consume: bool = False) -> Tensor:
        """(n_blocks, B, B) inverse, repeated for every output row; errors as `BlockFisher.inverse`."""
        F = self._sum[name]
        H = invert(F, max(self.count.get(name, 0), 1), self._lambda(name, damp), name, torch.empty_like(F))
        return H.repeat(self.shapes[name][0], 1, 1)
