"""What ablation B measures: searches of lambda, then of learning rates, then every model on every downstream set."""

from collections.abc import Iterator, Sequence
from itertools import product

from ovit_core.ablations.transfer.parameters import FLOORS, NOTHING, Transfer
from ovit_core.data import catalog
from ovit_core.study import lambdas, provenance
from ovit_core.study.tasks import SHARED, TESTED, VALIDATION, Row, Task, World, best_of, task

MODULES = (
    *provenance.STUDY, "ovit_core.study.dense", "ovit_core.ablations.transfer.run",
    "ovit_core.ablations.transfer.parameters",
)  # fmt: skip
FULL = ("full_steps", "full_batch_size", "weight_decay")  # what full finetuning depends on
RATES = "lr_search"


def searches(config: Transfer, seed: int, world: World, _: Sequence[Row]) -> list[Task]:
    """Every lambda that is to be chosen."""
    return lambdas.searches(config, seed, world, config.transfer_methods)


def rates(config: Transfer, seed: int, world: World, found: Sequence[Row]) -> list[Task]:
    """Every learning rate of full finetuning at half its length, where there is a choice."""
    if "full" not in config.protocols or len(config.full_lrs) == 1:
        return []
    return [
        task(config, seed, world, "rate", [VALIDATION], phase=RATES, lr=lr, **_full(config, found, seed, method, at, name))
        for method, at in _targets(config, "full") for name in config.datasets for lr in config.full_lrs
    ]  # fmt: skip


def measurements(config: Transfer, seed: int, world: World, found: Sequence[Row]) -> list[Task]:
    """Upstream top-1 of every pruned model, and its accuracy on every set by every protocol."""
    return [*_upstream(config, seed, world, found), *_downstream(config, seed, world, found)]


def _targets(config: Transfer, protocol: str) -> list[tuple[str, float]]:
    """Method and sparsity of what a protocol measures: dense first, the floors last."""
    pruned = product(config.transfer_methods, config.sparsities[protocol])
    return [("dense", 0.0), *pruned, *((floor, 0.0) for floor in FLOORS[protocol])]


def _upstream(config: Transfer, seed: int, world: World, found: Sequence[Row]) -> Iterator[Task]:
    asked = dict.fromkeys(target for protocol in config.protocols for target in _targets(config, protocol))
    for method, at in asked if not world.headless else ():
        if method not in NOTHING:
            more = lambdas.chosen(config, found, method)
            yield task(
                config, seed, world, "one_shot", TESTED, experiment=SHARED, phase="one_shot",
                method=method, sparsity_target=at, **more,
            )  # fmt: skip


def _downstream(config: Transfer, seed: int, world: World, found: Sequence[Row]) -> Iterator[Task]:
    """For dense and the highest sparsity by class too."""
    for protocol in config.protocols:
        for (method, at), name in product(_targets(config, protocol), config.datasets):
            by_class = method not in NOTHING and at in (0.0, max(config.sparsities[protocol], default=0.0))
            metrics = (catalog.find(name).metric, *([("top1", "class")] if by_class else []))
            if protocol == "full":
                more = _full(config, found, seed, method, at, name) | dict(lr=_rate(config, found, method, at, name))
            else:
                more = _common(config, found, method, at, name) | dict(choose=("C", config.probe_Cs))
            yield task(config, seed, world, protocol, metrics, phase=protocol, **more)


def _common(config: Transfer, found: Sequence[Row], method: str, at: float, name: str) -> dict:
    known = lambdas.chosen(config, found, "dense" if method in NOTHING else method)
    source = "" if method in NOTHING else "one_shot"
    return dict(
        modules=MODULES, depends=("model_args",), datasets=[name], dataset=name, method=method, sparsity_target=at,
        source_phase=source, **known,
    )  # fmt: skip


def _full(config: Transfer, found: Sequence[Row], seed: int, method: str, at: float, name: str) -> dict:
    return _common(config, found, method, at, name) | dict(depends=("model_args", *FULL), finetune_seed=seed)


def _rate(config: Transfer, found: Sequence[Row], method: str, at: float, name: str) -> float | str:
    """The learning rate with the best mean over seeds, the smaller of equals; "" before it was searched."""
    if len(config.full_lrs) == 1:
        return config.full_lrs[0]
    asked = dict(phase=RATES, method=method, sparsity_target=at, dataset=name)
    best = best_of([row for row in found if asked.items() <= row.items()], "lr", larger=False)
    return "" if best is None else best


STAGES = (searches, rates, measurements)
