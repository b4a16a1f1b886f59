"""Recovery: pruned models trained on with their masks fixed, for as long as a list of lengths says.

Every method gets the learning rate that suits it, by the mean over seeds of validation at one length. Both ablations
ask for recovered models by the same tasks, so that a model is trained once.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from ovit_core.study import lambdas, provenance
from ovit_core.study.parameters import Count, Lambdas, Parameters, Seeds, different
from ovit_core.study.tasks import SHARED, TESTED, VALIDATION, Row, Task, World, best_of, task

PHASE, SEARCH = "recovered", "recovery_search"
MODULES = (*provenance.STUDY, "ovit_core.study.recovery")
STEP = ("weight_decay", "batch_size", "augment", "amp_dtype")  # what a step of training depends on,
TRAINING = (*STEP, "recovery_images")  # and what all training after pruning does


class Recovery(Parameters):
    """What ablations share that look at recovered models. Rates are searched, and ablation A's models trained, for
    `finetune_seeds` only, as far as they are among the seeds.
    """

    finetune_seeds: Seeds
    recovery_images: Count
    recovery_lrs: Annotated[Lambdas, Field(min_length=1), AfterValidator(different)]
    recovery_search_epochs: Count

    @model_validator(mode="after")
    def _something_to_train(self) -> "Recovery":
        if self.recovery_images < self.batch_size:
            raise ValueError(
                f"recovery_images must be at least batch_size ({self.batch_size}), not {self.recovery_images}"
            )
        if not {*self.finetune_seeds} & {*self.seeds}:
            raise ValueError(f"finetune_seeds must hold one of the seeds {list(self.seeds)} at least")
        return self


def rates(
    config: Recovery, seed: int, world: World, found: Sequence[Row], methods: Sequence[str], sparsities: Sequence[float]
) -> Iterator[Task]:  # fmt: skip
    """Every learning rate, for every model that is to be recovered and for dense, where there is a choice."""
    if len(config.recovery_lrs) == 1 or seed not in config.finetune_seeds:
        return
    for (method, at), lr in product(models(methods, sparsities), config.recovery_lrs):
        columns = _columns(config, found, method, at, SEARCH, config.recovery_search_epochs, seed)
        yield task(
            config, seed, world, "recovery_rate", [VALIDATION], depends=TRAINING, modules=MODULES, lr=lr,
            **columns,
        )  # fmt: skip


def recovered(
    config: Recovery, seed: int, world: World, found: Sequence[Row], method: str, at: float, epochs: int
) -> Task:  # fmt: skip
    """A model pruned in one step and trained for so many epochs of `recovery_images` at its own rate."""
    columns = _columns(config, found, method, at, PHASE, epochs, seed)
    lr = rate(config, found, method, at)
    return task(config, seed, world, "recovered", TESTED, depends=TRAINING, modules=MODULES, lr=lr, **columns)


def models(methods: Sequence[str], sparsities: Sequence[float]) -> list[tuple[str, float]]:
    """Method and sparsity of what is recovered: the dense control once, for it has no sparsity."""
    pruned = list(product(methods, sparsities))
    return [("dense", 0.0)] * bool(pruned) + pruned


def rate(config: Recovery, found: Sequence[Row], method: str, at: float) -> float | str:
    """The learning rate with the best mean over seeds, the smaller of equals; "" before it was searched."""
    return best_rate(found, config.recovery_lrs, phase=SEARCH, method=method, sparsity_target=at)


def best_rate(found: Sequence[Row], listed: Sequence[float], **where: object) -> float | str:
    """The best of some learning rates by the rows of a search that are found `where`; without a choice the only one."""
    if len(listed) == 1:
        return listed[0]
    best = best_of([row for row in found if where.items() <= row.items()], "lr", listed, larger=False)
    return "" if best is None else best


def _columns(
    config: Recovery, found: Sequence[Row], method: str, at: float, phase: str, epochs: int, seed: int
) -> dict:  # fmt: skip
    known = lambdas.chosen(config, found, method)
    more = dict(phase=phase, method=method, sparsity_target=at, epochs=epochs, finetune_seed=seed)
    return dict(experiment=SHARED, **more, **known)
