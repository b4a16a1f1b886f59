"""What goes wrong on the way costs one line and nothing that was measured; docs/faults.md names each of these tests."""

import errno
import os
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from threading import Event, Timer

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from conftest import TINY as MODEL
from PIL import Image

from ovit_core import disk, masks, training
from ovit_core.ablations.no_weight_update.run import Seed
from ovit_core.ablations.transfer.parameters import Transfer
from ovit_core.progress import told_to
from ovit_core.study import dense, export, grid, paths, profiles, registry, unit
from ovit_core.study.__main__ import main
from ovit_core.study.store import Images, Measured, Store
from ovit_core.study.tasks import COLUMNS

SMALL = [
    "profile=tiny", "upstream=digits", "epochs=1", f"model_args={MODEL}", "seeds=[0]", "gradients=8", "damps=[1.0e-5]",
    "methods=[ovit, magnitude]", "sparsities=[0.9]", "regimes=[global]", "recovery_methods=[ovit]", "workers=1",
    "recovery_sparsities=[0.9]", "recovery_images=200", "recovery_epochs=[1]", "recovery_lrs=[5.0e-4]", "gradual_methods=[ovit]", "batch_size=32",
    "sensitivity_draws=[]", "damp_checks=[]",
    "sensitivity_damps=[]", "datasets=[digits]", "protocols=[linear]", "transfer_methods=[ovit]",
    "transfer_sparsities=[0.9]", "probe_Cs=[0.1]",
]  # fmt: skip

TRANSFER = [
    word for setting in SMALL for word in ("--set", setting) if setting.partition("=")[0] in Transfer.model_fields
]


def asked(*more, only=None):
    """Ablations with the small parameters, as the command line has them."""
    values = profiles.read_profile("quick", [*SMALL, *more])
    ablations = [registry.get(only)] if only else list(registry.ablations().values())
    return [(ablation, registry.build(ablation.parameters, values)) for ablation in ablations]


def numbers(rows):
    """Rows without what may differ between two runs, the order too."""
    kept = [{k: v for k, v in row.items() if k not in ("seconds", "device", "commit")} for row in rows]
    return sorted(kept, key=repr)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path))
    unit._seeds.clear()
    return tmp_path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The folder of a study that nothing happened to."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVIT_STUDY_DIR", str(folder))
        assert grid.measure(asked()) == []
        for ablation, config in asked():
            grid.run(ablation, config).export()
    return folder


@pytest.fixture
def copied(sound, home):
    """A copy of it, to do harm to."""
    for file in sound.rglob("*"):
        if file.is_file():
            (home / file.relative_to(sound)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, home / file.relative_to(sound))
    return home


# Damage to files.

GARBAGE = {"empty": b"", "garbage": b"\x80\x04garbage" * 50, "zeros": bytes(4096)}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_cached_model_that_cannot_be_read_is_set_aside_and_made_again(copied, caplog, content):
    (model,) = (copied / "cache").glob("dense-*.safetensors")
    before, rows = model.read_bytes(), numbers(Store("tiny").rows())
    model.write_bytes(content)
    assert grid.measure(asked()) == []
    assert (
        model.read_bytes() == before and numbers(Store("tiny").rows()) == rows
    )  # the same model: nothing measured anew
    assert f"{model} cannot be read" in caplog.text and f"set aside as {model.name}.damaged-1" in caplog.text
    assert (model.parent / f"{model.name}.damaged-1").read_bytes() == content


def test_a_cached_model_that_is_half_there_is_made_again(copied):
    (model,) = (copied / "cache").glob("dense-*.safetensors")
    before = model.read_bytes()
    model.write_bytes(before[: len(before) // 2])
    assert grid.measure(asked()) == [] and model.read_bytes() == before


def test_rows_of_another_dense_model_are_not_taken_for_those_of_this_one(copied):
    """A file that can be read and holds other weights."""
    (file,) = (copied / "cache").glob("dense-*.safetensors")
    (_, config), _ = asked()
    model = dense.upstream(config, 0).model
    before = len(Store("tiny").rows())
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    masks.save(model, file)
    unit._seeds.clear()
    assert grid.measure(asked()) == [] and len(Store("tiny").rows()) == 2 * before


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_resume_file_that_cannot_be_read_is_set_aside_and_training_begins_anew(sound, home, caplog, content):
    (model,) = (sound / "cache").glob("dense-*.safetensors")
    (home / "cache").mkdir()
    resume = home / "cache" / model.with_suffix(".resume.pt").name
    resume.write_bytes(content)
    assert grid.measure(asked()) == []
    assert (home / "cache" / model.name).read_bytes() == model.read_bytes()
    assert f"set aside as {resume.name}.damaged-1" in caplog.text and not resume.exists()


@pytest.mark.parametrize("content", [b"", b"no database" * 100], ids=["empty", "garbage"])
def test_a_damaged_store_is_one_line_before_any_work(copied, capsys, monkeypatch, content):
    store = copied / "results" / "tiny.sqlite"
    whole = store.read_bytes()
    store.write_bytes(content or whole[:5000] + bytes(len(whole) - 5000))
    monkeypatch.setattr(dense, "upstream", None)  # nothing is begun
    (copied / "results" / "tiny.sqlite-wal").unlink(missing_ok=True)
    assert main(["quick", *(word for setting in SMALL for word in ("--set", setting))]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: {store} is damaged, or no SQLite database") and "move it away" in said
    assert said.count("\n") == 0


@pytest.mark.parametrize("change", ["DROP COLUMN n_test", "ADD COLUMN n_test_too NOT NULL DEFAULT 0"])
def test_a_store_of_other_columns_is_named_and_is_no_full_disk(home, change):
    """One that an older version of the study has made, or a newer one, in which no row would be kept."""
    Store("tiny")
    with closing(sqlite3.connect(paths.rows("tiny"))) as db:
        db.execute(f"ALTER TABLE rows {change}")
    name = change.split()[2]
    with pytest.raises(ValueError, match=rf"tiny.sqlite is of another version .* in the columns {name}: move it away"):
        Store("tiny")


def test_what_a_killed_process_left_half_made_is_removed(home):
    gone = next(pid for pid in range(2**22 - 1, 0, -1) if not psutil.pid_exists(pid))
    mine, theirs = (home / f".page.{disk.HOST}.{pid}{disk.PARTIAL}" for pid in (os.getpid(), gone))
    for folder in (mine, theirs):
        folder.mkdir(parents=True)
        (folder / "page.ipynb").write_text("{}")
    disk.sweep(home)
    assert mine.is_dir() and not theirs.exists()
    with disk.scratch(home) as made:
        (made / "x").write_text("x")
        disk.sweep(home)
        assert (made / "x").is_file()
    assert not made.exists()


DAMAGE = {
    "half a last row": (lambda b: b[:-40], "line {last}: the last line is cut off"),
    "a row cut short": (lambda b: b[: b.rindex(b",", 0, -200)] + b"\n", "values for 41 columns"),
    "an empty value": (lambda b: b.replace(b",top1,", b",top1,,", 1), "values for 41 columns"),
    "zeros at the tail": (lambda b: b[:-100] + bytes(100), "zero bytes"),
    "empty": (lambda b: b"", "the file is empty"),
    "garbage": (lambda b: b"\x80\x04" * 50 + b"\n", "these are no rows of a study"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_results_are_named_with_their_line_and_set_aside_before_any_work(copied, capsys, caplog, how):
    path = copied / "runs" / "tiny" / "results.csv"
    harm, message = DAMAGE[how]
    whole = path.read_bytes()
    path.write_bytes(harm(whole))
    assert main(["report", "tiny"]) == 2  # which only reads: it says what to do
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}, line ") and said.count("\n") == 1
    assert message.format(last=whole.count(b"\n")) in said
    assert grid.measure(asked()) == []  # which can make it again
    assert f"set aside as {path.name}.damaged-1" in caplog.text
    for ablation, config in asked():
        grid.run(ablation, config).export()
    pd.testing.assert_frame_equal(export.read(path), export.table(export.read(path).to_dict("records")))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("value", ["", "inf", "nan", "-inf", "much"])
def test_a_value_that_is_no_number_is_not_read_as_one(tmp_path, value):
    row = dict.fromkeys(COLUMNS, "") | dict(method="ovit", phase="one_shot", seed=0, value=value)
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(str(row[c]) for c in COLUMNS) + "\n")
    with pytest.raises(ValueError, match=rf"results.csv, line 2: value is '{value}', not a number"):
        export.read(path)


def test_results_that_are_too_old_to_have_every_column_are_still_read(tmp_path):
    new = pd.read_csv(paths.ROOT / "figures" / "quick" / "results.csv", dtype=str, keep_default_na=False)
    new.drop(columns=["damp_rule", "passes", "shots"]).to_csv(tmp_path / "results.csv", index=False)
    old = export.read(tmp_path / "results.csv")
    assert list(old.columns) == COLUMNS and old.value.tolist() == new.value.astype(float).tolist()
    assert set(old.damp_rule) == {""} and old.passes.isna().all()


# Writing.


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_line_and_leaves_no_half_file(home, monkeypatch):
    disk.write(home / "kept", "old")
    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*kept: No space left on device; free some space"):
        disk.write(home / "kept", "new")
    assert (home / "kept").read_text() == "old" and [f.name for f in home.iterdir()] == ["kept"]


def test_a_full_disk_while_training_is_a_failure_in_words(home, monkeypatch):
    def refuse(path, _):
        raise disk.cannot_write(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(training.disk, "write", refuse)
    _, config = asked(only="transfer")[0]
    ((what, reason),) = unit.dense_model(unit.Given("transfer", config.model_dump()), 0, "").failures
    assert what == "dense model of seed 0" and "resume.pt: No space left on device; free some space" in reason


def test_a_full_store_is_one_line_and_keeps_what_it_has(copied):
    store, before = Store("tiny"), Store("tiny").rows()
    with sqlite3.connect(store.path) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    connect = sqlite3.connect

    def small(*args, **options):
        db = connect(*args, **options)
        db.execute(f"PRAGMA max_page_count = {pages}")
        return db

    row = dict(before[0])
    many = [Measured(row | dict(scope_name=f"x{i}" * 100)) for i in range(2000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        with pytest.raises(
            OSError, match=r"cannot write .*tiny\.sqlite: SQLite: database or disk is full; free some space"
        ):
            store.add(many)
    assert store.rows() == before


def test_output_that_cannot_be_written_is_one_line_at_once(monkeypatch, capsys):
    monkeypatch.setenv("OVIT_STUDY_DIR", "/proc/nowhere")
    begin = time.monotonic()
    assert main(["quick", *(word for setting in SMALL for word in ("--set", setting))]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: cannot write /proc/nowhere/results") and said.count("\n") == 0
    assert "name another folder by OVIT_STUDY_DIR" in said and time.monotonic() - begin < 10


class Stopped(Exception):
    pass


def test_who_waits_for_another_process_is_told_only_if_it_lasts_and_may_stop(home, monkeypatch, capfd, caplog):
    monkeypatch.setattr(disk, "PATIENCE", 2.0)
    holds, over, told = Event(), Event(), []

    def hold():
        with disk.lock(home / ".model.lock"):
            holds.set()
            over.wait(60)

    def stop(*what):
        told.append(what)
        if len(told) == 3:
            raise Stopped

    with ThreadPoolExecutor() as pool:  # a lock is a thread's own, as it is a process's
        pool.submit(hold)
        holds.wait()
        with pytest.raises(Stopped), told_to(stop), disk.locked(home / "model", "trains the dense model"):
            pytest.fail("two are inside")
        assert {what[0] for what in told} == {"waiting: another process trains the dense model"}
        Timer(0.2, over.set).start()  # one that merely looks is nobody's business
        unheard, again = told_to(lambda *what: pytest.fail(str(what))), disk.lock(home / ".model.lock")
        with unheard, disk.locked(home / "model", "trains"), pytest.raises(TimeoutError):
            again.acquire(blocking=False)
    assert caplog.text == "" and capfd.readouterr() == ("", "")


def test_leftovers_of_processes_that_are_no_more_are_removed(home):
    (home / "cache").mkdir()
    gone = home / "cache" / f".dense.safetensors.{disk.HOST}.{2**22 + 1}.partial"  # above the largest pid
    alive = home / "cache" / f".dense.safetensors.{disk.HOST}.{os.getpid()}.partial"
    elsewhere = home / "cache" / ".dense.safetensors.another_machine.1.partial"
    for file in (gone, alive, elsewhere):
        file.write_bytes(b"half")
    paths.check_writable("tiny")
    assert not gone.exists() and alive.exists() and elsewhere.exists()


def test_a_home_that_is_a_file_is_named_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVIT_STUDY_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot write .*file/results/.*Not a directory.*OVIT_STUDY_DIR"):
        paths.check_writable("tiny")


# What happens on the way.


def test_the_first_failure_is_the_first_that_came(home):
    """Not the first by the alphabet: "2 more" were not tried for what failed before."""
    (ablation, config), store = asked(only="no_weight_update")[0], Store("tiny")
    for what, why in (("one_shot of ovit", "the cause"), ("2 more, one_shot", "not tried after 3 failures")):
        store.fail(ablation.name, config, 0, what, why)
    first, second = store.failures(ablation.name, config)
    assert "the cause" in first and "not tried" in second


def test_a_loss_that_is_not_finite_fails_alone_and_shows_on_the_page_and_in_the_status(copied, monkeypatch):
    monkeypatch.setattr(unit, "_in_any_order", lambda tasks: sorted(tasks, key=str))  # else dense is the first by luck
    failures = grid.measure(asked("recovery_lrs=[1.0e+30]", only="no_weight_update"))
    assert len(failures) == 2 and all("the loss is nan after epoch" in failure for failure in failures)
    ablation, config = asked("recovery_lrs=[1.0e+30]", only="no_weight_update")[0]
    results = grid.run(ablation, config)
    assert set(results.rows.phase) >= {"one_shot", "gradual"} and "recovered" not in set(results.rows.phase)
    assert "**Not measured**: seed 0, recovered of ovit at 0.9 on digits: " in results.answers()
    with pytest.raises(RuntimeError, match="2 could not be measured; the first: seed 0, recovered of dense on digits"):
        results.export()
    assert len(export.read(paths.runs("tiny") / "results.csv"))
    again = asked(only="no_weight_update")  # mended: the page says so no more
    assert grid.measure(again) == [] and grid.run(*again[0]).failures == ()


def test_a_unit_that_fails_stops_no_other(home, monkeypatch):
    upstream = dense.upstream

    def broken(config, seed):
        if seed == 1:
            raise OSError(errno.EIO, "Input/output error")
        return upstream(config, seed)

    monkeypatch.setattr(dense, "upstream", broken)
    failures = grid.measure(asked("seeds=[0, 1, 2]", "dense_per_seed=true", only="transfer"))
    assert failures == ["transfer, seed 1, dense model of seed 1: [Errno 5] Input/output error"]
    ablation, config = asked("seeds=[0, 1, 2]", "dense_per_seed=true", only="transfer")[0]
    assert set(grid.run(ablation, config.replace()).rows.seed) == {0, 2}


def test_a_gpu_that_is_lost_on_the_way_is_a_failure_in_words(copied, monkeypatch):
    def lost(self, task):
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")

    monkeypatch.setattr(Seed, "one_shot", lost)
    failures = grid.measure(asked("sparsities=[0.9, 0.8]", only="no_weight_update"))
    assert len(failures) == 2  # the new sparsity of both methods; what was there stays
    assert failures[0].endswith("CUDA error: unspecified launch failure CUDA kernel errors might be reported later")


def test_after_three_failures_in_a_row_a_method_is_given_up_and_the_others_go_on(copied, monkeypatch):
    calls, one_shot = [], Seed.one_shot

    def broken(self, task):
        calls.append(task.columns["method"])
        return one_shot(self, task) if task.columns["method"] == "ovit" else 1 / 0

    monkeypatch.setattr(Seed, "one_shot", broken)
    failures = grid.measure(asked("sparsities=[0.1, 0.2, 0.3, 0.4, 0.5]", only="no_weight_update"))
    assert calls.count("magnitude") == 3 and calls.count("ovit") == 5
    assert failures[-1].endswith("2 more, one_shot of magnitude: not tried after 3 failures one after the other")
    assert len(failures) == 4 and "ZeroDivisionError: division by zero" in failures[0]


def test_what_waits_for_a_search_that_failed_is_not_measured_at_something_else(home, monkeypatch):
    """Not even where a method has a lambda of its own to fall back on."""
    monkeypatch.setattr(Seed, "search", lambda self, task: 1 / 0)
    failures = grid.measure(asked(only="no_weight_update"))
    assert {row["method"] for row in Store("tiny").rows()} == {"dense", "magnitude"}
    assert (
        sum("no lambda was found: its search is not complete" in failure for failure in failures) >= 4
    )  # one-shot, layers, trained


def test_another_dense_model_or_other_images_than_at_the_start_stop_every_task(copied):
    ablation, config = asked(only="transfer")[0]
    world = Store("tiny").recall("transfer", config)
    tasks = [t for t in ablation.stages[-1](config, 0, world, []) if t.columns["method"] == "dense"]
    given = unit.Given("transfer", config.model_dump())
    for other in (replace(world, fingerprints={"digits": "other"}), replace(world, dense={0: "other"})):
        for _ in range(2):
            ((_, reason),) = unit.one(given, 0, tasks[0], other, b"").failures
            assert "start anew" in reason or "cannot be read" in reason
        unit._seeds.clear()


def test_a_study_with_other_parameters_takes_nothing_from_the_page_of_this_one(copied):
    ablation, config = asked(only="transfer")[0]
    before = grid.run(ablation, config).rows
    other = asked("transfer_methods=[magnitude]", "seeds=[1]", "dense_per_seed=true", only="transfer")
    assert grid.measure(other) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(grid.ONLY_READ, "1")
        pd.testing.assert_frame_equal(grid.run(ablation, config).rows, before)


def test_rows_that_are_not_there_are_told(copied):
    ablation, config = asked(only="transfer")[0]
    with closing(sqlite3.connect(Store("tiny").path)) as db:
        where = "phase = 'linear' AND method = 'ovit' AND source_phase = 'one_shot' AND shots = ''"
        assert db.execute(f"DELETE FROM rows WHERE {where}").rowcount
        db.commit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(grid.ONLY_READ, "1")
        assert grid.run(ablation, config).failures == ("1 measurements are not there",)


def test_training_is_taken_up_until_its_rows_are_kept(home, monkeypatch):
    """A full store after hours of training does not cost them."""
    add, (ablation, config) = Store.add, asked("recovery_epochs=[2]", only="no_weight_update")[0]

    def refuse(self, measured):
        if any(one.row["phase"] in ("recovered", "gradual") for one in measured):
            raise disk.cannot_write(self.path, OSError(errno.ENOSPC, "SQLite: database or disk is full"))
        return add(self, measured)

    monkeypatch.setattr(Store, "add", refuse)
    assert len(grid.measure([(ablation, config)])) == 4  # dense and oViT, recovered and gradual
    assert len(list((home / "cache").glob("resume-*"))) == 2  # of those pruned gradually
    assert len(list((home / "cache").glob("recovered-*.safetensors"))) == 2  # whole models, which others begin with
    monkeypatch.setattr(Store, "add", add)
    steps = []
    monkeypatch.setattr(training, "_seeded", lambda *_: steps.append(1) or nullcontext())
    assert grid.measure([(ablation, config)]) == [] and not steps  # no epoch is trained again
    assert not list((home / "cache").glob("resume-*"))


def pictures(folder, shade=0):
    """A set of two classes, four images each to train and two to test."""
    for part, count in (("train", 4), ("test", 2)):
        for c in ("a", "b"):
            (folder / part / c).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = np.full((32, 32, 3), 20 * i + shade + 100 * (c == "b"), np.uint8)
                Image.fromarray(pixels).save(folder / part / c / f"{i}.bmp")  # of one size whatever is on it


def test_a_dataset_that_vanishes_is_named_and_the_others_go_on(copied):
    pictures(copied / "data" / "mine")
    more = ["datasets=[digits, 'folder:mine']", "few_shots=[]", f"data_dir={copied / 'data'}"]
    assert grid.measure(asked(*more, only="transfer")) == []
    shutil.rmtree(copied / "data" / "mine" / "test")
    (failure,) = grid.measure(asked(*more, "transfer_methods=[ovit, magnitude]", only="transfer"))
    assert failure.startswith("transfer, folder:mine: folder:mine needs the folders ")
    ablation, config = asked(*more, "transfer_methods=[ovit, magnitude]", only="transfer")[0]
    rows = grid.run(ablation, config).rows
    assert set(rows[rows.method == "magnitude"].dataset) == {"digits"}


def test_images_replaced_by_others_of_the_same_names_and_sizes_are_measured_anew(home):
    pictures(home / "data" / "mine")
    more = ["datasets=['folder:mine']", "few_shots=[]", f"data_dir={home / 'data'}"]
    measure = lambda: grid.measure(asked(*more, only="transfer"))
    linear = lambda: [row for row in Store("tiny").rows() if row["dataset"] == "folder:mine"]
    assert measure() == [] and (before := len(linear()))
    compared = {row["n_test"] for row in linear() if row["metric"] == "cka"}
    assert compared == {6}  # two images of validation are too few to tell how alike features are
    times = {file: (file.stat().st_atime_ns, file.stat().st_mtime_ns) for file in home.rglob("*.bmp")}
    pictures(home / "data" / "mine", shade=7)
    for file, when in times.items():
        os.utime(file, ns=when)
    assert measure() == [] and len(linear()) == 2 * before


def test_a_clock_that_is_set_back_changes_nothing(sound, home, monkeypatch):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 10 * 365 * 86_400 + 60 * np.random.default_rng().random())
    assert grid.measure(asked()) == []
    mine = numbers(Store("tiny").rows())
    monkeypatch.setenv("OVIT_STUDY_DIR", str(sound))
    assert mine == numbers(Store("tiny").rows())


@pytest.mark.notebook
def test_a_notebook_that_raises_is_named_and_rows_are_kept(copied, monkeypatch, capsys):
    before = Store("tiny").rows()
    broken = copied / "transfer.ipynb"
    text = (paths.NOTEBOOKS / "transfer.ipynb").read_text()
    broken.write_text(text.replace('results.shown(\\"transfer\\")', "1 / 0"))
    monkeypatch.setattr(type(registry.get("transfer")), "notebook", property(lambda self: broken))
    assert main(["quick", "--only", "transfer", *TRANSFER]) == 1
    said = capsys.readouterr().err
    assert "error in transfer: ZeroDivisionError: division by zero" in said and "the same command continues" in said
    assert Store("tiny").rows() == before


def test_a_full_disk_while_a_page_is_kept_is_one_line_and_leaves_no_half_page(copied, monkeypatch, capsys):
    page = paths.runs("tiny") / "transfer.ipynb"
    disk.write(page, "old")

    def half(source, out, *_, **__):
        out.write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("papermill.execute_notebook", half)
    assert main(["quick", "--only", "transfer", *TRANSFER]) == 2
    said = capsys.readouterr().err
    assert f"error: cannot write {page}: No space left on device; free some space" in said and "Traceback" not in said
    assert page.read_text() == "old" and [f.name for f in page.parent.iterdir() if f.name[0] == "." or f.is_dir()] == []


# The store itself.


def test_what_is_behind_a_row_comes_back(home):
    g = np.random.default_rng(0)
    images = Images(g.random(1001) < 0.7, g.random(1001) * 5, g.random(1001))
    row = dict.fromkeys(COLUMNS, "") | dict(method="ovit", metric="top1", value=float(images.correct.mean()), seed=0)
    store = Store("tiny")
    store.add([Measured(row, images), Measured(row | dict(metric="cross_entropy", value=np.float32(1.5)))])
    store.add([Measured(row | dict(value=0.123))])  # the same measurement by another process: the first stays
    (found,) = store.images(store.rows()[:1])
    assert np.array_equal(found.correct, images.correct) and found.correct.mean() == store.rows()[0]["value"]
    np.testing.assert_allclose(found.loss, images.loss, rtol=1e-3)
    np.testing.assert_allclose(found.top, images.top, atol=1e-3)
    assert [r["metric"] for r in store.rows()] == ["top1", "cross_entropy"] and store.images(store.rows()[1:]) == [None]


def test_a_value_that_is_not_finite_is_not_kept(home):
    row = dict.fromkeys(COLUMNS, "") | dict(method="ovit", metric="cross_entropy", value=float("nan"))
    with pytest.raises(ValueError, match="cross_entropy of ovit is nan: not a number to keep"):
        Store("tiny").add([Measured(row)])
    with pytest.raises(KeyError, match="no such column: colour"):
        Store("tiny").add([Measured(row | dict(colour="red"))])


def test_every_column_that_identifies_a_row_is_never_null(home):
    store = Store("tiny")
    with sqlite3.connect(store.path) as db:
        columns = db.execute("PRAGMA table_info(rows)").fetchall()
        unique = db.execute("SELECT name FROM pragma_index_info('sqlite_autoindex_rows_1')").fetchall()
    assert all(column[3] for column in columns if column[1] != "id")
    assert len(unique) == 33
