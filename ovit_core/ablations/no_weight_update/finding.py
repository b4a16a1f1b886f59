"""What score and update are worth, in a sentence; and beyond each alone on every scale and with uniform sparsity."""

from typing import TYPE_CHECKING

import pandas as pd

from ovit_core.ablations.no_weight_update.attribution import CELLS, PLAIN, TOP, edges, level_of, levels, summed
from ovit_core.ablations.no_weight_update.scales import ceiling, log_odds, size
from ovit_core.study.families import effect
from ovit_core.study.wording import share, spread

if TYPE_CHECKING:
    from ovit_core.study.ablation import Results


def in_words(results: "Results") -> str:
    """What each part is worth at the sparsity of the comparisons; "" where they were not run."""
    known = edges(results)
    if not known:
        return ""
    at = known["both"].sparsity_target
    level = levels(results, at)
    one = {name: effect(line) for name, line in known.items()}
    dense = f"; dense has {level_of(level['dense'])} %" if "dense" in level else ""
    return (
        f"At {share(at)} sparsity, one-shot, under one threshold for the model, in blocks of {results.config.block_size}, "
        f"magnitude pruning keeps "
        f"{level_of(level[CELLS[PLAIN, 'none']])} % top-1; oViT's score alone, at its own λ, adds {one['score']}, its update "
        f"alone {one['update']}, both {one['both']} points, to {level_of(level[CELLS[TOP, 'joint']])} %{dense}."
        f"{_by_block(results)}{_beyond(results, at, level)}"
    )


def _by_block(results: "Results") -> str:
    """Which part alone is worth more, by the size of blocks; "" where no other was measured."""
    lines = results.differences()
    lines = lines[(lines.family == "alone_block_size") & (lines.n > 0)]
    if len(lines) < 2:
        return ""
    place = {one.what: one.short for family in results.families for one in family.contrasts}
    told = ", ".join(f"{effect(line)} at {place[line.what]}" for _, line in lines.iterrows())
    return f" The update alone less the score alone is, by the size of blocks, {told}."


def _beyond(results: "Results", at: float, level: dict[str, pd.Series]) -> str:
    """The interaction in points, and where its sign may be another one: in log-odds, in cross-entropy, and in the regime
    that some cells may suit better, uniform sparsity. "" where it was not run.
    """
    points = _line(results, "interaction", at)
    if points is None:
        return ""
    both = summed({method: line["mean"] for method, line in level.items()})
    pressed = ", more than dense has: a ceiling presses it down" * (at in ceiling(results.rows))
    would = f"{100 * both:.1f} %{pressed}"
    told = _scales(results, points, at, "global")
    nats, uniform = (_line(results, f"interaction_{name}", at) for name in ("cross_entropy", "uniform"))
    evenly = ", ".join(_scales(results, uniform, at, "uniform")) if uniform is not None else ""
    if nats is not None:
        much = spread(abs(nats["mean"]), nats.high - nats["mean"], ".2f", 1)
        unsure = " (not resolved)" * (nats.verdict != "resolved")
        told.append(f"{much} nats {'less' if nats['mean'] < 0 else 'more'} of cross-entropy{unsure}")
    evenly = f"; with uniform sparsity {evenly}" * bool(evenly)
    return f" Beyond the sum of the two, which would give {would}, both bring {', '.join(told)}{evenly}."


def _scales(results: "Results", points: pd.Series, at: float, allocation: str) -> list[str]:
    """An interaction in points, given as a line of its family, and on both scales of log-odds where they say anything."""
    told = [f"{effect(points)} in points"]
    for below, words in {"": "log-odds", "dense": "log-odds below dense"}.items():
        odds = log_odds(results.rows, below, allocation)
        odds = odds[(odds.sparsity_target == at) & (odds.dataset == results.config.upstream)]
        told += [f"{size(line)} in {words}" for _, line in odds.iterrows()]
    return told


def _line(results: "Results", family: str, at: float) -> pd.Series | None:
    """The line of a family of interactions at a sparsity; None where it was not run."""
    lines = results.differences()
    lines = lines[(lines.family == family) & (lines.sparsity_target == at) & (lines.n > 0)]
    return lines.iloc[0] if len(lines) else None
