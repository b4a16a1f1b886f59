"""How every method gets its lambda: tried by each seed on validation, chosen once for all of them, by two rules.

    own     every method has the lambda that suits it: what is lost if a part is dropped and all is tuned for the rest
    shared  every method takes oViT's, and so forms of one score share its mask: what a part is worth on that mask

Lambda is chosen for each regime, and anew for every setting of the curvature.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ovit_core.methods import get_method
from ovit_core.pattern import Pattern
from ovit_core.study.parameters import Parameters
from ovit_core.study.tasks import SHARED, TESTED, VALIDATION, Row, Task, World, best_of, task

PHASE = "lambda_search"
TIE = 0.005  # of validation accuracy: where a search is flat, its best value says little
OVIT = "ovit"  # whose lambda the others take under the rule `shared`


class Regime(NamedTuple):
    """How zeros are spread, as rows tell it."""

    allocation: str = "global"
    pattern: str = "unstructured"

    def takes(self, method: str) -> bool:
        """Whether a method is judged in it: losses of layers' outputs are no common currency for one threshold."""
        return self.allocation != "global" or method == "dense" or get_method(method).curvature != "inputs"


GLOBAL = Regime()


def judged_by(world: World) -> str:
    """The metric of a search; without a head the share of the dense features' variance that the pruned ones keep."""
    return "validation_r2" if world.headless else VALIDATION


def values(config: Parameters, method: str) -> tuple[float, ...]:
    """The lambdas that a method chooses from: absolute for gradients, relative to the mean diagonal for layer inputs."""
    chosen = get_method(method)
    if not chosen.needs_damp:
        return ()
    return config.input_damps if chosen.curvature == "inputs" else config.damps


def place(config: Parameters, method: str, regime: Regime = GLOBAL, at: float | None = None, passes: int = 1) -> dict:
    """The columns in which the searches of a method's lambda are the same."""
    at = Pattern.parse(regime.pattern).target(config.damp_sparsity if at is None else at)
    settings = {name: getattr(config, name) for name in ("block_size", "gradients", "gradient_batch")}
    settings["gradients"] //= passes
    more = dict(sparsity_target=at, passes=passes, recomputations=passes - 1)
    return dict(phase=PHASE, method=method, **regime._asdict(), **more, **settings)


def searches(
    config: Parameters,
    seed: int,
    world: World,
    methods: Iterable[str],
    regime: Regime = GLOBAL,
    at: float | None = None,
    passes: int = 1,
    listed: Callable[[str], Iterable[float]] | None = None,
) -> list[Task]:
    """A method's lambdas at a sparsity (`damp_sparsity`; N:M at its own): all of its list, or those that `listed` gives."""
    every = listed or (lambda method: values(config, method))
    return [
        task(
            config, seed, world, "search", [judged_by(world)], depends=["search_images"], experiment=SHARED, damp=damp,
            damp_rule="own", **place(config, method, regime, at, passes),
        )
        for method in dict.fromkeys(methods) if regime.takes(method) for damp in every(method)
    ]  # fmt: skip


def near(config: Parameters, found: Sequence[Row], method: str, regime: Regime = GLOBAL) -> tuple[float, ...]:
    """The three lambdas, a decade apart, around the best of a method with one pass: those for several passes. Of those
    that are as good by TIE the largest: several passes have fewer gradients each, and want more of it.
    """
    best = best_damp(config, found, method, regime, within=TIE)
    return () if best is None else tuple(float(f"{best * factor:.6g}") for factor in (0.1, 1, 10))


def beyond(
    config: Parameters, found: Sequence[Row], method: str, passes: int, regime: Regime = GLOBAL
) -> tuple[float, ...]:
    """A fourth lambda for several passes, where the best of the three `near` lies at their edge; none outside of the
    method's list.
    """
    three, same = near(config, found, method, regime), place(config, method, regime, passes=passes).items()
    best = best_of([row for row in found if same <= row.items()], "damp", three, larger=True)
    if best is None or best == three[1]:
        return ()
    fourth, list_ = float(f"{best * best / three[1]:.6g}"), values(config, method)
    return (fourth,) if min(list_) <= fourth <= max(list_) else ()


def best_damp(
    config: Parameters,
    found: Sequence[Row],
    method: str,
    regime: Regime = GLOBAL,
    passes: int = 1,
    within: float = 1e-9,
) -> float | None:
    """The lambda with the best mean over seeds, the larger of those `within` so much of it; None before all were tried."""
    same = place(config, method, regime, passes=passes).items()
    listed = values(config, method)
    if passes > 1:
        listed = near(config, found, method, regime) + beyond(config, found, method, passes, regime)
    return best_of([row for row in found if same <= row.items()], "damp", listed, larger=True, within=within)


def chosen(
    config: Parameters,
    found: Sequence[Row],
    method: str,
    regime: Regime = GLOBAL,
    rule: str = "own",
    passes: int = 1,
) -> dict[str, Any]:
    """The columns `damp` and `damp_rule` of a method under a rule. Both are "" for a method without lambda, `damp` also
    before anything was searched. A sequential method takes that of its plain form: its own would cost too much.
    """
    if method in ("dense", "") or not get_method(method).needs_damp:
        return dict(damp="", damp_rule="")
    whose = OVIT if rule == "shared" else method.removesuffix("_sequential")
    best = best_damp(config, found, whose, regime, passes=passes)
    return dict(damp="" if best is None else best, damp_rule=rule)


def one_shot(
    config: Parameters, seed: int, world: World, found: Sequence[Row], method: str, at: float,
    regime: Regime = GLOBAL, rule: str = "own",
) -> Task:  # fmt: skip
    """A copy pruned in one step at the lambda that was chosen, on the upstream test split, as any ablation asks for it."""
    known = chosen(config, found, method, regime, rule)
    return task(
        config, seed, world, "one_shot", TESTED, experiment=SHARED, phase="one_shot", method=method, sparsity_target=at,
        **regime._asdict(), **known,
    )  # fmt: skip


def shares(method: str) -> bool:
    """Whether a method has another lambda under the rule `shared` than under `own`."""
    return method not in (OVIT, "dense") and get_method(method).needs_damp and get_method(method).curvature == "fisher"
