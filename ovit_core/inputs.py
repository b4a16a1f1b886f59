"""The layer-wise Hessian X^T X / n of a layer's inputs: what OBC and Wanda prune by.

A layer's squared output error after a change D of its weights is sum over rows of D X^T X D^T, the same matrix for
every output row (OBC, Frantar & Alistarh 2022; SparseGPT 2023; Wanda, Sun et al. 2023). It is kept once.
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


class Watch(TorchFunctionMode):
    """Notes which of some weights are multiplied with an input, in the order of their first use.

    Used as a context manager it sees every product of an input with one of its weights, whether the layer is called
    or its weight handed to `F.linear` by somebody else. Of a convolution the inputs are its unfolded patches.

    Args:
        weights: name -> parameter.
    """

    def __init__(self, weights: dict[str, nn.Parameter]):
        super().__init__()
        self.count: dict[str, int] = {}  # inputs seen, by name in the order of first use
        self.losses: list[float] = []  # as of `BlockFisher`
        self.weights, self.shapes = weights, {name: w.shape for name, w in weights.items()}
        self._names = {id(w): name for name, w in weights.items()}

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Notes the input on the way to `func`."""
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
                self._see(name, operands[0], CONVOLUTIONS.get(func, 0), args, kwargs)
        return func(*args, **kwargs)

    def _see(self, name: str, x: Tensor, dims: int, args: tuple, kwargs: dict) -> None:
        """One product: inputs x (..., row), or (b, C, *size) of a convolution over `dims` dimensions."""
        self.count[name] = self.count.get(name, 0) + len(x)

    def check_seen(self) -> None:
        """Raises ValueError naming the weights that multiplied no input: nothing is known of them."""
        if unseen := [name for name in self.shapes if name not in self.count]:
            raise ValueError(
                f"no input of {', '.join(unseen)} was seen: no image reached the layer, or its weight is applied in a "
                "way that cannot be watched; leave it out by `prunable`, or take a method that looks at gradients"
            )


class InputHessian(Watch):
    """Sums of x x^T over the inputs of linear layers and convolutions: one (B, B) matrix a layer, B its row length.

    Args:
        weights: name -> parameter.
        damp: lambda relative to the mean of the diagonal (0.01 as SparseGPT does), added to the diagonal.
        dtype: of the sums and of what is made of them.
        multiple: of which rows have to be, for N:M patterns.
        masks: name -> boolean tensor of weights already removed (False): the others are judged without them.

    Raises:
        ValueError: damp <= 0, or a row that is no multiple.
    """

    def __init__(
        self,
        weights: dict[str, nn.Parameter],
        damp: float = 0.01,
        dtype: torch.dtype = torch.float32,
        multiple: int = 1,
        masks: dict[str, Tensor] | None = None,
    ):
        super().__init__(weights)
        if not damp > 0:
            raise ValueError(f"damp must be positive, not {damp}: it is what makes the Hessian invertible")
        self.damp, self.dtype, self.masks = damp, dtype, masks or {}
        rows = {name: shape[1:].numel() for name, shape in self.shapes.items()}
        self.block_sizes = {name: fit_block_size(B, B, multiple) for name, B in rows.items()}  # the row, or an error
        self._sum = {n: torch.zeros(B, B, device=weights[n].device, dtype=dtype) for n, B in self.block_sizes.items()}
        self._last: tuple[tuple, Tensor] | None = None  # the last inverse: rows are asked for in parts

    @torch.no_grad()
    def _see(self, name: str, x: Tensor, dims: int, args: tuple, kwargs: dict) -> None:
        """Adds the inputs of one product."""
        if dims:
            x = _patches(name, x, self.shapes[name], dims, args, kwargs)
        X = x.detach().reshape(-1, self.block_sizes[name]).to(self.dtype)  # (tokens, B)
        with ieee_float32():
            self._sum[name].addmm_(X.T, X)  # (B, B) += (B, tokens) @ (tokens, B)
        super()._see(name, X, dims, args, kwargs)

    def _unit(self, name: str) -> float:
        """The mean of the diagonal; 1 where every input is zero, as behind a layer that was removed as a whole: all
        answers are right there, and the smallest weights go first."""
        return float(self._sum[name].diagonal().mean()) / self.count[name] or 1.0

    def squares(self, name: str) -> Tensor:
        """(B,) mean square of each input, without lambda."""
        return self._sum[name].diagonal() / self.count[name]

    def matrix(self, name: str, damp: float | None = None) -> Tensor:
        """(B, B) the Hessian of every row that no mask touches, lambda included."""
        F = self._sum[name] / self.count[name]
        F.diagonal().add_((damp or self.damp) * self._unit(name))
        return F

    def inverse(self, name: str, damp: float | None = None, rows: slice = slice(None)) -> Tensor:
        """(k, B, B) inverses for some rows of the weight; without a mask a view of one: copy it before writing to it.

        Raises:
            torch.linalg.LinAlgError: it is not positive definite; names the weight and a lambda that would work.
        """
        F, unit = self._sum[name], self._unit(name)
        invert_into = lambda F, out: invert(F, self.count[name], (damp or self.damp) * unit, name, out, unit)
        if name in self.masks:
            kept = self.masks[name].flatten(1)[rows].to(F)  # (k, B)
            F = F * kept.unsqueeze(1) * kept.unsqueeze(2)  # (k, B, B): a removed weight is a block of its own
            return invert_into(F, F)
        if self._last is None or self._last[0] != (name, damp):
            self._last = None  # freed before the next
            self._last = (name, damp), invert_into(F.unsqueeze(0), torch.empty_like(F).unsqueeze(0))
        return self._last[1].expand(len(range(*rows.indices(self.shapes[name][0]))), -1, -1)


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
