"""Two studies of one profile share its tasks: as threads here, whose locks are as strange to each other as processes'."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident

import pytest
from conftest import quick

from ovit_core import disk
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.study import identity, registry, unit, wanted
from ovit_core.study.store import Measured, Store
from ovit_core.study.tasks import World, identity_of

CONFIG = quick(NoWeightUpdate, "profile=tiny", "workers=1")
GIVEN = unit.Given("no_weight_update", CONFIG.model_dump())
WORLD = World({"glyph_letters": "x"}, {0: "y"})


@pytest.fixture
def todo():
    """A seed's searches of lambda."""
    return wanted.listed(registry.get("no_weight_update").stages[0], CONFIG, 0, WORLD, [])


@pytest.fixture
def done(tmp_path, monkeypatch):
    """(thread, task) of everything that is measured, a hundredth of a second each."""
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    found = []

    def slowly(_given, _seed, task, _world, tell=None):
        time.sleep(0.01)
        found.append((get_ident(), identity_of(task)))
        return unit.Outcome(
            [Measured(dict(task.columns) | dict(metric=metric, value=0.5)) for metric, _ in task.metrics]
        )

    monkeypatch.setattr(unit, "one", slowly)
    return found


def study(todo):
    assert unit.tasks(GIVEN, 0, todo, WORLD, "a grid") == unit.Outcome()


def test_two_at_once_do_nothing_twice_and_about_half_each(todo, done):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(study, [todo, todo]))
    assert sorted(map(repr, {task for _, task in done})) == sorted(repr(identity_of(task)) for task in todo)
    assert len(done) == len(todo) == len(Store("tiny").rows())
    threads = [thread for thread, _ in done]
    assert min(map(threads.count, threads)) > len(todo) / 3


@pytest.mark.parametrize("fails", [False, True], ids=["it does it", "it fails"])
def test_what_another_is_at_comes_last_and_is_done_if_the_other_did_not(todo, done, fails):
    claim = lambda task: identity.claim("tiny", task)
    at, rest = todo[0], [task for task in todo if claim(task) != claim(todo[0])]
    with ThreadPoolExecutor(1) as pool:
        with disk.claimed(claim(at)) as mine:
            assert mine
            other = pool.submit(study, todo)
            while len(done) < len(rest):
                time.sleep(0.01)
            assert identity_of(at) not in [task for _, task in done] and not other.done()
            if not fails:
                Store("tiny").add(unit.one(GIVEN, 0, at, WORLD).value)
                done.pop()
        other.result()
    assert (identity_of(at) in [task for _, task in done]) == fails and len(Store("tiny").rows()) == len(todo)
