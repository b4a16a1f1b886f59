"""What the stages of an ablation ask for, and what of it is not there yet."""

from collections.abc import Sequence

from ovit_core.study.ablation import Ablation
from ovit_core.study.parameters import Parameters
from ovit_core.study.tasks import Found, Row, Stage, Task, World, identity_of


def missing(ablation: Ablation, config: Parameters, world: World, stage: Stage, there: Found) -> dict[int, list[Task]]:
    """seed -> tasks of a stage that are not done."""
    found, todo = rows_of(ablation, config, world, there, before=stage), {}
    for seed in ready(config, world):
        tasks = [task for task in listed(stage, config, seed, world, found) if not there.of(task)]
        if tasks:
            todo[seed] = tasks
    return todo


def ready(config: Parameters, world: World) -> list[int]:
    """The seeds whose dense model is there."""
    return [seed for seed in config.seeds if config.dense_seed(seed) in world.dense]


def listed(stage: Stage, config: Parameters, seed: int, world: World, found: Sequence[Row]) -> list[Task]:
    """The tasks of a stage, those on datasets that are not there left out."""
    there = [task for task in stage(config, seed, world, found) if task.columns["dataset"] in world.fingerprints]
    return list({identity_of(task): task for task in there}.values())  # a sweep may ask for what is asked for anyhow


def rows_of(
    ablation: Ablation, config: Parameters, world: World, there: Found, before: Stage | None = None
) -> list[Row]:
    """The rows of all stages, or of those before one, of all seeds, in the order of their tasks."""
    found: list[Row] = []
    for stage in ablation.stages:
        if stage is before:
            break
        tasks = [task for seed in ready(config, world) for task in listed(stage, config, seed, world, found)]
        found += [row for task in tasks for row in there.of(task)]
    return found
