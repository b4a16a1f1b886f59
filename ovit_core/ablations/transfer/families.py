"""The comparisons of ablation B, in families: one for each dataset, protocol and kind of source, at one sparsity; and where
there are many datasets, one for their mean, and what protocols and training change of it. Those that came
after first rows say so: docs/design.md, how sure.
"""

from collections.abc import Sequence
from functools import partial

import pandas as pd

from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.ablations.transfer.telling import Protocol, silence, silence_over, told, told_by
from ovit_core.study.families import ACCURACY, MOST, SILENT, Contrast, Family
from ovit_core.study.lambdas import OVIT
from ovit_core.study.wording import share

MARGIN, SMALL = 0.02, 0.01  # two points of accuracy, upstream one: a difference inside them is none
# What oViT is compared with: nothing lost, its mask alone, then simpler methods.
RIVALS = ("dense", "ovit_mask_only", "magnitude", "magnitude_joint", "ovit_no_update")
OVER = "over_sets"  # how the name of a family about a mean ends,
UPSTREAM = "upstream_"  # and how that of one about the models themselves begins, as none of a protocol does
MANY = 3  # datasets, from which on their mean is a comparison of its own
SHOWN = 60  # comparisons, that a figure has room for
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
    """All of them: the means over the sets that tell something, where many are asked for, and set by set; comparisons
    with a method that is not run are left out.
    """
    many = [(at, names) for at in protocols(config) if len(names := _asked(config, at)) >= MANY]
    single = [(at, (name,)) for at in protocols(config) for name in _asked(config, at)]
    of = lambda points: [family for at, names in points for family in _families(config, at, names)]
    return [*of(many), *_by_protocol(config), *_by_training(config), *_upstream(config), *of(single)]


def drawn(listed: Sequence[Family], lines: pd.DataFrame, single: bool) -> list[Family]:
    """The families of a figure, whose `lines` of `differences` say which are heard: all, where there is room or no mean over
    sets, else those means; `single` gives the figure beside it, where there is none: set by set those of linear probes on
    all images and of full finetuning.
    """
    above = [family for family in listed if family.name.startswith(UPSTREAM)]
    if not (lines[~lines.family.isin([family.name for family in above])].verdict != SILENT).any():
        return []
    mean = [family for family in listed if family.name.endswith(OVER) or family in above]
    if mean == above or (lines.verdict != SILENT).sum() <= SHOWN:
        return [] if single else list(listed)
    return [f for f in listed if f not in mean and f.name.startswith(("linear_", "full_"))] if single else mean


def _asked(config: Transfer, one: Protocol) -> tuple[str, ...]:
    """The datasets of a protocol."""
    return tuple(name for name in config.datasets if one.phase != "full" or name in config.full_datasets)


def _families(config: Transfer, one: Protocol, datasets: tuple[str, ...]) -> list[Family]:
    """Those of a protocol for a dataset, or for the mean over those of several that tell something."""
    out: list[Family] = []
    for source, methods, sparsities in config.sources[one.phase]:
        if OVIT not in methods or not sparsities:
            continue
        at = headline(config, sparsities)
        where = dict(phase=one.phase, source_phase=source, sparsity_target=at, shots=one.shots or float("nan"))
        contrasts = _rivals(methods, where | dict(dataset=datasets))
        how = f"{one.words}, {SOURCES[source]} at {share(at)}"
        known = f"{one.phase}{one.shots or ''}_{source}"
        if len(datasets) > 1:
            title, name, among = f"Mean over sets, {how}", OVER, told
            quiet = partial(silence_over, protocols=(one,), datasets=datasets)
        else:
            title, name, among = f"{datasets[0]}, {how}", datasets[0].replace(":", "_"), None
            quiet = partial(silence, one=one, dataset=datasets[0], again=len(out) > 0)
        out.append(Family(f"{known}_{name}", title, contrasts, MARGIN, silent=quiet, among=among))
    return out


def _rivals(methods: Sequence[str], where: dict) -> tuple[Contrast, ...]:
    """oViT against dense, and against those of RIVALS that are among some methods."""
    rivals = [rival for rival in RIVALS if rival in ("dense", *methods)][:MOST]
    return tuple(
        Contrast(f"oViT against {r}", {OVIT: 1, r: -1}, where, metric=ACCURACY, short=f"against {r}") for r in rivals
    )


def _by_protocol(config: Transfer) -> list[Family]:
    """How much of the distance to dense that a linear probe sees full finetuning takes away, over the same sets."""
    both, sources = (Protocol("linear"), Protocol("full")), config.sources
    names = config.full_datasets
    if not {"linear", "full"} <= {*sources} or len(names) < MANY:
        return []
    probed = {source: (methods, sparsities) for source, methods, sparsities in sources["linear"]}
    out = []
    for source, methods, sparsities in sources["full"]:
        others, also = probed.get(source, ((), ()))
        if not (there := tuple(at for at in sparsities if at in also)):
            continue
        at = headline(config, there)
        where = dict(
            phase=("linear", "full"), source_phase=source, sparsity_target=at, shots=float("nan"), dataset=names
        )
        contrasts = [
            Contrast(
                f"{method} gains on dense by full finetuning over linear probe",
                {f"{method}@full": 1, "dense@full": -1, f"{method}@linear": -1, "dense@linear": 1},
                where,
                metric=ACCURACY,
                by="phase",
                short=method,
            )
            for method in methods
            if method in others
        ]
        if contrasts:
            title = f"Gained on dense by full finetuning over linear probe, {SOURCES[source]} at {share(at)}"
            among, quiet = partial(told_by, protocols=both), partial(silence_over, protocols=both, datasets=names)
            out.append(
                Family(
                    f"by_protocol_{source}_{OVER}",
                    title,
                    tuple(contrasts[:MOST]),
                    MARGIN,
                    silent=quiet,
                    among=among,
                    later=True,
                )
            )
    return out


def _by_training(config: Transfer) -> list[Family]:
    """How much of the distance to dense training after pruning takes away downstream, by linear probe, over the sets that
    tell something; dense is trained on as long.
    """
    one, found = Protocol("linear"), {s: (m, at) for s, m, at in config.sources.get("linear", ())}
    names = config.datasets
    if not {*SOURCES} <= {*found} or len(names) < MANY:
        return []
    methods, sparsities = found["recovered"]
    if not (there := tuple(at for at in sparsities if at in found["one_shot"][1])):
        return []
    at = headline(config, there)
    where = dict(phase="linear", source_phase=(*SOURCES,), sparsity_target=at, shots=float("nan"), dataset=names)
    contrasts = [
        Contrast(
            f"{method} gains on dense by training",
            {f"{method}@recovered": 1, "dense@recovered": -1, f"{method}@one_shot": -1, "dense@one_shot": 1},
            where,
            metric=ACCURACY,
            by="source_phase",
            short=method,
        )
        for method in dict.fromkeys((OVIT, *RIVALS, *methods))
        if method in methods
    ]
    title = f"Gained on dense by training, {one.words}, at {share(at)}"
    quiet = partial(silence_over, protocols=(one,), datasets=names)
    return [Family(f"by_training_{OVER}", title, tuple(contrasts[:MOST]), MARGIN, silent=quiet, among=told, later=True)]


def _upstream(config: Transfer) -> list[Family]:
    """What the same models have upstream, beside which differences downstream are read."""
    out, every = [], {source: one for asked in config.sources.values() for source, *one in asked}
    every |= {source: one for source, *one in config.sources.get("linear", ())}
    for source, (methods, sparsities) in every.items():
        if OVIT not in methods or not sparsities:
            continue
        at = headline(config, sparsities)
        contrasts = _rivals(methods, dict(phase=source, dataset=config.upstream, sparsity_target=at))
        title = f"Upstream, {SOURCES[source]} at {share(at)}"
        out.append(Family(f"{UPSTREAM}{source}", title, contrasts, SMALL, later=True))
    return out
