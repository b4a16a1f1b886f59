"""What ablation A measures: searches of lambda, then of what waits for it, then every model at what was chosen."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from ovit_core.ablations.no_weight_update.parameters import COMPUTE, PAIR, NoWeightUpdate, regime_of
from ovit_core.methods import get_method
from ovit_core.study import lambdas, provenance, recovery
from ovit_core.study.lambdas import GLOBAL
from ovit_core.study.recovery import best_rate, models
from ovit_core.study.tasks import TESTED, VALIDATION, Row, Task, World, task

# Another block changes what each part is worth, so there the update alone is measured, too.
ALONE = "magnitude_joint"
MODULES = (
    *provenance.STUDY, "ovit_core.study.recovery", "ovit_core.ablations.no_weight_update.run",
    "ovit_core.ablations.no_weight_update.parameters",
)  # fmt: skip
SWEEP = dict(experiment="sensitivity", phase="one_shot")
GRADUAL, RATES = "gradual", "gradual_search"
LENGTH = "dense_length"  # the phase of rows that tell whether the dense model is trained long enough


def searches(config: NoWeightUpdate, seed: int, world: World, _: Sequence[Row]) -> list[Task]:
    """Every lambda of every method's list, in every regime and at every point of a sweep; how long dense is trained."""
    c, methods = config, dict.fromkeys(method for asked, _ in config.points.values() for method in asked)
    plain = [method for method in methods if not get_method(method).sequential]
    tasks = [t for regime in map(regime_of, c.regimes) for t in lambdas.searches(c, seed, world, plain, regime)]
    # Trained models, sweeps and the comparison at equal compute take it, whatever the regimes.
    more = [*(PAIR if any(c.sweeps.values()) or c.sensitivity_draws else ()), *(COMPUTE if c.compute_passes else ())]
    more += [lambdas.OVIT] * any(map(lambdas.shares, plain))
    tasks += lambdas.searches(c, seed, world, [*plain, *more])
    for at in c.damp_checks:
        tasks += lambdas.searches(c, seed, world, c.methods, at=at)
    for column, values in c.sweeps.items() if seed in c.finetune_seeds else ():
        tasks += [
            t for v in values for t in lambdas.searches(c.model_copy(update={column: v}), seed, world, swept(c, column))
        ]
    if seed == c.seeds[0] and c.epochs > 1 and not (c.pretrained or c.checkpoint):
        tasks += [
            task(
                c, seed, world, "dense_length", [VALIDATION], depends=("model_args", "lr", *recovery.STEP),
                modules=(*MODULES, "ovit_core.study.dense"), phase=LENGTH, method="dense", epochs=epochs,
            )
            for epochs in (c.epochs, c.epochs // 2)
        ]  # fmt: skip
    return tasks


def swept(config: NoWeightUpdate, column: str) -> tuple[str, ...]:
    """The methods that are measured as a setting of the curvature varies."""
    return (*PAIR, *[ALONE] * (column == "block_size" and ALONE in config.methods))


def finer_searches(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> list[Task]:
    """What begins with a lambda: three around it for several passes; learning rates."""
    c, tasks = config, []
    if seed not in c.finetune_seeds:
        return []
    tasks += _of_passes(c, seed, world, lambda method, _: lambdas.near(c, found, method))
    tasks += recovery.rates(c, seed, world, found, *c.points["recovered"])
    if len(c.gradual_lrs) > 1:
        epochs = c.gradual_cycles * max(1, c.gradual_epochs // 2)  # half as long
        tasks += [
            _gradual(c, seed, world, found, "gradual_rate", method, at, phase=RATES, lr=lr, epochs=epochs)
            for (method, at), lr in product(models(*c.points[GRADUAL]), c.gradual_lrs)
        ]
    return tasks


def further_searches(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> list[Task]:
    """For several passes one lambda more, where the best of three lies at their edge."""
    if seed not in config.finetune_seeds:
        return []
    return _of_passes(config, seed, world, lambda method, passes: lambdas.beyond(config, found, method, passes))


def _of_passes(
    config: NoWeightUpdate, seed: int, world: World, listed: Callable[[str, int], Iterable[float]]
) -> list[Task]:
    """Searches for each number of passes, of the lambdas that are listed for a method and so many."""
    return [
        task for passes in config.compute_passes
        for task in lambdas.searches(config, seed, world, COMPUTE, passes=passes, listed=lambda m: listed(m, passes))
    ]  # fmt: skip


def measurements(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> list[Task]:
    """All there is to measure at what was chosen; what is costly for some of the seeds only."""
    groups = [_one_shot, _masks]
    if seed in config.finetune_seeds:
        groups += [_trained, _swept, _computed]
    return [task for group in groups for task in group(config, seed, world, found)]


def _one_shot(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> Iterator[Task]:
    """Every method in every regime at its own lambda; with one threshold at oViT's too."""
    yield lambdas.one_shot(config, seed, world, found, "dense", 0.0)
    for method, regime in product(config.methods, map(regime_of, config.regimes)):
        if regime.takes(method):
            headline = lambdas.place(config, method, regime, config.sensitivity_sparsity)["sparsity_target"]
            along = regime.pattern == "unstructured" and not get_method(method).sequential  # which is slow
            for at in dict.fromkeys((*config.sparsities, headline)) if along else (headline,):
                yield lambdas.one_shot(config, seed, world, found, method, at, regime)
                if regime == GLOBAL and lambdas.shares(method):
                    yield lambdas.one_shot(config, seed, world, found, method, at, regime, "shared")


def _masks(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> Iterator[Task]:
    """Where methods act: each layer's sparsity, what the correction moves, and what two masks have in common."""
    methods = [m for m in config.methods if GLOBAL.takes(m) and "global" in config.regimes]
    at = config.sensitivity_sparsity
    for i, method in enumerate(methods):
        mine = lambdas.one_shot(config, seed, world, found, method, at)
        columns = {name: mine.columns[name] for name in ("method", "sparsity_target", "damp", "damp_rule")}
        make = lambda what, *others, **more: task(
            config, seed, world, "where_it_acts", what, modules=MODULES, phase="one_shot",
            sources=[mine, *others], **columns, **more,
        )  # fmt: skip
        yield make([("sparsity", "layer"), *[("correction_share", "layer")] * (get_method(method).update != "none")])
        for other in methods[i + 1 :]:  # a task a pair: its row depends on these two, not on the list of methods
            theirs = lambdas.one_shot(config, seed, world, found, other, at)
            yield make([("mask_overlap", "method")], theirs, scope_name=other)


def _trained(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> Iterator[Task]:
    """Recovered for every length, and pruned gradually; dense through the same training."""
    c = config
    for (method, at), epochs in product(models(*c.points["recovered"]), c.recovery_epochs):
        yield recovery.recovered(c, seed, world, found, method, at, epochs)
    if {*PAIR} <= {*c.recovery_methods}:
        for at, epochs in product(c.recovery_sparsities, c.recovery_epochs):
            yield _on_ovits_mask(c, seed, world, found, at, epochs)
    for method, at in models(*c.points[GRADUAL]):
        lr = best_rate(found, c.gradual_lrs, phase=RATES, method=method)
        epochs = c.gradual_cycles * c.gradual_epochs
        yield _gradual(c, seed, world, found, GRADUAL, method, at, phase=GRADUAL, lr=lr, epochs=epochs)


def _on_ovits_mask(
    config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row], at: float, epochs: int
) -> Task:  # fmt: skip
    """oViT's own mask without its update, trained: at oViT's lambda, and at the rate that suits its score alone."""
    own = recovery.recovered(config, seed, world, found, PAIR[1], at, epochs)
    return replace(own, columns=own.columns | lambdas.chosen(config, found, PAIR[1], rule="shared"))


def _gradual(
    config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row], kind: str, method: str, at: float, **columns
) -> Task:  # fmt: skip
    curved = method != "dense" and get_method(method).needs_curvature
    metrics = TESTED if kind == GRADUAL else [VALIDATION]
    return task(
        config, seed, world, kind, metrics, modules=MODULES, method=method, sparsity_target=at, finetune_seed=seed,
        depends=(*recovery.TRAINING, "gradual_steps", "gradual_final_lr"),
        passes=len(config.gradual_steps) if curved else 0, **columns, **lambdas.chosen(config, found, method),
    )  # fmt: skip


def _swept(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> Iterator[Task]:
    """oViT with and without its update as one setting varies (with the size of blocks the update alone, too): with a
    lambda of its own at every point, and with the one that oViT has at the study's own setting; against lambda itself;
    and with other images for the curvature.
    """
    make = lambda varied, column, method, **more: task(
        varied, seed, world, "one_shot", TESTED, **SWEEP, method=method, scope_name=column,
        sparsity_target=config.sensitivity_sparsity, **more,
    )  # fmt: skip
    fixed = lambdas.chosen(config, found, lambdas.OVIT)["damp"]
    varies = any(config.sweeps.values()) or config.sensitivity_draws
    # The study's own setting is a point of each.
    for method, rule in product(PAIR if varies else (), ("own", "shared")):
        if rule == "own" or lambdas.shares(method):
            yield lambdas.one_shot(config, seed, world, found, method, config.sensitivity_sparsity, rule=rule)
    for column, values in config.sweeps.items():
        for value, method in product(values, swept(config, column)):
            varied = config.model_copy(update={column: value})
            yield make(varied, column, method, **lambdas.chosen(varied, found, method))
            if method in PAIR:
                yield make(varied, column, method, damp=fixed, damp_rule="shared")
    for damp, method in product(config.sensitivity_damps, PAIR):
        yield make(config, "damp", method, damp=damp, damp_rule="shared")
    for draw, method in product(config.sensitivity_draws, PAIR):
        yield make(
            config, "gradient_seed", method, gradient_seed=seed + 1000 * draw, **lambdas.chosen(config, found, method)
        )


def _computed(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> Iterator[Task]:
    """Methods that see as many gradients in all, at once or shared out among several passes."""
    for method in COMPUTE if config.compute_passes else ():
        yield lambdas.one_shot(config, seed, world, found, method, config.sensitivity_sparsity)
    for passes, method in product(config.compute_passes, COMPUTE):
        known = lambdas.place(config, method, at=config.sensitivity_sparsity, passes=passes) | SWEEP
        known |= lambdas.chosen(config, found, method, passes=passes)
        yield task(config, seed, world, "one_shot", TESTED, scope_name="passes", **known)


STAGES = (searches, finer_searches, further_searches, measurements)
