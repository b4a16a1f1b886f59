"""What others have measured of what ablation B asks: how a pruned ResNet-50 transfers."""

import pandas as pd

from ovit_core.ablations.transfer.relations import headline, transferred
from ovit_core.study import beside
from ovit_core.study.beside import Claim
from ovit_core.study.families import ACCURACY, Contrast
from ovit_core.study.statistics import share

SOURCE = (
    "Published: ResNet-50 of ImageNet, pruned to 90 % by WoodFisher in the course of training, less dense (Iofinova, Peste, "
    "Kurtz and Alistarh, CVPR 2022, means of their raw results). Here: models pruned to {at} and recovered, on parts of the "
    "sets."
)
# Accuracy in percent, by the field's metric: dense, and pruned.
FULL = dict(cifar10=(97.4, 97.0), caltech101=(93.5, 93.9), fgvc_aircraft=(83.6, 84.5), oxford_pets=(93.4, 92.7))
LINEAR = dict(cifar10=(91.2, 88.9), caltech101=(91.9, 91.3), fgvc_aircraft=(49.2, 44.0), oxford_pets=(92.6, 92.0))
METHODS = ("ovit", "obert")  # the latter is WoodFisher's score and update


def published(rows: pd.DataFrame) -> str:
    """The table of claims, as Markdown; "" where no recovered model was transferred to one of those sets."""
    every = transferred(rows)
    recovered = every[(every.source_phase == "recovered") & (every.sparsity_target > 0)]
    at, claims = headline(rows, recovered), []
    for phase, words, theirs in (("linear", "linear probe", LINEAR), ("full", "full finetuning", FULL)):
        there = recovered[(recovered.phase == phase) & recovered.shots.isna() & (recovered.sparsity_target == at)]
        for name, (dense, pruned) in theirs.items():
            for mine in there.dataset[there.dataset.map(known_as) == name].unique():
                where = dict(
                    phase=phase, source_phase="recovered", dataset=mine, sparsity_target=at, shots=float("nan")
                )
                claims += [
                    Claim(
                        {name: (pruned - dense) / 100},
                        Contrast(f"{words}: `{method}` less dense", {method: 1, "dense": -1}, where, metric=ACCURACY),
                    )
                    for method in METHODS
                    if method in set(there.method)
                ]
    return beside.table(rows, claims, SOURCE.format(at=share(at)))


def known_as(dataset: str) -> str:
    """The name by which the field knows the set that a dataset is, or is a part of: `folder:cifar10_10k` is of cifar10."""
    return dataset.removeprefix("folder:").partition("_")[0] if dataset.startswith("folder:") else dataset
