"""What ablation A measures: searches of lambda, then one-shot, recovered, gradual, and the sweeps."""

from collections.abc import Iterator, Sequence
from itertools import product

from ovit_core.ablations.no_weight_update.parameters import PAIR, NoWeightUpdate, regime_of
from ovit_core.methods import METHODS
from ovit_core.study import lambdas, provenance
from ovit_core.study.tasks import SHARED, TESTED, Row, Task, World, task

MODULES = (
    *provenance.STUDY, "ovit_core.ablations.no_weight_update.run", "ovit_core.ablations.no_weight_update.parameters",
)  # fmt: skip
TRAINING = ("weight_decay", "batch_size", "augment")  # what all training after pruning depends on


def searches(config: NoWeightUpdate, seed: int, world: World, _: Sequence[Row]) -> list[Task]:
    """Every lambda that is to be chosen, those of the sweeps too."""
    methods = [method for asked, _ in config.points.values() for method in asked]
    tasks = lambdas.searches(config, seed, world, methods)
    for column, values in config.sweeps.items():
        if column != "damp":
            tasks += [
                t for value in values for t in lambdas.searches(config.replace(**{column: value}), seed, world, PAIR)
            ]
    return tasks


def measurements(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> list[Task]:
    """All there is to measure at the lambdas that were chosen."""
    return [
        *_one_shot(config, seed, world, found),
        *_trained(config, seed, world, found),
        *_swept(config, seed, world, found),
    ]


def _one_shot(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> Iterator[Task]:
    make = lambda kind, metrics, **more: task(config, seed, world, kind, metrics, phase="one_shot", **more)
    yield make("one_shot", TESTED, experiment=SHARED, method="dense")
    for method, regime in product(config.methods, config.regimes):
        allocation, pattern = regime_of(regime)
        columns = dict(method=method, allocation=allocation, pattern=str(pattern)) | lambdas.chosen(
            config, found, method
        )
        sparsities = config.sparsities if pattern.sparsity is None else (pattern.sparsity,)
        for at in sparsities:
            yield make("one_shot", TESTED, experiment=SHARED, sparsity_target=at, **columns)
        if method == "ovit" and regime == "global":
            what = ("predicted_loss_increase", ("sparsity", "layer"), ("correction_share", "layer"))
            yield from (
                make("where_it_acts", what, modules=MODULES, sparsity_target=at, **columns) for at in sparsities
            )


def _trained(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> Iterator[Task]:
    """The dense control once, for it has no sparsity."""
    c = config
    schedules = dict(
        recovered=("recovery_images",),
        gradual=("gradual_images", "gradual_start", "gradual_cycles", "gradual_epochs", "gradual_final_lr"),
    )
    columns = dict(
        recovered=dict(epochs=c.recovery_epochs, lr=c.recovery_lr),
        gradual=dict(epochs=c.gradual_cycles * c.gradual_epochs, lr=c.gradual_lr),
    )
    for phase, own in schedules.items():
        methods, sparsities = c.points[phase]
        points = list(product(methods, sparsities))
        for method, at in [("dense", 0.0)] * bool(points) + points:
            more = columns[phase] | lambdas.chosen(c, found, method)
            if phase == "gradual" and method in METHODS and METHODS[method].needs_curvature:
                more |= dict(passes=c.gradual_cycles)
            yield task(
                c, seed, world, phase, TESTED, depends=(*TRAINING, *own), modules=MODULES, phase=phase, method=method,
                sparsity_target=at, finetune_seed=seed, **more,
            )  # fmt: skip


def _swept(config: NoWeightUpdate, seed: int, world: World, found: Sequence[Row]) -> Iterator[Task]:
    """oViT with and without its update as one setting varies; lambda is chosen anew, unless it is what varies."""
    for column, values in config.sweeps.items():
        for value, method in product(values, PAIR):
            varied = config if column == "damp" else config.replace(**{column: value})
            damp = dict(damp=value, damp_rule="shared") if column == "damp" else lambdas.chosen(varied, found, method)
            yield task(
                varied, seed, world, "one_shot", TESTED, experiment="sensitivity", phase="one_shot", method=method,
                sparsity_target=config.sensitivity_sparsity, scope_name=column, **damp,
            )  # fmt: skip


STAGES = (searches, measurements)
