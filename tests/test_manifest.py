"""Fingerprints of image files are those of their content, and what is known of a file is not read again."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovit_core.data import files, loading, manifest
from ovit_core.study.paths import ROOT

CLOCK = time.time  # before a test moves it


def draw(path, seed):
    """A BMP: all of them have the same size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path):
    """Two classes, four training and two test pictures each."""
    for i, (part, c, n) in enumerate((p, c, n) for p, k in (("train", 4), ("test", 2)) for c in "ab" for n in range(k)):
        draw(tmp_path / "pets" / part / c / f"{n}.bmp", i)
    return tmp_path / "pets"


@pytest.fixture
def clock(monkeypatch):
    """Moves the clock by so many seconds; by ten beforehand, so that files made just now are not young."""

    def move(seconds):
        monkeypatch.setattr(manifest.time, "time", lambda: CLOCK() + seconds)

    move(10)
    return move


@pytest.fixture
def examined(monkeypatch):
    """The names of files that were read and examined, in no order."""
    seen = []
    monkeypatch.setattr(loading, "examine", lambda path, content: seen.append(path) or files.examine(path, content))
    return seen


def fingerprint(pets, cache=None):
    return loading.load("folder:pets", pets.parent, cache=cache).fingerprint


@pytest.mark.parametrize("cached", [True, False])
def test_an_image_replaced_by_another_of_its_size_and_time_changes_the_fingerprint(pets, tmp_path, clock, cached):
    cache = tmp_path / "cache" if cached else None
    before, path = fingerprint(pets, cache), pets / "train" / "a" / "1.bmp"
    stat = path.stat()
    draw(path, 99)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert fingerprint(pets, cache) != before


def test_the_fingerprint_is_of_content_names_and_labels_and_not_of_the_place(pets, tmp_path):
    before = fingerprint(pets)
    pets.rename(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "data" / "pets")
    pets = tmp_path / "data" / "pets"
    assert fingerprint(pets) == before
    (pets / "train" / "a" / "0.bmp").rename(pets / "train" / "a" / "00.bmp")
    named = fingerprint(pets)
    assert named != before
    (pets / "train" / "a" / "00.bmp").rename(pets / "train" / "b" / "00.bmp")
    assert fingerprint(pets) not in (before, named)


def test_files_that_changed_places_with_their_folders_are_told_apart(pets, tmp_path, clock):
    """All of one size; with one time of change too, as where an archive was unpacked in one tick of the clock."""
    before = fingerprint(pets, tmp_path)
    with sqlite3.connect(tmp_path / manifest.FILE) as db:
        db.execute("UPDATE files SET mtime_ns = 1, ctime_ns = 1")
    with pytest.MonkeyPatch.context() as patch:
        real = manifest.Stamp.of
        patch.setattr(manifest.Stamp, "of", lambda path: real(path)._replace(mtime_ns=1, ctime_ns=1))
        assert fingerprint(pets, tmp_path) == before
        for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
            (pets / "train" / old).rename(pets / "train" / new)
        assert fingerprint(pets, tmp_path) != before


def test_unchanged_files_are_not_read_again(pets, tmp_path, clock, examined, monkeypatch):
    before = fingerprint(pets, tmp_path / "cache")
    assert len(examined) == 12
    draw(pets / "test" / "b" / "1.bmp", 99)
    opened, real = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or real(path))
    assert fingerprint(pets, tmp_path / "cache") != before
    assert opened == examined[12:] == [pets / "test" / "b" / "1.bmp"]


def test_a_file_that_may_still_change_unseen_is_read_again(pets, tmp_path, examined, monkeypatch):
    path = pets / "train" / "a" / "1.bmp"
    monkeypatch.setattr(manifest.time, "time", lambda: path.stat().st_ctime + 1)  # one second old
    fingerprint(pets, tmp_path)
    fingerprint(pets, tmp_path)
    assert examined.count(path) == 2
    monkeypatch.setattr(manifest.time, "time", lambda: CLOCK() + 10)
    fingerprint(pets, tmp_path)
    fingerprint(pets, tmp_path)
    assert examined.count(path) == 3


def test_a_file_that_is_written_to_while_it_is_read_is_read_again(pets, tmp_path, clock, monkeypatch):
    path = pets / "train" / "a" / "1.bmp"

    def examine(at, content):
        if at == path:
            draw(path, 99)

    monkeypatch.setattr(loading, "examine", examine)
    before = fingerprint(pets, tmp_path)
    monkeypatch.setattr(loading, "examine", files.examine)
    assert fingerprint(pets, tmp_path) != before


def test_a_clock_set_back_gives_no_old_digest(pets, tmp_path, clock, examined):
    """The clock passes a moment twice: another file bears the very times, and the inode, of an old one."""
    before = fingerprint(pets, tmp_path)
    path = pets / "train" / "a" / "1.bmp"
    draw(path, 99)
    with sqlite3.connect(tmp_path / manifest.FILE) as db:
        columns = ("mtime_ns", "ctime_ns", "inode")
        stamp = [getattr(manifest.Stamp.of(path), column) for column in columns]
        db.execute(f"UPDATE files SET {' = ?, '.join(columns)} = ? WHERE path = ?", (*stamp, os.fsencode(path)))
    clock(-3600)
    assert fingerprint(pets, tmp_path) != before and len(examined) == 24
    fingerprint(pets, tmp_path)
    assert len(examined) == 36  # nor are files of the future taken in


def test_files_of_an_older_check_are_examined_again(pets, tmp_path, clock, examined, monkeypatch):
    fingerprint(pets, tmp_path)
    monkeypatch.setattr(manifest, "CHECK", manifest.CHECK + 1)
    fingerprint(pets, tmp_path)
    assert len(examined) == 24


def test_a_bad_file_is_named_and_those_before_it_are_not_read_again(pets, tmp_path, clock, examined):
    path = pets / "test" / "b" / "1.bmp"  # the last
    path.write_bytes(path.read_bytes()[:-100])
    for _ in range(2):
        with pytest.raises(ValueError, match=f"cannot read image {path}"):
            fingerprint(pets, tmp_path)
    assert len(examined) == 12 + 1


def damage_all(path):
    path.write_bytes(b"no database, but long enough to be looked at as one " * 40)


def damage_pages(path):
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def damage_format(path):
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {manifest.FORMAT + 1}")


def another_file(path):
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE files (name TEXT)")


@pytest.mark.parametrize("damage", [damage_all, damage_pages, damage_format, another_file])
def test_a_damaged_manifest_is_set_aside_and_made_again(pets, tmp_path, clock, examined, caplog, damage):
    before = fingerprint(pets, tmp_path)
    for number in (1, 2):
        damage(tmp_path / manifest.FILE)
        bad = (tmp_path / manifest.FILE).read_bytes()
        caplog.clear()
        manifest._warn.cache_clear()
        assert fingerprint(pets, tmp_path) == before and len(examined) == 12 * (number + 1)
        assert (tmp_path / f"{manifest.FILE}.damaged-{number}").read_bytes() == bad
        (line,) = caplog.messages
        assert str(tmp_path / manifest.FILE) in line and f"damaged-{number}" in line and "\n" not in line
        assert fingerprint(pets, tmp_path) == before and len(examined) == 12 * (number + 1)


def test_a_folder_that_cannot_be_written_is_done_without(pets, tmp_path, clock, caplog):
    (tmp_path / "file").write_text("no folder")
    manifest._warn.cache_clear()
    assert fingerprint(pets, tmp_path / "file" / "cache") == fingerprint(pets) == fingerprint(pets, tmp_path / "file")
    assert len(caplog.messages) == 2 and all("cannot be used" in line for line in caplog.messages)  # one a folder


def test_what_a_dataset_held_is_known(pets, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    assert manifest.known(cache, "folder:pets", tmp_path) is None
    said = fingerprint(pets, cache)
    loading.load("digits", tmp_path, cache=cache)
    assert manifest.known(cache, "folder:pets", tmp_path)[:4] == (said, 8, 4, 2)
    assert manifest.known(cache, "digits", tmp_path)[1:4] == (1258, 539, 10)
    assert manifest.known(cache, "folder:pets", tmp_path / "other") is None
    monkeypatch.chdir(tmp_path)
    assert manifest.known(Path("cache"), "folder:pets", Path())[0] == said
    (cache / manifest.FILE).write_bytes(b"no database")
    assert manifest.known(cache, "folder:pets", tmp_path) is None


def hasher(pets, cache, more=""):
    """A process that loads the pictures, as if ten seconds later, and prints their fingerprint."""
    code = f"""
import sys, time
from pathlib import Path
from ovit_core.data import files, loading, manifest
clock = time.time
time.time = lambda: clock() + 10
{more}
print(loading.load("folder:pets", Path(sys.argv[1]), cache=Path(sys.argv[2])).fingerprint, flush=True)
"""
    run = [sys.executable, "-c", code, str(pets.parent), str(cache)]
    return subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.notebook
def test_two_processes_at_once(pets, tmp_path, clock, examined):
    """Both start at the same moment, with no manifest yet, and write after every file."""
    more = 'manifest.BATCH = 1\nprint("ready", flush=True)\nsys.stdin.readline()\nmanifest._warn = print'
    both = [hasher(pets, tmp_path / "cache", more) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in both]
    assert said == [fingerprint(pets, tmp_path / "cache") + "\n"] * 2 and examined == []


@pytest.mark.notebook
def test_killed_in_the_middle_it_goes_on_where_it_was(pets, tmp_path, clock, examined):
    more = """
real, seen = files.examine, []
def examine(path, content):
    if path.name == "3.bmp" and path.parent.name == "b":  # the eighth
        print("now", flush=True)
        time.sleep(60)
    real(path, content)
loading.examine = examine
manifest.BATCH = 2
"""
    process = hasher(pets, tmp_path / "cache", more)
    assert process.stdout.readline() == "now\n"
    time.sleep(1)  # the seven before it are written
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert fingerprint(pets, tmp_path / "cache") == fingerprint(pets)
    assert len(examined) == 12 + 6  # 12 without the manifest; six of the seven were in whole batches
