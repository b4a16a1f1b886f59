"""The comparisons of ablation B, in families listed before anything is measured: one for each dataset, protocol and kind
of source, at one sparsity.
"""

from functools import partial
from itertools import product

from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.ablations.transfer.telling import Protocol, silence
from ovit_core.study.families import ACCURACY, MOST, Contrast, Family
from ovit_core.study.lambdas import OVIT
from ovit_core.study.statistics import share

MARGIN = 0.02  # two points of accuracy: a difference inside them is none
# What oViT is compared with: nothing lost, its mask alone, then simpler methods.
RIVALS = ("dense", "ovit_mask_only", "magnitude", "magnitude_joint", "ovit_no_update")
SOURCES = dict(one_shot="as pruned", recovered="recovered")


def protocols(config: Transfer) -> list[Protocol]:
    """All that were asked for, few-shot probes each as one of their own."""
    found = []
    for phase in config.protocols:
        found += [Protocol(phase), *(Protocol(phase, shots) for shots in config.few_shots if phase == "linear")]
    return found


def headline(config: Transfer, sparsities: tuple[float, ...]) -> float:
    """The sparsity that sentences speak of: where lambda is chosen, else the highest."""
    return config.damp_sparsity if config.damp_sparsity in sparsities else max(sparsities)


def families(config: Transfer) -> list[Family]:
    """All of them; comparisons with a method that is not run are left out."""
    out = []
    for one, name in product(protocols(config), config.datasets):
        if one.phase == "full" and name not in config.full_datasets:
            continue
        listed = 0
        for source, methods, sparsities in config.sources[one.phase]:
            rivals = [rival for rival in RIVALS if rival in ("dense", *methods)]
            if OVIT not in methods or not sparsities:
                continue
            at = headline(config, sparsities)
            where = dict(phase=one.phase, dataset=name, source_phase=source, sparsity_target=at)
            where |= dict(shots=one.shots or float("nan"))
            contrasts = [
                Contrast(f"oViT against {r}", {OVIT: 1, r: -1}, where, metric=ACCURACY, short=f"against {r}")
                for r in rivals
            ]
            title = f"{name}, {one.words}, {SOURCES[source]} at {share(at)}"
            known = f"{one.phase}{one.shots or ''}_{source}_{name}".replace(":", "_")
            quiet, listed = partial(silence, one=one, dataset=name, again=listed > 0), listed + 1
            out.append(Family(known, title, tuple(contrasts[:MOST]), MARGIN, silent=quiet))
    return out
