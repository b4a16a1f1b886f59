"""How far it is: a line now and then in a log, one line in any terminal, and an estimate that learns."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import redirect_stderr
from io import StringIO
from types import SimpleNamespace

import pytest
from conftest import quick

from ovit_core import progress
from ovit_core.ablations.no_weight_update.parameters import NoWeightUpdate
from ovit_core.study import cost, course, earlier, paths, plan, registry
from ovit_core.study.store import Store

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S.*")
CHILD = """
from ovit_core.progress import progress
with progress(total=6, desc="measuring", bar_format=FORMAT) as bar:
    for _ in range(6):
        bar.update()
        bar.set_postfix_str("about 3 min left | " + " | ".join(f"worker {i}: one_shot of ovit at 0.9" for i in range(8)))
"""


def seen_in_a_terminal(code, columns):
    """What a program writes to a terminal that has so many columns; with 0, to one that does not know."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    names = {"COLUMNS", "LINES", progress.ENVIRONMENT}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=slave, stderr=slave, env=environment, cwd=paths.ROOT, close_fds=True
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            seen += (piece := os.read(master, 65536))
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
    os.close(master)
    assert running.wait() == 0, seen.decode()
    return seen.decode()


@pytest.mark.notebook
@pytest.mark.parametrize("columns, most", [(0, 79), (50, 49), (300, 159)])
@pytest.mark.parametrize("shape", [None, course.SHAPE], ids=["a loop", "a run"])
def test_a_bar_is_one_line_in_any_terminal(columns, most, shape):
    seen = seen_in_a_terminal(CHILD.replace("FORMAT", repr(shape)), columns)
    drawn = [piece for piece in seen.split("\r") if piece.strip()]
    assert "\n" not in seen and max(map(len, drawn)) == most
    assert drawn[0].startswith("measuring:") and "|" in drawn[0] and any("100%" in piece for piece in drawn)
    assert any("6/6, about 3 min left" in piece for piece in drawn) or columns == 50 or shape is None


def test_a_log_gets_a_line_now_and_then_and_none_of_what_is_done_at_once(monkeypatch):
    monkeypatch.delenv(progress.ENVIRONMENT, raising=False)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(modules={}, stderr=(log := StringIO())))
    assert list(progress.progress(range(1000), desc="quick")) == list(range(1000)) and log.getvalue() == ""
    clock, shown = 0.0, []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    with progress.progress(total=36_000, desc="measuring") as bar:
        for clock in range(0, 36_000, 10):  # ten hours
            bar.n = int(clock)
            bar.set_postfix_str("about 1 h left")
            shown.append(log.getvalue().count("\n"))
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue() and all(map(LINE.fullmatch, lines))
    assert lines[0].endswith(" 30/36000, about 1 h left; measuring")
    assert shown[300 // 10] == 10 and shown[3600 // 10] < 40 and 40 < len(lines) < 70  # rarer and rarer


def test_lines_for_another_process_s_log_go_there_and_the_file_is_closed(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.ENVIRONMENT, str(tmp_path / "log"))
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "RAREST", -1.0)  # every word is due
    with redirect_stderr(StringIO()) as own, progress.progress(total=2, desc="training") as bar:
        bar.set_postfix_str("two to go | a | b")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-1].endswith(" 0/2, two to go; training: a | b") and all(map(LINE.fullmatch, lines))
    assert own.getvalue() == "" and bar.own.closed
    monkeypatch.setenv(progress.ENVIRONMENT, str(tmp_path / "no" / "log"))
    assert list(progress.progress("ab")) == ["a", "b"]


def test_the_time_left_of_a_stage_begins_with_what_is_expected_and_ends_with_what_is_seen():
    left = lambda *about: course._left(*about, rest=0)
    assert left(100, 0, 0) == (100, 0)
    assert left(100, 25, 0.25) == (pytest.approx(75), 0)
    assert left(100, 100, 0.5)[0] == pytest.approx(100)  # twice as slow as expected, and for long enough to believe it
    assert 100 < left(100, 20, 0.1)[0] + 20 < 200  # at first it believes both
    assert left(100, 500, 0)[0] == pytest.approx(50)  # never "0 s" while nothing is known to be done
    assert left(100, 70, 1)[0] == 0


def test_a_stage_speaks_for_the_rest_by_its_share():
    """A search of three tasks that waited for their images once made 2.3 days of the 2.4 hours after it."""
    assert course._left(7, 140, 1, 10_000)[1] == pytest.approx(10_000 * 10_140 / 10_007)
    assert course._left(100, 25, 0.25, 100) == (pytest.approx(75), pytest.approx(100))  # as expected
    assert course._left(100, 200, 1, 100)[1] == pytest.approx(150)  # half of all, twice as slow
    assert course._left(0, 3, 0.5, 100)[1] == 100  # where nothing was expected, the rest is not stretched


def row(phase, seconds, **more):
    return dict(phase=phase, dataset="a", method="ovit", seconds=seconds) | more


def test_seconds_of_another_machine_are_stretched_to_this_one_s():
    config = quick(NoWeightUpdate)
    published = [row("one_shot", 1.0, seed=0), row("one_shot", 3.0, seed=1), row("recovered", 10.0, epochs=1)]
    task = lambda phase, epochs="": SimpleNamespace(
        columns=dict(phase=phase, dataset="a", method="ovit", epochs=epochs), metrics=[("top1", "all")]
    )
    there = cost.Costs(config, [], None, published)
    assert there.of(task("one_shot")).seconds == 2 and there.of(task("recovered", 1)).seconds == 10
    here = cost.Costs(config, [row("one_shot", 6.0, seed=0)], None, published)  # three times as slow
    assert here.of(task("one_shot")).seconds == 6 and here.of(task("recovered", 1)).seconds == pytest.approx(30)


def test_a_run_is_counted_over_all_stages_and_says_when_it_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    ablation = registry.get("no_weight_update")
    asked = [(ablation, quick(NoWeightUpdate, "workers=1"))]
    said = []
    bar = SimpleNamespace(n=0, total=1, say=said.append, set_postfix_str=said.append)
    bar.set_description_str = lambda what, refresh: None
    way = course.Course(asked, Store("quick"), bar)
    whole = plan.made(asked, [], earlier.published("quick"))
    assert bar.total == whole.left > 100
    assert way.rest == pytest.approx(whole.seconds - sum(whole.dense) - cost.START - whole.pages)
    assert whole.pages == cost.PAGE
    clock = 0.0
    monkeypatch.setattr(course.time, "monotonic", lambda: clock)
    with way.stage("lambda_search", 100, seconds=50.0) as tell:
        assert said.pop() == f"about {plan.time_of(50 + way.rest + cost.PAGE)} left"
        clock = 50.0
        tell(50, ["ovit: 3/4"])
        after = way.rest * (100 + way.rest) / (50 + way.rest)
        assert said.pop() == f"about {plan.time_of(50 + after + cost.PAGE)} left | ovit: 3/4" and bar.n == 50
        clock = 90.0
    after = way.rest * (90 + way.rest) / (50 + way.rest)
    assert said == [f"100/{whole.left}, about {plan.time_of(after + cost.PAGE)} left; lambda_search: 100 in 1.5 min"]
    with way.stage("datasets", 1, counts=False) as tell:
        tell(1, [])
    assert bar.n == way.done == 100 and len(said) == 3  # two words of its own, and no line
