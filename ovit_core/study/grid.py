"""The grid: every seed of every ablation, stage by stage, on as many processes or machines as there are.

1. Every dataset is read and checked, every dense model trained.
2. An ablation's stages one after the other, of all its seeds together: what one measures decides what the next asks.

What is there is not done again. What fails stops nothing else: it is noted, and tried at the next start.
"""

import os
from collections.abc import Sequence

from ovit_core.study import course, engines, paths, provenance, wanted
from ovit_core.study.ablation import Ablation, Asked, Results
from ovit_core.study.engines import Batch, Engine, Fail
from ovit_core.study.export import check_export, table
from ovit_core.study.parameters import Parameters
from ovit_core.study.store import Store, failure
from ovit_core.study.tasks import SHARED, Found, World, identity_of

ONLY_READ = "OVIT_ONLY_READ"  # set for notebooks whose rows the command has measured just now


def run(ablation: Ablation, config: Parameters) -> Results:
    """Measures what is not there yet of an ablation, and reads the rows that its parameters ask for. Interrupted, it
    keeps what is measured, and goes on from there the next time.

    Raises:
        RuntimeError: nothing could be measured; says why.  ValueError, OSError: as `measure` does.
    """
    if ONLY_READ not in os.environ:
        try:
            measure([(ablation, config)])
        except KeyboardInterrupt as stopped:
            stopped._render_traceback_ = lambda: [
                "Stopped: all that was measured is kept; run the cell again to go on."
            ]
            raise
    return read(ablation, config)


def read(ablation: Ablation, config: Parameters) -> Results:
    """The rows that are there of those that the parameters of an ablation ask for; what is not there is told as a failure.

    Raises:
        RuntimeError: there is none; says why.
    """
    store = Store(config.profile)
    world, failures, there = (
        store.recall(ablation.name, config),
        store.failures(ablation.name, config),
        Found(store.rows()),
    )
    found = wanted.rows_of(ablation, config, world, there) if world else []
    if world and not failures:
        todo = (wanted.missing(ablation, config, world, stage, there) for stage in ablation.stages)
        absent = sum(len(tasks) for stage in todo for tasks in stage.values())
        failures = [f"{absent} measurements are not there"] * bool(absent)
    if not found:
        raise RuntimeError(
            f"nothing was measured. {failures[0] if failures else 'There are no rows by this code and these parameters: run the study first'}"
        )
    mine = dict(experiment=ablation.name)
    rows = [dict(row) | (mine if row["experiment"] == SHARED else {}) for row in found]
    return Results.of(ablation, config, table(rows), store.images(found), failures)


def measure(asked: Sequence[Asked]) -> list[str]:
    """Measures all that some ablations of one profile ask for and that is not there yet.

    Returns:
        What could not be measured, a line each.

    Raises:
        ValueError, OSError: the store is damaged, or a folder cannot be written to.
    """
    first, failures = asked[0][1], []
    provenance.commit()  # of the code that was loaded, before hours of work
    paths.check_writable(first.profile)
    rows = Store(first.profile)
    rows.check()
    check_export(first.profile)
    configs = {ablation.name: config for ablation, config in asked}
    for ablation, mine in asked:
        rows.forgive(ablation.name, mine)

    def fail(ablation: Ablation, seed: int | None, what: str, reason: str) -> None:
        rows.fail(ablation.name, configs[ablation.name], seed, what, reason)
        failures.append(f"{ablation.name}, {failure(seed, what, reason)}")

    with course.of(asked, rows) as way, engines.of(first, rows, way) as engine:
        worlds = prepare(engine, asked, fail)
        stages = {ablation.name: list(ablation.stages) for ablation, _ in asked}
        while any(stages.values()):
            measured = rows.rows()
            there, claimed, batches = Found(measured), set(), []
            for ablation, config in asked:
                left, todo = stages[ablation.name], {}
                while left and not todo:  # a stage in which all is there holds nobody up
                    todo = wanted.missing(ablation, config, worlds[ablation.name], left.pop(0), there)
                for seed, tasks in todo.items():
                    mine = [task for task in tasks if identity_of(task) not in claimed]  # else another ablation does it
                    claimed.update(map(identity_of, mine))
                    batches += [Batch(ablation, config, seed, worlds[ablation.name], mine)] if mine else []
            way.ahead(measured, {name: len(left) for name, left in stages.items()})
            engine.measure(batches, fail)
    return failures


def prepare(engine: Engine, asked: Sequence[Asked], fail: Fail) -> dict[str, World]:
    """Reads the datasets, then trains the dense models, of all ablations; what each ablation's rows depend on."""
    config = asked[0][1]
    names = dict.fromkeys(name for _, config in asked for name in config.every_dataset)
    read = engine.datasets(asked, list(names))
    known = {name: outcome.value for name, outcome in read.items() if not outcome.failures}
    pruning, models = [ablation for ablation, _ in asked if ablation.prunes], {}
    if pruning and config.upstream in known:
        seeds = dict.fromkeys(map(config.dense_seed, config.seeds))
        models = engine.dense_models(pruning[0], config, list(seeds), known[config.upstream])
    headless = any(outcome.value[1] for outcome in models.values() if not outcome.failures)
    no_head = f"{config.model} has no classifier head here, and so no top-1: leave this ablation out (--only takes one)"
    worlds = {}
    for ablation, config in asked:
        for name in config.every_dataset:
            if read[name].failures:
                fail(ablation, None, *read[name].failures[0])
        dense = {} if ablation.prunes else dict.fromkeys(map(config.dense_seed, config.seeds), "")
        for seed, outcome in models.items() if ablation.prunes else ():
            if outcome.failures:
                fail(ablation, seed, *outcome.failures[0])
            else:
                dense[seed] = outcome.value[0]
        if headless and ablation.needs_head:
            fail(ablation, None, "dense model", no_head)
            dense = {}
        worlds[ablation.name] = World(known, dense, headless)
        engine.store.remember(ablation.name, config, worlds[ablation.name])
    return worlds
