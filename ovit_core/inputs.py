"""The layer-wise Hessian X^T X / n of a layer's inputs, in the Fisher's shape: what OBC and Wanda prune by.

A layer's squared output error after a change D of its weights is sum over rows of D X^T X D^T, the same matrix for
every output row (OBC, Frantar & Alistarh 2022; SparseGPT 2023; Wanda, Sun et al. 2023).
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ovit_core.fisher import fit_block_size, ieee_float32, invert

# torch's attention without the question whether somebody watches, which would hand it back to the watcher for ever.
_attention = FunctionType(
    F.multi_head_attention_forward.__code__, vars(F) | {"has_torch_function": lambda *_: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)  # fmt: skip
CONVOLUTIONS = {F.conv1d: 1, torch.conv1d: 1, F.conv2d: 2, torch.conv2d: 2}


class InputHessian(TorchFunctionMode):
    """Sums of x x^T over the inputs of linear layers and convolutions, one (B, B) block per B consecutive inputs.

    Used as a context manager it sees every product of an input with one of its weights, whether the layer is called
    or its weight handed to `F.linear` by somebody else. Of a convolution the inputs are its unfolded patches.

    Args:
        weights: name -> parameter.
        block_size, multiple, dtype: as of `BlockFisher`.
        damp: lambda relative to the mean of the diagonal (0.01 as SparseGPT does), added to the diagonal.
        masks: name -> boolean tensor of weights already removed (False): the others are judged without them.

    Raises:
        ValueError: damp <= 0, or no block size that fits a row.
    """

    def __init__(
        self,
        weights: dict[str, nn.Parameter],
        block_size: int = 192,
        damp: float = 0.01,
        dtype: torch.dtype = torch.float32,
        multiple: int = 1,
        masks: dict[str, Tensor] | None = None,
    ):
        super().__init__()
        if not damp > 0:
            raise ValueError(f"damp must be positive, not {damp}: it is what makes the Hessian invertible")
        self.damp, self.dtype, self.masks = damp, dtype, masks or {}
        self.count = dict.fromkeys(weights, 0)  # inputs seen
        self.losses: list[float] = []  # as of `BlockFisher`
        self.shapes = {name: w.shape for name, w in weights.items()}
        self.block_sizes = {n: fit_block_size(s[1:].numel(), block_size, multiple) for n, s in self.shapes.items()}
        self._names = {id(w): name for name, w in weights.items()}
        self._sum = {
            name: torch.zeros(w[0].numel() // B, B, B, device=w.device, dtype=dtype)
            for (name, w), B in zip(weights.items(), self.block_sizes.values())
        }

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Adds up the inputs on the way to `func`."""
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:  # its products are inside: look in there
            given = dict(zip(("query", "key", "value", "", "", "in_proj_weight"), args)) | kwargs
            same = given["query"] is given["key"] is given["value"]
            if (name := self._names.get(id(given["in_proj_weight"]))) and not same:
                raise ValueError(f"{name}: layer-wise methods take one weight for queries, keys and values only where all "
                                 "come from one input; leave it out by `prunable`")  # fmt: skip
            with self:
                return _attention(*args, **kwargs)
        if func is F.linear or func in CONVOLUTIONS:
            operands = [*args, *(kwargs[k] for k in ("input", "weight") if k in kwargs)][:2]
            if name := self._names.get(id(operands[1])):
                self._add(name, operands[0].detach(), CONVOLUTIONS.get(func, 0), args, kwargs)
        return func(*args, **kwargs)

    @torch.no_grad()
    def _add(self, name: str, x: Tensor, dims: int, args: tuple, kwargs: dict) -> None:
        """Adds the inputs of one product: x (..., row), or (b, C, *size) of a convolution."""
        row = self.shapes[name][1:].numel()
        if dims:
            x = _patches(name, x, self.shapes[name], dims, args, kwargs)
        X = x.reshape(-1, row).to(self.dtype)  # (tokens, row)
        X = X.unflatten(1, (-1, self.block_sizes[name])).transpose(0, 1)  # (row / B, tokens, B)
        with ieee_float32():
            self._sum[name].baddbmm_(X.transpose(1, 2), X)  # (row / B, B, B) += (B, tokens) @ (tokens, B)
        self.count[name] += X.shape[1]

    def check_seen(self) -> None:
        """Raises ValueError naming the weights that multiplied no input: nothing is known of them."""
        if unseen := [name for name, count in self.count.items() if not count]:
            raise ValueError(
                f"no input of {', '.join(unseen)} was seen: no image reached the layer, or its weight is applied in a "
                "way that cannot be watched; leave it out by `prunable`, or take a method that looks at gradients"
            )

    def _kept(self, name: str) -> Tensor | None:
        """(n_blocks, B) of the whole weight, 1 where a mask keeps it; None without a mask."""
        return self.masks[name].reshape(-1, self.block_sizes[name]).to(self._sum[name]) if name in self.masks else None

    def _lambda(self, name: str, damp: float | None) -> float:
        return (damp or self.damp) * float(self._sum[name].diagonal(dim1=1, dim2=2).mean()) / self.count[name]

    def diagonal(self, name: str, damp: float | None = None) -> Tensor:
        """(n_blocks, B) diagonal, damping included, repeated for every output row."""
        one = self._sum[name].diagonal(dim1=1, dim2=2) / self.count[name]
        every = one.repeat(self.shapes[name][0], 1)
        kept = self._kept(name)
        return (every if kept is None else every * kept) + self._lambda(name, damp)

    def inverse(self, name: str, damp: float | None = None, consume: bool = False) -> Tensor:
        """(n_blocks, B, B) inverse, repeated for every output row; errors as `BlockFisher.inverse`."""
        sums, kept, rows = self._sum[name], self._kept(name), self.shapes[name][0]
        if kept is not None:
            sums = sums.repeat(rows, 1, 1) * kept.unsqueeze(1) * kept.unsqueeze(2)  # (n, B, B)
        H = invert(sums, self.count[name], self._lambda(name, damp), name, torch.empty_like(sums))
        return H.repeat(rows, 1, 1) if kept is None else H


def _patches(name: str, x: Tensor, shape: torch.Size, dims: int, args: tuple, kwargs: dict) -> Tensor:
    """(b, positions, C * kernel) what each output of a convolution sees, from x (b, C, *size)."""
    options = dict(zip(("bias", "stride", "padding", "dilation", "groups"), args[2:])) | kwargs
    if options.get("groups", 1) != 1 or isinstance(options.get("padding", 0), str):
        raise ValueError(f"{name}: layer-wise methods take convolutions of one group with padding in numbers only")
    both = lambda value: (value,) * dims if isinstance(value, int) else tuple(value)
    kernel, stride, padding, dilation = (
        both(v) for v in (tuple(shape[2:]), options.get("stride", 1), options.get("padding", 0), options.get("dilation", 1))
    )  # fmt: skip
    if dims == 1:  # a picture one pixel high
        x, kernel, stride, padding, dilation = (
            x.unsqueeze(-2), (1, *kernel), (1, *stride), (0, *padding), (1, *dilation),
        )  # fmt: skip
    return F.unfold(x, kernel, dilation, padding, stride).transpose(1, 2)  # (b, C * kernel, L) -> (b, L, C * kernel)
