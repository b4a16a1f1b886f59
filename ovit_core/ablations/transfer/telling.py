"""Which datasets can tell anything about transfer: where the dense model clearly beats what transfer from nothing gives.

That is decided on validation images alone, for each protocol, before a test row is looked at; and only once dense and all
of its floors are measured, of two seeds at least. Until then nothing is said.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ovit_core.ablations.transfer.parameters import FLOORS, NOTHING
from ovit_core.study.statistics import contrast, remembered, same_seeds, summary
from ovit_core.study.tasks import HELD_OUT
from ovit_core.study.wording import signed

MARGIN = 0.05  # by which the dense model must beat its floor, and the lower end of the interval of that lies above 0
NAMES = dict(linear="linear probe", knn="nearest neighbours", full="full finetuning")
LENGTH = "full_length"  # the phase of full finetuning without the validation images
POINT = ["phase", "shots", "dataset"]  # what a set tells something by: the protocol, and how many images it learns from
SETS = [*POINT, "floor", "dense", "level", "mean", "half", "low", "tells"]


class Protocol(NamedTuple):
    """A phase, and the images a class that it learns from; 0 for all."""

    phase: str
    shots: int = 0

    @property
    def words(self) -> str:
        return NAMES[self.phase] + (f" on {self.shots} images a class" if self.shots else "")


def protocol(phase: str, shots: float) -> Protocol:
    """The protocol of a row's phase and images a class, NaN for all."""
    return Protocol(phase, 0 if np.isnan(shots) else int(shots))


def of(rows: pd.DataFrame, one: Protocol) -> pd.DataFrame:
    """The rows of a protocol."""
    return rows[(rows.phase == one.phase) & (rows.shots.fillna(0) == one.shots)]


def nothing(rows: pd.DataFrame, one: Protocol) -> pd.DataFrame:
    """The rows of transfer from nothing that a protocol has to beat; full finetuning those of the linear probe too."""
    phases = (one.phase, "linear") if one.phase == "full" else (one.phase,)
    return rows[rows.method.isin(NOTHING) & rows.phase.isin(phases) & (rows.shots.fillna(0) == one.shots)]


def level(floors: pd.DataFrame) -> float:
    """The best mean among rows of transfer from nothing; NaN without any."""
    return floors.groupby(["phase", "method"]).value.mean().max()


def deciding(rows: pd.DataFrame) -> pd.DataFrame:
    """The validation rows of the dense model itself and of the floors; the phase is the protocol that they decide.

    Full finetuning has to beat its own floor, training from scratch, and those of the linear probe.
    """
    held = rows[(rows.metric == HELD_OUT) & rows.source_phase.isin(("one_shot", ""))]
    full, linear = held[held.phase == LENGTH], of(held, Protocol("linear"))
    trained = full[["dataset", "seed"]].drop_duplicates()
    floors = linear[linear.method.isin(FLOORS["linear"])].merge(trained)
    found = [held[held.phase.isin(("linear", "knn"))], full.assign(phase="full"), floors.assign(phase="full")]
    return pd.concat([one for one in found if len(one)] or [held])


@remembered
def sets(rows: pd.DataFrame) -> pd.DataFrame:
    """Per protocol, shots and dataset the better `floor` (the name) and its `level`, the level of `dense`, the `mean`,
    `half` and `low` of the distance between the two, all on validation and over the seeds that have all of them, and
    whether the set `tells`. What lacks dense or one of its floors has no line.
    """
    found = []
    for at, here in deciding(rows).groupby(POINT, sort=False, dropna=False):
        here = same_seeds(here, POINT, ["method"])
        levels = here.groupby("method").value.mean()
        if not {"dense", *FLOORS[at[0]], *(FLOORS["linear"] if at[0] == "full" else ())} <= {*levels.index}:
            continue
        dense, floors = levels["dense"], levels.drop("dense")
        best = floors.idxmax()
        for gap in summary(contrast(here, {"dense": 1, best: -1}, POINT), POINT).itertuples():
            tells = gap.mean >= MARGIN and gap.low > 0
            found.append((*at, best, dense, floors[best], gap.mean, gap.half, gap.low, tells))
    return pd.DataFrame(found, columns=SETS).astype(dict(shots=float, tells=bool))


def told(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the protocols and datasets that tell something."""
    known = sets(rows)
    return rows.merge(known[known.tells][POINT])


def telling(rows: pd.DataFrame, one: Protocol) -> set[str]:
    """The datasets that tell something by a protocol."""
    found = of(sets(rows), one)
    return set(found[found.tells].dataset)


def undecided(rows: pd.DataFrame, one: Protocol, datasets: Iterable[str]) -> set[str]:
    """Those of some datasets of which it is not known whether they tell something: a floor, or a second seed, is missing."""
    found = of(sets(rows), one)
    return set(datasets) - set(found[found.half.notna()].dataset)


def silent(rows: pd.DataFrame, one: Protocol, dataset: str) -> str:
    """What is written where a dataset does not tell anything."""
    return "undecided" if undecided(rows, one, [dataset]) else "tells nothing"


def told_by(rows: pd.DataFrame, protocols: Sequence[Protocol]) -> pd.DataFrame:
    """The rows of the datasets that tell something by each of some protocols."""
    return rows[rows.dataset.isin(set.intersection(*(telling(rows, one) for one in protocols)))]


def too_few(rows: pd.DataFrame, protocols: Sequence[Protocol], datasets: Iterable[str], least: int = 2) -> str:
    """Why nothing is said over some datasets together; "" where so many of them tell something by each of the protocols."""
    names, by = set(datasets), " by both" if len(protocols) > 1 else ""
    if len(names.intersection(*(telling(rows, one) for one in protocols))) >= least:
        return ""
    if len(names.intersection(*(telling(rows, one) | undecided(rows, one, names) for one in protocols))) >= least:
        return f"it is not decided yet which sets tell something{by}"
    return f"fewer than {('two', 'three')[least - 2]} sets tell something{by}"


def silence_over(rows: pd.DataFrame, protocols: Sequence[Protocol], datasets: Sequence[str]) -> str:
    """Why nothing is said of the mean over some datasets; "" where two of them tell something by each of the protocols."""
    why = too_few(rows, protocols, datasets)
    return f"nothing is said of a mean, for {why}" if why else ""


def silence(rows: pd.DataFrame, one: Protocol, dataset: str, again: bool = False) -> str:
    """Why nothing is said of a dataset by a protocol, in short if `again`; "" where it tells something."""
    found = of(sets(rows), one)
    found = found[found.dataset == dataset]
    if found.empty:
        return "nothing is said, for dense and its floors were not all measured"
    line = found.iloc[0]
    if line.tells:
        return ""
    if again:
        return "nothing is said, for the same reason"
    sure = "one seed gives no interval" if np.isnan(line.half) else f"95 % interval from {signed(100 * line.low)}"
    return (
        f"nothing is said about transfer here, for on validation dense ({100 * line.dense:.1f} %) is not clearly above what "
        f"{line.floor.replace('_', ' ')} gives ({100 * line.level:.1f} %): {signed(100 * line['mean'])} points, {sure}; a set "
        f"tells something from {100 * MARGIN:g} points on, with an interval above 0"
    )
