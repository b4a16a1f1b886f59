"""What ablation B says beside its comparisons: whether finetuning is long enough, what lies at the edge of a list, errors
relative to dense, upstream accuracy as a predictor, pruned models that transfer better than dense, what was not run.
"""

from itertools import product

import numpy as np
import pandas as pd

from ovit_core.ablations.transfer import telling
from ovit_core.ablations.transfer.families import SOURCES, families
from ovit_core.ablations.transfer.overview import UNDECIDED, headline, tables, undecided
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.ablations.transfer.relations import (
    ENDS,
    FEWEST,
    MODEL,
    SPOKEN,
    beside_similarity,
    beside_upstream,
    better,
    correlation,
    error_increase,
    spoken_of,
)
from ovit_core.ablations.transfer.telling import LENGTH, NAMES, POINT, Protocol, protocol
from ovit_core.methods import METHODS
from ovit_core.study import tuning
from ovit_core.study.tasks import HELD_OUT
from ovit_core.study.tuning import LONG_ENOUGH
from ovit_core.study.wording import seeds, share, signed, spread, spreads

__all__ = ["answers", "families", "headline", "length", "not_run", "rates", "tables"]
RATES = "lr_search"
AHEAD = 0.005  # of validation accuracy: by less a value at the edge of a list is as good as the next


def answers(rows: pd.DataFrame) -> list[str]:
    """What ablation B found, besides its comparisons, from the rows alone."""
    parts = (_undecided, _headless, _lengths, _edges, _errors, _predicted, _better)
    return [sentence for part in parts for sentence in part(rows)]


def length(rows: pd.DataFrame) -> pd.DataFrame:
    """The half-length test of full finetuning: per dataset and method (dense, from scratch) the validation accuracy at
    `half` the length and at `full` length, means over the `seeds`, and whether it is `enough`.
    """
    full = rows[(rows.phase == LENGTH) & (rows.metric == HELD_OUT)]
    half = rows[(rows.phase == RATES) & (rows.scope == "all")]
    on = ["dataset", "method", "seed", "lr"]
    both = full[[*on, "value"]].merge(
        half[half.source_phase.isin(("one_shot", ""))][[*on, "value"]], on=on, suffixes=("", "_half")
    )
    found = both.groupby(on[:2], sort=False).agg(
        full=("value", "mean"), half=("value_half", "mean"), seeds=("seed", "nunique")
    )
    return found.reset_index().assign(enough=lambda f: f.full - f.half < LONG_ENOUGH)


def rates(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The learning rates of full finetuning with the runner-up, as `tuning.rate_table` shows them; None without any."""
    return tuning.rate_table(rows[rows.phase == RATES])


def _undecided(rows: pd.DataFrame) -> list[str]:
    return [UNDECIDED] if undecided(rows) else []


def _headless(rows: pd.DataFrame) -> list[str]:
    if not (rows.metric == "validation_r2").any():
        return []
    return [
        "The dense model has no head, and so no top-1: nothing was recovered, and there is no upstream accuracy to compare "
        "with. λ was chosen by the share of its features' variance that pruned ones keep."
    ]


def _lengths(rows: pd.DataFrame) -> list[str]:
    out = []
    for dataset, lines in length(rows).groupby("dataset", sort=False):
        parts = [
            f"{line.method.replace('_', ' ')} {100 * line.half:.1f} and {100 * line.full:.1f} %"
            for line in lines.itertuples()
        ]
        said, short, rest = "long enough", lines[~lines.enough].method.tolist(), ""
        if "dense" in short:
            said, rest = "NOT long enough", f" Its numbers are those of a short training{_ahead(rows, dataset)}."
        elif short:
            rest = f" Training from scratch is not at its end, so the floor may lie higher{_ahead(rows, dataset)}."
        out.append(
            f"{dataset}, full finetuning is {said}: on validation half the length, on a schedule of its own, and the whole "
            f"length give {', '.join(parts)} (means of {seeds(lines.seeds.max())}; the test asks for less than "
            f"{100 * LONG_ENOUGH:g} point).{rest}"
        )
    return out


def _ahead(rows: pd.DataFrame, dataset: str) -> str:
    """How far dense is ahead of its floor, where one of the two is not trained to its end."""
    here = telling.of(telling.sets(rows), Protocol("full")).set_index("dataset")
    if dataset not in here.index:
        return ""
    line = here.loc[dataset]
    return f"; dense is ahead of its floor ({line.floor.replace('_', ' ')}) by {spread(line['mean'], line.half)} points"


def _edges(rows: pd.DataFrame) -> list[str]:
    """What was chosen at the edge of its list, for each list, protocol and dataset."""
    out = []
    for column, what in (("damp", "λ"), ("C", "C"), ("lr", "learning rates")):
        found = _chosen(rows, column)
        for (phase, shots, dataset), lines in found[found.edge != ""].groupby(POINT, sort=False, dropna=False):
            place = "" if column == "damp" else _place(phase, shots, dataset)
            parts = []
            for (edge, best), same in lines.groupby(["edge", "best"], sort=False):
                names = dict.fromkeys(f"`{line.method}`{_which(line, line.seeds)}" for line in same.itertuples())
                parts.append(f"the {edge} ({best:g}) for {', '.join(names)}")
            said = f"at the edge of the list of {what} is {'; '.join(parts)}: a wider list may suit them better."
            out.append(f"{place}{said}" if place else _begun(said))
    return out


def _chosen(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """`tuning.searched`, and `seeds` in words; C is chosen for each seed: of it what most seeds have at an edge of the list,
    and there clearly, for accuracy is often flat in it.
    """
    if column != "C":
        return tuning.searched(rows, column).assign(seeds="")
    each = pd.concat([tuning.searched(here, column) for _, here in rows.groupby("seed", dropna=False)])
    every = each.groupby(tuning.SEARCH, dropna=False).best.transform("size")
    clear = each.assign(every=every)[(each.edge != "") & (each.value - each.second_value > AHEAD)]
    at = [*tuning.SEARCH, "edge"]
    times = clear.groupby(at, dropna=False).best.transform("size")
    told = clear.assign(seeds=[f"in {n} of {seeds(of)}" for n, of in zip(times, clear.every)])
    return told[2 * times > clear.every].drop_duplicates(at)


def _begun(sentence: str) -> str:
    """A sentence with a capital at its beginning."""
    return sentence[0].upper() + sentence[1:]


def _place(phase: str, shots: float, dataset: str) -> str:
    if phase == "recovery_search":
        return "Recovery: "
    words = tuning.OF_RATES.get(phase) or protocol(phase, shots).words
    return f"{dataset}, {words}: "


def _which(line, *more: str) -> str:
    """Which of a method's models it is."""
    parts = [f"at {share(line.sparsity_target)}"] if line.sparsity_target else []
    parts += [SOURCES[line.source_phase]] if line.source_phase in SOURCES else []
    parts += filter(None, more)
    return f" ({', '.join(parts)})" if parts else ""


def _errors(rows: pd.DataFrame) -> list[str]:
    out = []
    found = spoken_of(rows, error_increase(rows))
    for (phase, shots, source), more in found.groupby(SPOKEN, sort=False, dropna=False):
        at = more.sparsity_target.iloc[0]
        parts = ", ".join(f"`{method}` {text} %" for method, text in zip(more.method, spreads(more, "+.0f")))
        words = protocol(phase, shots).words
        out.append(
            f"{words[0].upper()}{words[1:]}, models {SOURCES[source]} at {share(at)}, errors relative to dense over the "
            f"datasets that can tell ({more.datasets.iloc[0]}): {parts} (95 % intervals over seeds)."
        )
    return out


def _predicted(rows: pd.DataFrame) -> list[str]:
    """Whether upstream top-1, or likeness of features, goes with transfer, where a set tells something; that it falls,
    everywhere.
    """
    out, known, looked_at = [], telling.sets(rows), 0
    kinds = (
        (beside_upstream(rows), "upstream_top1", "upstream top-1"),
        (beside_similarity(rows), "cka", "likeness of features to dense's (CKA)"),
    )
    over = {
        "": {},
        "among models of one source and sparsity, ": dict(within=True),
        f"among those other than {' and '.join(f'`{m}`' for m in ENDS)}, ": dict(within=True, but=ENDS),
    }
    for (both, column, what), (among, models) in product(kinds, over.items()):
        found = correlation(both, column, **models).merge(known[[*POINT, "tells"]])
        looked_at += found.rho.notna().sum()
        said: dict[str, list[str]] = {}
        for line in found[found.tells | (found.high < 0)].itertuples():
            warned = "" if line.tells else ": damage helps here, where the set tells nothing about transfer"
            place = f"{line.dataset}, {protocol(line.phase, line.shots).words}"
            said.setdefault(relation(line, what), []).append(f"{place} ({_rank(line)}){warned}")
        out += [f"{among}{how}: {'; '.join(places)}." for how, places in said.items()]
    if out:
        out.append(
            "Rank correlations are over the models of a dense model, in the mean over seeds, with a 95 % interval over seeds: "
            f"they hold for these methods at these sparsities, and are not corrected for their number ({looked_at})."
        )
    models = known[known.tells].merge(beside_upstream(rows))
    models = models[models.sparsity_target > 0].groupby(POINT[:2], sort=False, dropna=False)
    for (phase, shots), here in models:
        if (count := len(here[MODEL].drop_duplicates())) < FEWEST:
            words = protocol(phase, shots).words
            out.append(f"{words}: no rank correlation, for it was of {count} pruned models, and one needs {FEWEST}.")
    return [_begun(sentence) for sentence in out]


def relation(line, what: str) -> str:
    """Whether something predicts transfer, in words that follow the interval."""
    if np.isnan(line.rho):
        return f"no relation of transfer accuracy to {what} can be seen, for one does not vary"
    if not (line.low > 0 or line.high < 0):
        return f"no relation of transfer accuracy to {what} is resolved"
    return f"transfer accuracy {'rises' if line.rho > 0 else 'FALLS'} with {what}"


def _rank(line) -> str:
    """A rank correlation with its interval, and what it is over."""
    over = f"{line.models} models, {seeds(line.seeds)}"
    if np.isnan(line.rho):
        return over
    rho, low, high = (signed(value, "+.2f") for value in (line.rho, line.low, line.high))
    return f"{rho}, {'' if np.isnan(line.low) else f'{low} to {high}, '}{over}"


def _better(rows: pd.DataFrame) -> list[str]:
    """Where damage helps: pruned models above dense downstream and below it upstream."""
    out = []
    for (phase, shots, dataset), lines in better(rows).groupby(POINT, sort=False, dropna=False):
        parts = [
            f"`{line.method}`{_which(line)} by {spread(line.mean_, line.half)} points "
            f"({spread(line.upstream, line.upstream_half)} upstream)"
            for line in lines.rename(columns=dict(mean="mean_")).itertuples()
        ]
        out.append(
            f"{_place(phase, shots, dataset)}pruned models transfer BETTER than dense, though dense is better upstream: "
            f"{', '.join(parts)} (after Holm over all models, sets and protocols). Less of the model is left, and more transfers."
        )
    return out


def not_run(config: Transfer) -> str:
    """Which parts of ablation B the parameters leave out, so that what is not shown is not taken for no effect."""
    out = [name for phase, name in NAMES.items() if phase not in config.protocols]
    if "linear" in config.protocols and not config.few_shots:
        out.append("probes on a few images a class")
    out += [f"models {SOURCES[source]}" for source in SOURCES if source not in config.transfer_sources]
    if "recovered" in config.transfer_sources:
        if fewer := [share(s) for s in config.transfer_sparsities if s not in config.source_sparsities]:
            out.append(f"recovered models at {', '.join(fewer)}")
        if fewer := [str(seed) for seed in config.seeds if seed not in config.source_seeds]:
            out.append(f"recovered models of the seeds {', '.join(fewer)}")
    if "full" in config.protocols:
        out += _not_finetuned(config)
    if others := [f"`{m}`" for m in METHODS if m not in config.transfer_methods]:
        out.append(", ".join(others))
    return f"Not run: {'; '.join(out)}." if out else ""


def _not_finetuned(config: Transfer) -> list[str]:
    """What full finetuning leaves out of what the frozen protocols have."""
    name, out = NAMES["full"], []
    for what, every, some in (
        ("on", config.datasets, config.full_datasets),
        ("of", [f"`{m}`" for m in config.transfer_methods], [f"`{m}`" for m in config.full_methods]),
        ("at", [share(s) for s in config.transfer_sparsities], [share(s) for s in config.full_sparsities]),
        ("of models", [SOURCES[s] for s in SOURCES], [SOURCES[s] for s in config.full_sources]),
        ("of the seeds", map(str, config.seeds), map(str, config.finetune_seeds)),
    ):
        some = list(some)
        if fewer := [one for one in every if one not in some]:
            out.append(f"{name} {what} {', '.join(fewer)}")
    return out
