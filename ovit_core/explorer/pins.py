"""A setting's curves kept, so that the next setting's are laid over them."""

from typing import TYPE_CHECKING, NamedTuple

from ovit_core.explorer.parameters import Explore, differences

if TYPE_CHECKING:
    from ovit_core.explorer.answers import Answers
    from ovit_core.explorer.solve import Explorer


class Pin(NamedTuple):
    """The curves of a setting: what has been measured when it was pinned."""

    config: Explore
    damps: dict[str, float | None]
    curves: "dict[str, dict[float, Answers]]"  # dense first, at 0


def pin(x: "Explorer") -> Pin:
    """The curves that an explorer shows now."""
    return Pin(x.config, {m: x.damp(m) for m in x.plans}, {m: x.curve(m) for m in ("dense", *x.plans)})


def labels(pinned: Pin, x: "Explorer") -> tuple[str, str]:
    """What to call pinned curves and those on show: by what differs, by chosen lambdas where only these do."""
    then, now = differences(pinned.config, x.config)
    return then or "as now", now or "as pinned"


def others(pinned: Pin, x: "Explorer") -> "dict[str, dict[float, Answers]]":
    """The pinned curves of methods, but those that are on show anyhow: no setting that differs is theirs."""
    now = {method: x.curve(method) for method in x.plans}
    same = lambda method, curve: all(now.get(method, {}).get(at) is found for at, found in curve.items())
    return {m: curve for m, curve in pinned.curves.items() if m != "dense" and not same(m, curve)}
