"""What a profile would measure, what of it is there, what is missing, and what it would take; nothing is run.

In seconds, without torch, and with data missing too: datasets are known by what they held when they were last read.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import chain, zip_longest
from typing import NamedTuple

import psutil

from ovit_core.data import catalog, manifest
from ovit_core.study import checks, cost, earlier, identity, machine, paths, wanted
from ovit_core.study.ablation import Asked
from ovit_core.study.cost import Costs, Estimate
from ovit_core.study.parameters import Parameters
from ovit_core.study.store import Store
from ovit_core.study.tasks import Found, Row, World, identity_of

ROW = 1200  # bytes of a row with its index, and of one test image behind it:
IMAGE = 5


class Line(NamedTuple):
    """Tasks of one kind: how many are asked for and done, and what each that is left takes."""

    what: str
    asked: int
    done: int
    left: list[Estimate]


class Plan(NamedTuple):
    """What there is to do, and for how long it keeps the workers busy."""

    lines: list[Line]
    dense: list[float]  # seconds of training each dense model,
    stages: dict[str, list[list[float]]]  # then, by ablation, of each stage each seed's
    costs: dict[str, Costs]
    workers: int
    unread: list[str]  # datasets that were not read here yet: no row of theirs is found before

    @property
    def left(self) -> int:
        """Tasks that are not done."""
        return sum(len(line.left) for line in self.lines)

    @property
    def seconds(self) -> float:
        """From the start to the last page."""
        busy = cost.makespan(self.dense, self.workers) + self.last({name: len(s) for name, s in self.stages.items()})
        return busy + (cost.START if busy else 0) + self.pages

    @property
    def pages(self) -> float:
        """Seconds of the notebooks, which only read rows."""
        return cost.PAGE * len(self.stages)

    def last(self, many: Mapping[str, int]) -> float:
        """Seconds of the last stages of the ablations, so many of each, with a barrier after each stage."""
        rounds = zip_longest(*(s[len(s) - many[name] :] for name, s in self.stages.items()), fillvalue=())
        return sum(cost.makespan(list(chain(*units)), self.workers) for units in rounds)


def of(asked: Sequence[Asked], command: str) -> str:
    """The plan as text; `command` is what runs it."""
    config = asked[0][1]
    plan, told = _now(asked)
    names = ", ".join(ablation.name for ablation, _ in asked)
    units = f"{len(asked) * len(config.seeds)} units (ablation, seed)"
    head = f"{names}: profile {config.profile}, seeds {list(config.seeds)}: {units} on {_processes(config)}"
    lacking = [f"missing: {line}" for line in lacks(asked)] or ["missing: nothing"]
    return "\n".join([head, "", *_table(plan), "", *_takes(asked, plan, told), *lacking, f"next: {command}"])


def _now(asked: Sequence[Asked]) -> tuple[Plan, str]:
    """The plan by the rows there are by now, and what its times come from."""
    config = asked[0][1]
    there = Store(config.profile).rows() if Store.exists(config.profile) else []
    published = earlier.published(config.profile, [c for _, c in asked])
    rows = "earlier rows" if there else f"the rows of figures/{config.profile}" if published else ""
    plan = made(asked, there, published)
    if there and plan.unread:  # as after `take` in a fresh clone
        have = "have" if plan.unread[1:] else "has"
        rows += f"; which of these are done shows once {', '.join(plan.unread)} {have} been read"
    return plan, rows or "a model of the cost alone"


def made(asked: Sequence[Asked], there: Sequence[Row], published: Sequence[Row]) -> Plan:
    """The plan from the rows that are there and those that somebody published."""
    config, found, claimed = asked[0][1], Found(there), set()
    known = {name: _record(c, name) for _, c in asked for name in c.every_dataset}
    images = (known[config.upstream].train, known[config.upstream].test) if known[config.upstream] else None
    prints = {name: record.fingerprint if record else "" for name, record in known.items()}
    seeds = list(dict.fromkeys(map(config.dense_seed, config.seeds)))
    dense = {seed: identity.of_dense(config, seed, prints[config.upstream]) for seed in seeds}
    own, none = earlier.own(there, published), dict.fromkeys(seeds, "")
    one = Costs(config, own, images, published).dense(earlier.dense_seconds(config))
    wanted_dense = seeds if any(ablation.prunes for ablation, _ in asked) else []
    untrained = [one for seed in wanted_dense if not dense[seed]]
    lines = [Line("dense models", len(wanted_dense), len(wanted_dense) - len(untrained), untrained)]
    stages: dict[str, list[list[float]]] = {ablation.name: [] for ablation, _ in asked}
    costs = {ablation.name: Costs(c, own, images, published) for ablation, c in asked}
    for ablation, c in asked:
        world, kinds = World(prints, dense if ablation.prunes else none), dict[str, list]()
        for stage in ablation.stages:
            before, units = wanted.rows_of(ablation, c, world, found, before=stage), []
            for seed in c.seeds:
                mine = [t for t in wanted.listed(stage, c, seed, world, before) if identity_of(t) not in claimed]
                claimed.update(map(identity_of, mine))
                todo = [None if found.of(task) else costs[ablation.name].of(task) for task in mine]
                for task, estimate in zip(mine, todo):
                    kinds.setdefault(task.columns["phase"], []).append(estimate)
                units.append(sum(estimate.seconds for estimate in todo if estimate))
            stages[ablation.name].append(units)
        for phase, all_of_it in kinds.items():
            left = [estimate for estimate in all_of_it if estimate]
            lines.append(Line(f"{ablation.name}, {phase}", len(all_of_it), len(all_of_it) - len(left), left))
    unread = [name for name, record in known.items() if not record]
    return Plan(lines, [one.seconds for one in untrained], stages, costs, _workers(config), unread)


def short(asked: Sequence[Asked]) -> str:
    """What is asked for, what of it is left, and how long that takes, in a line."""
    config = asked[0][1]
    plan, told = _now(asked)
    names = ", ".join(ablation.name for ablation, _ in asked)
    said = f"{names}: profile {config.profile}, seeds {list(config.seeds)}: "
    if not plan.left:
        return said + "all is measured"
    return f"{said}{plan.left} to measure on {_processes(config)}, {_about(plan, told)}"


def lacks(asked: Sequence[Asked]) -> Iterator[str]:
    """What is not there and has to be, a line each: data, weights, packages."""
    config = asked[0][1]

    def lacking(name: str) -> str:
        try:
            return catalog.check(name, config.data_path) or ""
        except (ValueError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(32) as pool:  # each may wait for a host that does not answer
        yield from filter(None, pool.map(lacking, dict.fromkeys(name for _, c in asked for name in c.every_dataset)))
    if config.checkpoint_path and not os.path.isfile(config.checkpoint_path):  # noqa: PTH113 (raises for no name)
        yield f"the checkpoint {config.checkpoint}"
    if config.pretrained:
        yield f"timm's weights of {config.model}, unless they were downloaded before"
    package = checks.EXTRA.get(config.engine)
    if package and not find_spec(package):
        yield f"the package {package}: pip install -e '.[{config.engine}]'"


def _processes(config: Parameters) -> str:
    count, threads = _workers(config), f"{config.threads} thread{'s' * (config.threads > 1)}"
    return f"{count} process{'es' * (count > 1)} of {threads} ({config.engine})"


def _about(plan: Plan, told: str) -> str:
    """How long a plan takes, and how far that may be off."""
    work = [estimate for line in plan.lines for estimate in line.left]
    busy = sum(estimate.seconds for estimate in work)
    factor = sum(e.seconds * e.factor for e in work) / busy if busy else 1.2
    low, high = time_of(plan.seconds / factor), time_of(plan.seconds * factor)
    return f"about {time_of(plan.seconds)} ({low} to {high}) on cores that do nothing else, by {told}"


def _workers(config: Parameters) -> int:
    return machine.workers(config.workers, config.device, config.threads)


def _record(config: Parameters, name: str) -> manifest.Record | None:
    return manifest.known(paths.cache(), name, config.data_path)


def _table(plan: Plan) -> list[str]:
    wide = max(len(line.what) for line in plan.lines)
    out = [f"{'':{wide}}  {'tasks':>6} {'done':>6} {'left':>6}  {'one worker':>12}"]
    for what, asked, done, left in plan.lines:
        out.append(f"{what:{wide}}  {asked:6} {done:6} {len(left):6}  {time_of(sum(e.seconds for e in left)):>12}")
    return out


def _takes(asked: Sequence[Asked], plan: Plan, told: str) -> list[str]:
    """Time, memory and disk."""
    config = asked[0][1]
    out = [f"time: {_about(plan, told)}"]
    if (one := cost.memory(config)) is not None:
        free = psutil.virtual_memory().available / 1e9
        out.append(f"memory: about {one:.1f} GB a process, {one * _workers(config):.1f} of {free:.0f} GB that are free")
    record = _record(config, config.upstream)
    rows = sum(len(line.left) for line in plan.lines)
    disk = rows * (4 * ROW + IMAGE * (record.test if record else cost.IMAGES)) / 1e6
    shape = cost.shape(config)
    disk += 16 * shape.prunable / 1e6 * plan.lines[0].asked if shape else 0
    home = next(folder for folder in (paths.home(), *paths.home().parents) if folder.exists())
    files = {name for _, c in asked for name in c.every_dataset if catalog.find(name).reader in ("archives", "folders")}
    known = filter(None, (_record(config, name) for name in sorted(files)))
    kept = cost.decoded(config, sum(one.train + one.test for one in known))
    kept -= sum(file.stat().st_size for file in paths.cache().glob("decoded-*.npy")) / 1e9
    more = f", and up to {kept:.1f} GB for decoded images," if kept >= 0.1 else ""
    out.append(f"disk: about {max(1, disk):.0f} MB{more} of {shutil.disk_usage(home).free / 1e9:.0f} GB that are free")
    return out


def time_of(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size or (unit == "min" and seconds >= 60):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
