"""What the rows and columns of a weight are: in a fused attention the queries, keys and values of each head."""

from typing import NamedTuple

from torch import nn


class Part(NamedTuple):
    """Rows or columns from `start` up to `stop`."""

    label: str
    start: int
    stop: int


class Parts(NamedTuple):
    """Parts of a weight, and the rows at which a head begins within them."""

    rows: list[Part]
    columns: list[Part]
    heads: list[int]


def parts(model: nn.Module, name: str) -> Parts:
    """The parts of a weight; none where its layer is no fused attention of timm's."""
    path, _, last = name.removesuffix(".weight").rpartition(".")
    attention = model.get_submodule(path) if path else model
    heads, rows = getattr(attention, "num_heads", None), model.get_parameter(name).shape[0]
    columns = model.get_parameter(name)[0].numel()
    if not isinstance(heads, int) or heads < 1:
        return Parts([], [], [])
    if last == "qkv" and rows % (3 * heads) == 0:
        third = rows // 3
        slices = [Part(label, k * third, (k + 1) * third) for k, label in enumerate("qkv")]
        return Parts(slices, [], list(range(0, rows, third // heads)))
    if last == "proj" and columns % heads == 0:
        one = columns // heads
        return Parts([], [Part(f"head {k + 1}", k * one, (k + 1) * one) for k in range(heads)], [])
    return Parts([], [], [])
