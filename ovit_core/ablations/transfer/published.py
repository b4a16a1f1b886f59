"""What others have measured of what ablation B asks: how a pruned ResNet-50 transfers."""

import pandas as pd

from ovit_core.ablations.transfer.families import MARGIN
from ovit_core.ablations.transfer.relations import spoken_of, transferred
from ovit_core.ablations.transfer.telling import Protocol, silent, telling
from ovit_core.data import catalog
from ovit_core.study import beside
from ovit_core.study.beside import Claim
from ovit_core.study.families import Contrast
from ovit_core.study.wording import share

SOURCE = (
    "Published: ResNet-50 of ImageNet, pruned to 90 % by WoodFisher in the course of training, less dense (Iofinova, Peste, "
    "Kurtz and Alistarh, CVPR 2022, means of their raw results). Here: models pruned to {at} and recovered, "
    "less dense trained on as long, on parts of some of the sets (docs/data.md says which).{rest}"
)
# Accuracy in percent, by the field's metric: dense, and pruned.
FULL = dict(
    cifar10=(97.4, 97.0), caltech101=(93.5, 93.9), flowers102=(95.01, 95.46), food101=(87.25, 87.02),
    fgvc_aircraft=(83.6, 84.5), oxford_pets=(93.4, 92.7),
)  # fmt: skip
LINEAR = dict(
    cifar10=(91.2, 88.9), caltech101=(91.9, 91.3), flowers102=(91.56, 89.05), food101=(73.23, 69.16),
    fgvc_aircraft=(49.2, 44.0), oxford_pets=(92.6, 92.0),
)  # fmt: skip
METRICS = {name: catalog.find(name).metric for name in FULL}
# Parts of a set, by its name.
PARTS = {"folder:cifar10_10k": "cifar10", "folder:flowers89": "flowers102", "folder:food101_64px": "food101"}
METHODS = ("ovit", "obert")  # the latter is WoodFisher's score and update


def published(rows: pd.DataFrame) -> str:
    """The table of claims, as Markdown, with those on sets that tell nothing here, and what was not run; "" where no
    recovered model was transferred to any of these sets.
    """
    every = transferred(rows)
    recovered = every[(every.source_phase == "recovered") & (every.sparsity_target > 0) & every.shots.isna()]
    recovered = recovered.assign(known=recovered.dataset.map(lambda name: PARTS.get(name, name)))
    used, claims = {}, []
    for phase, words, theirs in (("linear", "linear probe", LINEAR), ("full", "full finetuning", FULL)):
        there = recovered[(recovered.phase == phase) & (recovered.metric == recovered.known.map(METRICS))]
        there, tells = spoken_of(rows, there), telling(rows, Protocol(phase))
        at = there.sparsity_target.max()
        used |= {share(at): None} if len(there) else {}
        for (name, mine), here in there.groupby(["known", "dataset"], sort=False):
            dense, pruned = theirs[name]
            where = dict(phase=phase, source_phase="recovered", dataset=mine, sparsity_target=at, shots=float("nan"))
            claims += [
                Claim(
                    {name: (pruned - dense) / 100},
                    Contrast(f"{words}: `{method}` less dense", {method: 1, "dense": -1}, where, metric=METRICS[name]),
                    "" if mine in tells else f"{mine} {silent(rows, Protocol(phase), mine)} here",
                )
                for method in METHODS
                if method in set(here.method)
            ]
    missing = [name for name in FULL if name not in set(recovered.known)]
    rest = f" Not run here: {', '.join(missing)}." if missing else ""
    return beside.table(rows, claims, SOURCE.format(at=" and ".join(used), rest=rest), MARGIN)
