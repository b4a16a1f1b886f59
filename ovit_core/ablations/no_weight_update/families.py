"""The comparisons of ablation A, in families. Those that came after first rows say so: docs/design.md, how sure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ovit_core.ablations.no_weight_update.attribution import CELLS, SCORES, SHORT, WORDS, parts, relation
from ovit_core.ablations.no_weight_update.parameters import COMPUTE, PAIR, NoWeightUpdate, regime_of
from ovit_core.study.families import MOST, Contrast, Family
from ovit_core.study.lambdas import GLOBAL, Regime, place
from ovit_core.study.wording import share

MARGIN = 0.01  # a point of top-1: a difference inside it is none
UPDATE, NO_UPDATE = PAIR
# What oViT is compared with once models are trained: its mask alone, then each simpler method.
TRAINED = (NO_UPDATE, "ovit_no_update", "magnitude", "magnitude_joint", "diag_fisher")
ONE_SHOT = dict(phase="one_shot", **GLOBAL._asdict())
RECOVERED = dict(phase="recovered", **GLOBAL._asdict())
UNIFORM = Regime("uniform")
UPDATES = dict(none="no update", joint="with it")
ALONE = {CELLS["magnitude", "joint"]: 1, CELLS["greedy", "none"]: -1}  # the update alone less oViT's score alone
SETTING = dict(block_size="block size", gradients="number of gradients", gradient_batch="gradient batch")


def families(config: NoWeightUpdate) -> list[Family]:
    """All of them; comparisons with a method that is not run are left out."""
    return [*_of((_parts, _diagonal, _alone, _along, _regimes, _threshold), config), *further(config)]


def further(config: NoWeightUpdate) -> list[Family]:
    """Those beyond one-shot pruning at the study's own setting: after training, and at other settings."""
    return _of((_trained, _settings), config)


def _of(groups: Iterable[Callable[[NoWeightUpdate], list[Family]]], config: NoWeightUpdate) -> list[Family]:
    return [family for group in groups for family in group(config)]


def _family(
    name: str, title: str, contrasts: Iterable[Contrast], run: Iterable[str], margin: float | None = MARGIN,
    says: Callable | None = None, later: bool = False,
) -> list[Family]:  # fmt: skip
    """A family of the contrasts whose methods are run; none if none is."""
    there = [one for one in contrasts if {method.partition("@")[0] for method in one.weights} <= {*run, "dense"}]
    return [Family(name, title, tuple(there[:MOST]), margin, says, later=later)] if there else []


def _minus(a: str, b: str) -> dict[str, float]:
    return {a: 1, b: -1}


def _rival(other: str, where: Mapping[str, Any]) -> Contrast:
    return Contrast(f"oViT against {other}", _minus(UPDATE, other), where, short=f"against {other}")


def _parts(config: NoWeightUpdate) -> list[Family]:
    """At the headline's sparsity: what the update adds to each score, what each score adds, and the rivals."""
    c, at = config, dict(ONE_SHOT, sparsity_target=config.sensitivity_sparsity)
    word = share(c.sensitivity_sparsity)
    updates = [
        Contrast(f"the update with the score {WORDS[score]}", _minus(CELLS[score, "joint"], CELLS[score, "none"]), at,
                 short=SHORT[score])
        for score in SCORES
    ]  # fmt: skip
    scores = [
        Contrast(f"the score {WORDS[score]}, without update", _minus(CELLS[score, "none"], CELLS["magnitude", "none"]),
                 at, short=SHORT[score])
        for score in SCORES[1:]
    ]  # fmt: skip
    with_update = [
        Contrast(f"the score {WORDS[score]}, with the update", _minus(CELLS[score, "joint"], CELLS["magnitude", "joint"]),
                 at, short=SHORT[score])
        for score in SCORES[1:]
    ]  # fmt: skip
    rivals = [_rival(other, at) for other in ("magnitude", "diag_fisher", "magnitude_joint", "obert", "obert_joint")]
    return [
        *_family("update", f"The update, given to each score, one-shot at {word}", updates, c.methods),
        *_family("score", f"Each score less magnitude, no update, one-shot at {word}", scores, c.methods),
        *_family("score_updated", f"Each score less magnitude, both with the update, {word}", with_update, c.methods),
        *_family("rivals", f"oViT, one-shot in one pass, at {word}", rivals, c.methods),
    ]


def _alone(config: NoWeightUpdate) -> list[Family]:
    """Which part alone is worth more: the update on magnitude's mask against oViT's mask left alone, where they differ:
    at the highest sparsities under one threshold, then in the other regimes.
    """
    c, places = config, [(GLOBAL, at, share(at)) for at in sorted(config.sparsities)[-3:]]
    for name in c.regimes:
        if (regime := regime_of(name)) != GLOBAL:
            at = place(c, UPDATE, regime, c.sensitivity_sparsity)["sparsity_target"]
            places.append((regime, at, name if regime.pattern != GLOBAL.pattern else f"{name} {share(at)}"))
    contrasts = [
        Contrast(f"the update alone against the score alone ({words})", ALONE,
                 dict(phase="one_shot", **regime._asdict(), sparsity_target=at), short=f"at {words}")
        for regime, at, words in places
    ]  # fmt: skip
    return _family("alone", "The update alone less oViT's score alone, one-shot", contrasts, c.methods, later=True)


def _diagonal(config: NoWeightUpdate) -> list[Family]:
    """Whether oViT's score is worth more than the best that factorizes nothing, without and with the update: under one
    threshold and uniform.
    """
    c, high, out = config, sorted({config.sensitivity_sparsity, max(config.sparsities)}), []
    title = "oViT's score less the diagonal Fisher's, one-shot"
    places = [("diagonal", GLOBAL, title, "")]
    places += [("diagonal_uniform", UNIFORM, f"{title}, uniform", "uniform ")] if "uniform" in c.regimes else []
    for name, regime, title, where in places:
        contrasts = [
            Contrast(f"oViT's score against the diagonal Fisher's, {UPDATES[update]} ({where}{share(at)})",
                     _minus(CELLS["greedy", update], CELLS["diagonal", update]),
                     dict(phase="one_shot", **regime._asdict(), sparsity_target=at), short=f"{UPDATES[update]}, {share(at)}")
            for update in UPDATES for at in high
        ]  # fmt: skip
        out += _family(name, title, contrasts, c.methods, later=True)
    return out


def _along(config: NoWeightUpdate) -> list[Family]:
    """Along the sparsity curve: the interaction under both rules, the update on oViT's own mask, and cross-entropy."""
    c, greedy, high, low = config, parts("greedy"), sorted(config.sparsities)[-MOST:], sorted(config.sparsities)[:MOST]
    both = "Both together, beyond each alone"
    own, shared = (f"{both} ({who} λ)" for who in ("each at its own", "all at oViT's"))
    evenly = f"{both}, uniform (each at its own λ)"

    def along(
        what: str, weights: Mapping[str, float], sparsities: Iterable[float], on=GLOBAL, **more
    ) -> list[Contrast]:
        where = [dict(ONE_SHOT, **on._asdict(), sparsity_target=at) for at in sparsities]
        return [Contrast(what, weights, at, short=f"at {share(at['sparsity_target'])}", **more) for at in where]

    interaction = dict(what="score and update together beyond each alone", weights=greedy["interaction"])
    mask = along("the update on oViT's own mask", greedy["update_other"], high, rule="shared")
    dense = along("oViT against dense", _minus(UPDATE, "dense"), high)
    loss = along("the update's cross-entropy", greedy["update_other"], low, metric="cross_entropy")
    nats = along(**interaction, sparsities=high, metric="cross_entropy")
    return [
        *_family("interaction", own, along(**interaction, sparsities=high), c.methods, says=relation),
        *_family("interaction_shared", shared, along(**interaction, sparsities=high, rule="shared"), c.methods, says=relation),
        *(_family("interaction_uniform", evenly, along(**interaction, sparsities=high, on=UNIFORM), c.methods,
                  says=relation, later=True)
          if "uniform" in c.regimes else []),
        *_family("dense", "oViT less dense, one-shot", dense, c.methods),
        *_family("update_shared", "The update on oViT's own mask (all at oViT's λ)", mask, c.methods),
        *_family("cross_entropy", "Cross-entropy: oViT less its score without update", loss, c.methods, None),
        *_family("interaction_cross_entropy", f"{both}, in cross-entropy (below 0: less of it)", nats, c.methods, None,
                 later=True),
    ]  # fmt: skip


def _regimes(config: NoWeightUpdate) -> list[Family]:
    """Layer-wise rivals, which one threshold for the model would not do justice, where zeros are spread evenly."""
    out = []
    pairs = (
        ("oViT's update", UPDATE, NO_UPDATE, ""), (f"oViT (B = {config.block_size}) against OBC", UPDATE, "obc", ""),
        ("OBC's update", "obc", "obc_mask_only", ""),
        ("OBC on the inputs that pruned layers leave", "obc_sequential", "obc", "obc_sequential against obc"),
        ("oViT against Wanda", UPDATE, "wanda", ""),
    )  # fmt: skip
    for name in config.regimes:
        if (regime := regime_of(name)) != GLOBAL:
            at = place(config, UPDATE, regime, config.sensitivity_sparsity)["sparsity_target"]
            where = dict(phase="one_shot", **regime._asdict(), sparsity_target=at)
            contrasts = [Contrast(what, _minus(a, b), where, short=short) for what, a, b, short in pairs]
            title = f"One-shot, {name}" + ("" if regime.pattern != "unstructured" else f" at {share(at)}")
            out += _family(f"regime_{name.replace(':', '_')}", title, contrasts, config.methods)
    return out


def _threshold(config: NoWeightUpdate) -> list[Family]:
    """What oViT's third part brings, one threshold for the model in place of one a weight matrix, to it and to others;
    last, what it is worth against the method that was made for uniform sparsity.
    """
    c, at = config, config.sensitivity_sparsity
    if not {"global", "uniform"} <= {*c.regimes}:
        return []
    where = ONE_SHOT | dict(allocation=("global", "uniform"), sparsity_target=at)
    against = lambda a, b: _minus(f"{a}@global", f"{b}@uniform")
    contrasts = [
        Contrast(f"one threshold for {m}", against(m, m), where, by="allocation", short=m)
        for m in (UPDATE, NO_UPDATE, "magnitude_joint", "magnitude")
    ]  # fmt: skip
    best = Contrast(f"oViT (B = {c.block_size}) under one threshold against OBC with uniform sparsity", against(UPDATE, "obc"), where,
                    by="allocation", short=f"{UPDATE} less obc, uniform")  # fmt: skip
    title = f"One threshold for the model less uniform sparsity, one-shot at {share(at)}"
    return _family("threshold", title, [*contrasts, best], c.methods, later=True)


def _trained(config: NoWeightUpdate) -> list[Family]:
    """What is left of oViT's lead after training, for each length; and whether training harms the dense control."""
    c, out = config, []
    for at in c.recovery_sparsities:
        for epochs in c.recovery_epochs:
            where = RECOVERED | dict(sparsity_target=at, epochs=epochs)
            contrasts = [_rival(other, where) for other in TRAINED]
            title = f"oViT, pruned to {share(at)}, trained for {epochs} × {c.recovery_images:,} images"
            out += _family(f"recovered_{100 * at:g}_{epochs}", title, contrasts, c.recovery_methods)
        lengths = sorted(c.recovery_epochs)[-MOST:]
        update = [
            Contrast("the update on oViT's own mask, after training", _minus(UPDATE, NO_UPDATE),
                     RECOVERED | dict(sparsity_target=at, epochs=epochs), "shared",
                     short=f"trained for {epochs} × {c.recovery_images:,}")
            for epochs in lengths
        ]  # fmt: skip
        title = f"The update on oViT's own mask, pruned to {share(at)} and trained (oViT's λ)"
        out += _family(f"update_{100 * at:g}_trained", title, update, c.recovery_methods, later=True)
        out += _family(f"score_{100 * at:g}_trained", f"The score without update less magnitude, {share(at)}, trained",
                       _scores(c, at), c.recovery_methods, later=True)  # fmt: skip
        both = [
            Contrast("score and update together beyond each alone", parts("greedy")["interaction"],
                     RECOVERED | dict(sparsity_target=at, epochs=epochs),
                     short=f"trained for {epochs} × {c.recovery_images:,}")
            for epochs in lengths
        ]  # fmt: skip
        title = "Both together, beyond each alone, after training"
        out += _family(f"interaction_{100 * at:g}_trained", title, both, c.recovery_methods)
    at = c.gradual_steps[-1]
    where = dict(phase="gradual", **GLOBAL._asdict(), sparsity_target=at)
    contrasts = [_rival(other, where) for other in TRAINED]
    out += _family("gradual", f"oViT, pruned gradually to {share(at)}", contrasts, c.gradual_methods)
    control = [
        Contrast(f"dense after {words}, less before", _minus(f"dense@{phase}", "dense@one_shot"),
                 dict(phase=("one_shot", phase), sparsity_target=0.0, **more), by="phase",
                 short=short)
        for phase, words, short, more, asked in (
            ("recovered", "the longest recovery", "the longest recovery", dict(epochs=max(c.recovery_epochs, default=0)), c.recovery_methods),
            ("gradual", "the training of gradual pruning", "gradual pruning's", {}, c.gradual_methods),
        ) if asked
    ]  # fmt: skip
    return [*out, *_family("control", "Dense after the same training, less before", control, ())]


def _scores(config: NoWeightUpdate, at: float) -> list[Contrast]:
    """What a score is worth after training, without the update: for each length oViT's, for the longest the diagonal's."""
    lengths = sorted(config.recovery_epochs)
    asked = [(NO_UPDATE, epochs) for epochs in lengths[-MOST + 1 :]]
    asked += [("diag_fisher", epochs) for epochs in lengths[-1:]]
    return [
        Contrast(f"the score of {method} after training", _minus(method, "magnitude"),
                 RECOVERED | dict(sparsity_target=at, epochs=epochs),
                 short=f"{method}, {epochs} × {config.recovery_images:,}")
        for method, epochs in asked
    ]  # fmt: skip


def _settings(config: NoWeightUpdate) -> list[Family]:
    """Whether the update's worth depends on a setting of the curvature, each point at its own lambda; and methods at
    equal numbers of gradients.
    """
    c, out, at = config, [], dict(ONE_SHOT, sparsity_target=config.sensitivity_sparsity)
    for column, values in c.sweeps.items():
        own = getattr(c, column)
        gain = lambda v: {f"{UPDATE}@{v:g}": 1, f"{NO_UPDATE}@{v:g}": -1}
        contrasts = [
            Contrast(f"the update at {column} {v:g} less that at {own:g}", gain(v) | {k: -w for k, w in gain(own).items()}, at, by=column, short=f"at {v:g} less at {own:g}")
            for v in values if v != own
        ]  # fmt: skip
        out += _family(f"sweep_{column}", f"The update at another {SETTING[column]}, less at its own", contrasts, PAIR)
    if c.sensitivity_block_sizes:
        alone = [
            Contrast(f"the update alone against the score alone (B = {B})", {f"{m}@{B}": w for m, w in ALONE.items()}, at,
                     by="block_size", short=f"B = {B}")
            for B in sorted({*c.sensitivity_block_sizes, c.block_size})
        ]  # fmt: skip
        title = f"The update alone less oViT's score alone, by block size, {share(c.sensitivity_sparsity)}"
        out += _family("alone_block_size", title, alone, c.methods, later=True)
    if c.compute_passes:
        most = max(c.compute_passes)
        more = [
            Contrast(f"{m} in {most} passes less in one", _minus(f"{m}@{most}", f"{m}@1"), at, by="passes",
                     short=f"{m}: {most} less 1")
            for m in COMPUTE
        ]  # fmt: skip
        best = [
            Contrast(f"oViT in one pass less {m} in {most}", _minus(f"{UPDATE}@1", f"{m}@{most}"), at, by="passes",
                     short=f"{UPDATE} 1 less {m} {most}")
            for m in COMPUTE[1:]
        ]  # fmt: skip
        out += _family("compute", f"As many gradients in all, in one pass or in {most}", [*more, *best], COMPUTE)
    return out
