"""Ablation B in a sentence and in tables."""

from itertools import product
from typing import TYPE_CHECKING

import pandas as pd

from ovit_core.ablations.transfer import ranking
from ovit_core.ablations.transfer.families import OVER, SOURCES, UPSTREAM
from ovit_core.ablations.transfer.published import published
from ovit_core.ablations.transfer.relations import transferred
from ovit_core.ablations.transfer.telling import NAMES, POINT, Protocol, nothing, protocol, sets, too_few
from ovit_core.ablations.transfer.telling import undecided as not_decided
from ovit_core.study.families import SILENT, effect
from ovit_core.study.lambdas import OVIT
from ovit_core.study.statistics import same_seeds, summary
from ovit_core.study.wording import share, signed, spreads

if TYPE_CHECKING:
    from ovit_core.study.ablation import Results

UNDECIDED = "These rows do not say on validation which datasets can tell anything: nothing is said about transfer."
MEANS = ("linear", "full")  # the protocols whose means over sets are in the sentence
METRICS = dict(top1="top-1", mean_per_class="per class")
TOLD = ("dense", "magnitude", "ovit_mask_only")  # what oViT is compared with in the sentence


def undecided(rows: pd.DataFrame) -> bool:
    """Whether rows have transfer, but of no set what says whether it tells something."""
    return not sets(rows).half.notna().any() and len(transferred(rows)) > 0


def headline(results: "Results") -> str:
    """How oViT's models transfer where a set tells something: the means over those sets, by the linear probe and by full
    finetuning; where sets are too few for a mean, how many of the comparisons are resolved, and by how much.
    """
    rows, lines = results.rows, results.differences()
    if undecided(rows):
        return UNDECIDED
    lines = lines[~lines.family.str.startswith(UPSTREAM)]
    mean = lines.family.str.endswith(OVER)
    over = lines[mean & (lines.n > 0) & lines.phase.isin(MEANS) & lines.shots.isna() & lines.source_phase.isin(SOURCES)]
    over, quiet = over[over.verdict != SILENT], over[over.verdict == SILENT]
    if len(over):
        every = lines[~mean].dataset.unique()
        why = {phase: too_few(rows, (Protocol(phase),), every) for phase in quiet.phase.unique()}
        rest = [f" By {NAMES[phase]} {reason}." for phase, reason in why.items()]
        return _means(over, len(every)) + "".join(rest)
    lines = lines[(lines.n > 0) & ~mean]
    heard = lines[lines.verdict != SILENT]
    if lines.empty:
        return ""
    if heard.empty:
        points = lines[POINT].drop_duplicates().itertuples(index=False)
        if any(not_decided(rows, protocol(phase, shots), [name]) for phase, shots, name in points):
            return UNDECIDED
        return "No set tells anything about transfer: dense is nowhere clearly above what transfer from nothing gives."
    told = heard[heard.pair.isin([f"{OVIT} - {other}" for other in TOLD])]
    counts = [_count(told[told.pair == f"{OVIT} - {other}"], other) for other in TOLD]
    rest = (told.verdict == "not resolved").sum()
    names, every = ", ".join(heard.dataset.unique()), lines.dataset.nunique()
    sparsities = ", ".join(map(share, sorted(set(heard.sparsity_target))))
    return (
        f"Downstream, at {sparsities} sparsity and where a set tells something ({names}, of {every} sets), oViT is "
        f"{', '.join(filter(None, counts))}{f'; {rest} of {len(told)} are not resolved' if rest else ''}."
    )


def _means(lines: pd.DataFrame, every: int) -> str:
    """The differences in the mean over sets, a clause for each protocol and kind of model."""
    clauses, by = [], ["phase", "source_phase", "sparsity_target", "dataset"]
    for (phase, source, at, names), mine in lines.groupby(by, sort=False):
        pairs = {line["pair"]: effect(line) for _, line in mine.iterrows()}
        sizes = [f"{pairs[pair]} against `{other}`" for other in TOLD if (pair := f"{OVIT} - {other}") in pairs]
        clauses.append(
            f"{NAMES[phase]}, {SOURCES[source]} at {share(at)} ({names}, of {every} sets): {', '.join(sizes)}"
        )
    return f"Downstream oViT has, in points of the mean over the sets that tell something: {'; '.join(clauses)}."


def _count(lines: pd.DataFrame, other: str) -> str:
    """How many comparisons with another model are resolved, and which way; "" without any."""
    if lines.empty:
        return ""
    resolved, same = lines[lines.verdict == "resolved"], (lines.verdict == "same").sum()
    said = []
    for word, some in (("above", resolved[resolved["mean"] > 0]), ("below", resolved[resolved["mean"] < 0])):
        if len(some):
            ends = dict.fromkeys(signed(100 * mean) for mean in (some["mean"].min(), some["mean"].max()))
            said.append(f"{word} `{other}` in {len(some)} of {len(lines)} comparisons ({' to '.join(ends)} points)")
    said += [f"no different from `{other}` in {same} of {len(lines)}"] if same else []
    return " and ".join(said) or f"not resolved from `{other}` in any of {len(lines)}"


def tables(rows: pd.DataFrame) -> str:
    """One table of accuracies in percent: sets, protocols, sources and sparsities by methods, means over the seeds that all
    models of a line have, with the better floor, and whether a set tells something; where many do, a ranking of the
    methods; and what others have published.
    """
    every = transferred(rows)
    pruned = every[every.sparsity_target > 0]
    if pruned.empty:
        return ""
    known = sets(rows).dropna(subset="half")
    tell = {(one.dataset, protocol(one.phase, one.shots)): one.tells for one in known.itertuples()}
    methods = ["dense", *(m for m in pruned.method.unique())]
    lines = [
        "Test accuracy in percent, by the metric that the field reports for a set. In lines of recovered models dense is "
        "trained on as long as they are. Whether a set tells something is judged by top-1 on validation.",
        "",
        f"| set | metric | by | models | seeds | {' | '.join(f'`{m}`' for m in methods)} | from nothing | tells |",
        "|---" * (len(methods) + 7) + "|",
    ]
    for (dataset, phase, shots), here in every.groupby([POINT[2], *POINT[:2]], sort=False, dropna=False):
        one = protocol(phase, shots)
        ends = [
            _least(every[every.dataset == dataset], one),
            {True: "yes", False: "no"}.get(tell.get((dataset, one)), ""),
        ]
        for source, at in product(SOURCES, sorted(set(here.sparsity_target) - {0})):
            mine = here[(here.source_phase == source) & here.sparsity_target.isin((0, at))]
            if not mine.sparsity_target.any():
                continue
            mine = same_seeds(mine, ["dataset"], ["method"])
            found = summary(mine, ["method"])
            texts = dict(zip(found.method, spreads(found, ".1f")))
            about = [dataset, METRICS[here.metric.iloc[0]], one.words, f"{SOURCES[source]}, {share(at)}"]
            about += [str(mine.seed.nunique())]
            lines.append(f"| {' | '.join([*about, *(texts.get(method, '') for method in methods), *ends])} |")
    return "\n\n".join(filter(None, ["\n".join(lines), ranking.table(rows), published(rows)]))


def _least(here: pd.DataFrame, one: Protocol) -> str:
    """What transfer from nothing gives at best on a dataset, by what; "" without any."""
    if (floors := nothing(here, one)).empty:
        return ""
    found = summary(floors, ["phase", "method"])
    best = found.assign(text=spreads(found, ".1f")).loc[found["mean"].idxmax()]
    return f"{best.text} ({best.method.replace('_', ' ')}, {NAMES[best.phase]})"
