"""Files that outlive what happens to a process: written whole or not at all, one writer at a time, set aside if damaged.

A kill or a full disk leaves the old file, or none, and never half of a new one.
"""

import errno
import logging
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from filelock import FileLock

from ovit_core.progress import progress

log = logging.getLogger(__name__)
PARTIAL = ".partial"
PATIENCE, LOOK = 1.0, 0.2  # seconds for a lock before it is said that there is somebody to wait for; between two tries
HOST = socket.gethostname().replace(".", "_")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A name to write a file under, which takes the place of `path` when the block ends well and is gone if it does not.

    A link at `path` is replaced, not followed, and so is one at the name that is written under.

    Raises:
        OSError: nothing can be written there, or the disk is full; names the file.
    """
    partial = path.with_name(f".{path.name}.{HOST}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # what is no folder has none, and the error above says so
            partial.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file whole. Raises OSError as `writing` does."""
    with writing(path) as partial, partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def cannot_write(path: Path, error: OSError) -> OSError:
    """The same error in one line that says what to do."""
    remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
    return OSError(
        f"cannot write {path}: {error.strerror or error}; {remedy}, or name another folder by OVIT_STUDY_DIR"
    )


def set_aside(path: Path, why: object) -> Path:
    """Renames a file that cannot be read, so that it is made again and can still be looked at; says so in the log."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        path.replace(aside)
    except FileNotFoundError:  # another process was faster
        return aside
    log.warning("%s cannot be read (%s): set aside as %s, and made again", path, first_line(why), aside.name)
    return aside


def first_line(error: object) -> str:
    """What an error says, its first line, as far as it is worth a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def shown(text: object, longest: int = 300) -> str:
    """A name, or what an error says, as a part of one line: what cannot be printed, such as the line break in a file's
    name, as Python escapes it, and cut off after the `longest` character.
    """
    text = str(text)
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:longest])
    return line + "..." * (len(text) > longest)


def meant(name: str, known: Iterable[str]) -> str:
    """How a line goes on that has named what there is not: by the nearest of what there is, or by nothing."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def without_link(path: Path) -> Path:
    """The same path, once a link in its place is removed: what is opened there is not to be written elsewhere."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    return path


def lock(path: Path) -> FileLock:
    """The lock of a lock file. A link in its place is removed: older versions of filelock empty what it leads to."""
    return FileLock(without_link(path))


def _beside(path: Path) -> FileLock:
    """The lock that stands for a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return lock(path.with_name(f".{path.name}.lock"))


@contextmanager
def locked(path: Path, why: str) -> Iterator[None]:
    """Only one process at a time is inside, of all that name the same `path`; the system unlocks it when one dies.

    Waiting has a bar as every long loop has: it is seen where it lasts, not where the other one merely looks, and
    whoever listens may end it.

    Args:
        path: beside which the lock lies.
        why: what the other one does, for the bar.
    """
    inside = _beside(path)
    try:
        inside.acquire(timeout=PATIENCE)
    except TimeoutError:
        with progress(total=1, desc=f"waiting: another process {why}") as bar:
            while not inside.is_locked:
                bar.refresh()
                with suppress(TimeoutError):
                    inside.acquire(timeout=LOOK)
    try:
        yield
    finally:
        inside.release()


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether no other process is inside, of all that name the same `path` here or in `locked`; if so, none will be until
    the end of the block.
    """
    inside = _beside(path)
    try:
        inside.acquire(timeout=0)
    except TimeoutError:
        yield False
        return
    try:
        yield True
    finally:
        inside.release()


def write_ahead(db: sqlite3.Connection) -> None:
    """Turns on a SQLite file's write-ahead log, with which others read while one writes. Unlike all else in SQLite the
    change does not wait for another process that makes it too.

    Raises:
        sqlite3.OperationalError: it cannot be turned on, or for five seconds not.
    """
    for attempt in range(50):
        try:
            if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if attempt == 49 or "locked" not in str(error):
                raise
            time.sleep(0.1)


def sweep(folder: Path) -> None:
    """Removes what processes of this machine that are no more left half written in a folder."""
    for left in folder.glob(f".*.{HOST}.*{PARTIAL}"):
        pid = left.name.removesuffix(PARTIAL).rpartition(".")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new folder in a folder, gone at the end of the block; after a kill `sweep` removes it."""
    with TemporaryDirectory(prefix=".", suffix=f".{HOST}.{os.getpid()}{PARTIAL}", dir=folder) as made:
        yield Path(made)
