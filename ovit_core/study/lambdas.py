"""How every method gets its lambda: tried by each seed on validation, chosen once for all of them."""

from collections.abc import Iterable, Sequence

from ovit_core.methods import get_method
from ovit_core.study.parameters import Parameters
from ovit_core.study.tasks import SHARED, VALIDATION, Row, Task, World, best_of, task

PHASE = "lambda_search"
# Forms of a method that only differ in the update share its lambda, and so its mask: they ask what is lost or won by
# that part, all else equal. So does `ovit_no_update`, which is oViT without it. Magnitude's mask knows no lambda.
INHERITS = {
    "ovit_mask_only": "ovit",
    "ovit_no_update": "ovit",
    "ovit_no_update_joint": "ovit",
    "obert_mask_only": "obert",
    "obert_joint": "obert",
    "obc_mask_only": "obc",
}


def judged_by(world: World) -> str:
    """The metric of a search; without a head the share of the dense features' variance that the pruned ones keep."""
    return "validation_r2" if world.headless else VALIDATION


def searches(config: Parameters, seed: int, world: World, methods: Iterable[str]) -> list[Task]:
    """Every lambda of the list at `damp_sparsity`, for every method that is tuned for itself."""
    own = dict.fromkeys(INHERITS.get(m, m) for m in methods if get_method(m).needs_curvature)
    return [
        task(
            config, seed, world, "search", [judged_by(world)], experiment=SHARED, phase=PHASE, method=method,
            sparsity_target=config.damp_sparsity, damp=damp, damp_rule="own",
        )
        for method in own for damp in config.damps
    ]  # fmt: skip


def chosen(config: Parameters, found: Sequence[Row], method: str) -> dict:
    """The columns `damp` and `damp_rule` of a method: the lambda with the best mean over seeds, the larger of equals.

    Both are "" for a method without lambda; `damp` also before anything was searched.
    """
    if method in ("dense", "") or not get_method(method).needs_curvature:
        return dict(damp="", damp_rule="")
    settings = ("block_size", "gradients", "gradient_batch")
    own = INHERITS.get(method, method)
    mine = [
        row
        for row in found
        if row["phase"] == PHASE
        and row["method"] == own
        and all(row[name] == getattr(config, name) for name in settings)
    ]
    damp = best_of(mine, "damp", larger=True)
    return dict(damp="" if damp is None else damp, damp_rule="own" if own == method else "shared")
