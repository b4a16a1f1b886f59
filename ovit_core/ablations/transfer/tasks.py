"""What ablation B measures: searches of lambda and of rates of recovery, the models that are transferred, searches of
finetuning's rates, then every model on every downstream set.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from ovit_core.ablations.transfer.parameters import FLOORS, FROZEN, NOTHING, Transfer
from ovit_core.study import lambdas, provenance, recovery
from ovit_core.study.tasks import HELD_OUT, VALIDATION, Row, Task, World, task

MODULES = (
    *provenance.STUDY, "ovit_core.study.dense", "ovit_core.study.recovery", "ovit_core.ablations.transfer.run",
    "ovit_core.ablations.transfer.readout", "ovit_core.ablations.transfer.similarity",
    "ovit_core.ablations.transfer.parameters",
)  # fmt: skip
FULL = ("full_batch_size", "weight_decay", "augment", "amp_dtype")  # what full finetuning depends on, and its length
RATES, LENGTH, FEATURES = "lr_search", "full_length", "features"  # phases beside those named as protocols
WIDER = 2  # times that a list of rates gets one more, where the best lies at its edge
Rows = Sequence[Row]


class Model(NamedTuple):
    """A model that is transferred."""

    method: str  # or a floor
    at: float  # its sparsity
    source: str  # "one_shot" or "recovered"; "" for a floor

    @property
    def decides(self) -> bool:
        """Whether a set tells something by this model: the dense one itself, and the floors."""
        return self.source == "" or self == DENSE


DENSE = Model("dense", 0.0, "one_shot")


def models(config: Transfer, seed: int, world: World, protocol: str) -> list[Model]:
    """The models that a seed measures by a protocol: dense first, the floors last. What is trained is for some seeds."""
    trains = seed in (config.finetune_seeds if protocol == "full" else config.source_seeds)
    if protocol == "full" and not trains:
        return []
    found = [DENSE]
    for source, methods, sparsities in config.sources.get(protocol, ()):
        if source == "one_shot" or (trains and not world.headless):
            found += [Model(method, at, source) for method, at in (DENSE[:2], *product(methods, sparsities))]
    return [*dict.fromkeys(found), *(Model(floor, 0.0, "") for floor in FLOORS[protocol])]


def searches(config: Transfer, seed: int, world: World, _: Rows) -> list[Task]:
    """Every lambda that is to be chosen."""
    asked = dict.fromkeys(method for methods, _ in config.points.values() for method in methods)
    return lambdas.searches(config, seed, world, asked)


def recovery_rates(config: Transfer, seed: int, world: World, found: Rows) -> list[Task]:
    """Every learning rate of recovery."""
    asked = [one for models in config.sources.values() for one in models if one[0] == "recovered"]
    asked = [] if world.headless else asked
    return [t for _, methods, at in asked for t in recovery.rates(config, seed, world, found, methods, at)]


def upstream(config: Transfer, seed: int, world: World, found: Rows) -> list[Task]:
    """Every model that is to be transferred, on the upstream test split: so each is trained once."""
    asked = dict.fromkeys(model for protocol in config.protocols for model in models(config, seed, world, protocol))
    return [] if world.headless else [_made(config, seed, world, found, model) for model in asked if model.source]


def rates(config: Transfer, seed: int, world: World, found: Rows) -> list[Task]:
    """Every learning rate of full finetuning at half its length, where there is a choice, or a length to be judged."""
    return _rates(config, seed, world, found, 0)


def wider(config: Transfer, seed: int, world: World, found: Rows) -> list[Task]:
    """One more for each model and set whose best rate lies at the edge of the list: its neighbour beyond."""
    return _rates(config, seed, world, found, 1)


def widest(config: Transfer, seed: int, world: World, found: Rows) -> list[Task]:
    """And once more, where the best lies at the new edge."""
    return _rates(config, seed, world, found, WIDER)


def _rates(config: Transfer, seed: int, world: World, found: Rows, times: int) -> list[Task]:
    """The searches of rates that come with a list that was widened so many times."""
    asked = models(config, seed, world, "full") if "full" in config.protocols else []
    out = []
    for model, name in product(asked, config.full_datasets):
        before = tried(config, found, model, name, times - 1) if times else ()
        if model.decides or len(config.full_lrs) > 1:
            lrs = [lr for lr in tried(config, found, model, name, times) if lr not in before]
            how = "rate", model, name, [VALIDATION]
            out += [_full(config, seed, world, found, *how, phase=RATES, lr=lr) for lr in lrs]
    return out


def measurements(config: Transfer, seed: int, world: World, found: Rows) -> list[Task]:
    """Every model on every set by every protocol."""
    return [*_frozen(config, seed, world, found), *_finetuned(config, seed, world, found)]


def _frozen(config: Transfer, seed: int, world: World, found: Rows) -> Iterator[Task]:
    """Model by model and set by set, for features are read once; how alike they are to the dense model's."""
    protocols = [protocol for protocol in FROZEN if protocol in config.protocols]
    asked = {protocol: models(config, seed, world, protocol) for protocol in protocols}
    if "full" in config.protocols and "linear" not in protocols:
        asked["linear"] = [Model(floor, 0.0, "") for floor in FLOORS["linear"]]
    for model, name in product(dict.fromkeys(sum(asked.values(), [])), config.datasets):
        common = _common(config, seed, world, found, model, name)
        decides = [HELD_OUT] * model.decides
        if model in asked.get("linear", ()):
            for shots in ("", *(config.few_shots if "linear" in protocols else ())):
                metrics = [config.metric(name), *decides]
                more = dict(common, shots=shots, choose=("C", config.probe_Cs))
                yield task(config, seed, world, "linear", metrics, phase="linear", **more)
        if model in asked.get("knn", ()):
            yield task(config, seed, world, "knn", [config.metric(name), *decides], phase="knn", **common)
        if model.source and model != DENSE:
            both = [*common["sources"], _made(config, seed, world, found, DENSE)]
            yield task(config, seed, world, "similarity", ["cka"], phase=FEATURES, **common | dict(sources=both))


def _finetuned(config: Transfer, seed: int, world: World, found: Rows) -> Iterator[Task]:
    """Full finetuning on all images; of what decides whether a set tells something, without those of validation too."""
    asked = models(config, seed, world, "full") if "full" in config.protocols else []
    for model, name in product(asked, config.full_datasets):
        lr = rate(config, found, model, name)
        yield _full(config, seed, world, found, "full", model, name, [config.metric(name)], phase="full", lr=lr)
        if model.decides:
            yield _full(config, seed, world, found, LENGTH, model, name, [HELD_OUT], phase=LENGTH, lr=lr)


def _made(config: Transfer, seed: int, world: World, found: Rows, model: Model) -> Task:
    """The task whose model is transferred, as other ablations ask for it too."""
    method, at, source = model
    if source == "recovered":
        return recovery.recovered(config, seed, world, found, method, at, config.source_epochs)
    return lambdas.one_shot(config, seed, world, found, method, at)


def _common(config: Transfer, seed: int, world: World, found: Rows, model: Model, name: str) -> dict:
    """What all tasks of a model on a set have in common; `epochs` are those of its recovery."""
    method, at, source = model
    known = lambdas.chosen(config, found, "dense" if method in NOTHING else method)
    made = [_made(config, seed, world, found, model)] if source else []
    trained = dict(epochs=config.source_epochs, finetune_seed=seed) if source == "recovered" else {}
    return dict(
        modules=MODULES, depends=("model_args",), datasets=[name], dataset=name, method=method, sparsity_target=at,
        source_phase=source, sources=made, **trained, **known,
    )  # fmt: skip


def _full(
    config: Transfer, seed: int, world: World, found: Rows, kind: str, model: Model, name: str, metrics: Sequence,
    **columns: object,
) -> Task:  # fmt: skip
    common = _common(config, seed, world, found, model, name)
    length = "scratch_steps" if model.method in FLOORS["full"] else "full_steps"
    common |= dict(depends=("model_args", length, *FULL), finetune_seed=seed)
    return task(config, seed, world, kind, metrics, **common | columns)


def tried(config: Transfer, found: Rows, model: Model, name: str, times: int = WIDER) -> list[float]:
    """The learning rates of full finetuning for a model on a set: those listed, and at most so many beyond, each as far
    from its neighbour as that is from the next, while the best by the mean over seeds lies at an edge.
    """
    rates = sorted(config.full_lrs)
    for _ in range(times if len(rates) > 1 else 0):
        best = _best(found, rates, model, name)
        if best == rates[-1]:
            rates.append(float(f"{rates[-1] ** 2 / rates[-2]:.3g}"))
        elif best == rates[0]:
            rates.insert(0, float(f"{rates[0] ** 2 / rates[1]:.3g}"))
    return rates


def rate(config: Transfer, found: Rows, model: Model, name: str) -> float | str:
    """The learning rate with the best mean over seeds at half length, the smaller of equals; "" before the search."""
    return _best(found, tried(config, found, model, name), model, name)


def _best(found: Rows, rates: Sequence[float], model: Model, name: str) -> float | str:
    method, at, source = model
    where = dict(phase=RATES, method=method, sparsity_target=at, source_phase=source, dataset=name)
    return recovery.best_rate(found, rates, **where)


STAGES = (searches, recovery_rates, upstream, rates, wider, widest, measurements)
