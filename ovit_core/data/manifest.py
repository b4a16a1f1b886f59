"""What is known of image files, so that each is read once: their digests; and of datasets: their fingerprints.

A SQLite file in a study's cache, which several processes may use at once. It is a cache and nothing else: without it,
or where it cannot be written, files are read again. Imports neither torch nor Pillow, so that what a dataset held when
it was last loaded is known at once (`known`).
"""

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache as once
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from ovit_core import disk
from ovit_core.progress import each

log = logging.getLogger(__name__)
FILE = "manifest.sqlite"
FORMAT = 1  # of the tables below: a file of another format is set aside
CHECK = 1  # raised when `examine` refuses more than before: files are then examined again
SETTLED = 2.0  # seconds: a file younger than that may change once more without its times changing, as clocks tick
BATCH, SECONDS = 1000, 10.0  # a kill loses at most so many files, or what was read in so many seconds
TABLES = (
    "CREATE TABLE files (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER "
    "NOT NULL, inode INTEGER NOT NULL, digest BLOB NOT NULL, sound INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE datasets (name TEXT, data_dir BLOB, fingerprint TEXT NOT NULL, train INTEGER NOT NULL, test INTEGER "
    "NOT NULL, classes INTEGER NOT NULL, seen_at TEXT NOT NULL, PRIMARY KEY (name, data_dir)) WITHOUT ROWID",
)
T = TypeVar("T")


class Record(NamedTuple):
    """A dataset as it was when it was last loaded."""

    fingerprint: str
    train: int  # images, those that validation is carved from included
    test: int  # images
    classes: int
    seen_at: str = ""  # UTC, ISO 8601


class Stamp(NamedTuple):
    """What changes when a file's content does. The inode tells apart two files of one size that were unpacked in one
    tick of the clock and then changed places, with their folder or behind a link.
    """

    size: int  # bytes
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str | Path) -> "Stamp":
        """OSError: no such file."""
        found = os.stat(path)  # noqa: PTH116 (a million times)
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & (2**63 - 1))

    @property
    def settled(self) -> bool:
        """Whether a later change of the file must show in its times. Not so if they lie in the future: the clock was
        set back, and may pass the same moment twice.
        """
        return max(self.mtime_ns, self.ctime_ns) / 1e9 < time.time() - SETTLED


def digests(paths: Sequence[Path], examine: Callable[[Path, bytes], object], cache: Path | None) -> list[bytes]:
    """SHA-256 of the content of files, each examined in the same reading.

    Args:
        paths: of files, n of them.
        examine: is given a path and its content, in several threads; what it raises for a bad file is raised here.
        cache: the folder of the manifest; what it knows is neither read nor examined. None: everything is.

    Returns:
        n digests of 32 bytes.

    Raises:
        ValueError: a file cannot be read; names it.
    """

    def read(path: Path) -> tuple[bytes, Stamp | None]:
        try:
            stamp = Stamp.of(path)  # before it is read: if it is written to meanwhile, the stamp is no longer its own
            if not stamp.size:  # or made up as it is read, as in /proc, and perhaps without an end
                raise ValueError(f"cannot read image {disk.shown(path)}: it is empty")
            settled, content = stamp.settled, path.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read image {disk.shown(path)}: {error.strerror}") from error
        examine(path, content)
        return hashlib.sha256(content).digest(), stamp if settled else None

    names = [os.fsencode(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (a million times)
    manifest = Manifest(cache)
    try:
        found = manifest.lookup(names)
        missing = {name: path for name, path in zip(names, paths) if name not in found}
        for name, (digest, stamp) in zip(missing, each(read, list(missing.values()), "reading and checking images")):
            found[name] = digest
            if stamp:
                manifest.add(name, stamp, digest)
    finally:
        manifest.close()
    return [found[name] for name in names]


def record(cache: Path | None, name: str, data_dir: Path, what: Record) -> None:
    """Keeps what a dataset held when it was loaded; nothing without a `cache`."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    row = (name, _folder(data_dir), *what._replace(seen_at=now))
    manifest = Manifest(cache)
    manifest.ask(lambda db: db.execute("INSERT OR REPLACE INTO datasets VALUES (?, ?, ?, ?, ?, ?, ?)", row), None)
    manifest.close()


def known(cache: Path, name: str, data_dir: Path) -> Record | None:
    """What a dataset held when it was last loaded from `data_dir`; None if that is not known.

    It looks at no image: files that were replaced since are noticed when the dataset is loaded.
    """
    try:
        db = sqlite3.connect(f"{(Path(cache).absolute() / FILE).as_uri()}?mode=ro", uri=True)
        try:
            columns = ", ".join(Record._fields)
            query = f"SELECT {columns} FROM datasets WHERE name = ? AND data_dir = ?"
            row = db.execute(query, (name, _folder(data_dir))).fetchone()
        finally:
            db.close()
    except sqlite3.Error:
        return None
    return Record(*row) if row else None


def _folder(data_dir: Path) -> bytes:
    return os.fsencode(os.path.realpath(data_dir))


class Manifest:
    """The file's connection. It does without one where none can be had, and says so once."""

    def __init__(self, folder: Path | None):
        self.path = None if folder is None else Path(folder) / FILE
        self.db: sqlite3.Connection | None = None
        self.batch: list[tuple] = []
        self.written = time.monotonic()

    def lookup(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """Path -> digest, of those files that are as they were when they were hashed and found sound."""
        found, names = {}, iter(names)
        while part := tuple(islice(names, 500)):  # SQLite takes at most 999 values at once
            marks = ", ".join("?" * len(part))
            query = f"SELECT path, digest, size, mtime_ns, ctime_ns, inode FROM files WHERE path IN ({marks}) AND sound = {CHECK}"
            for name, digest, *stamp in self.ask(lambda db: db.execute(query, part).fetchall(), []):
                with suppress(OSError):
                    now = Stamp.of(os.fsdecode(name))
                    if now == tuple(stamp) and now.settled:
                        found[name] = digest
        return found

    def add(self, name: bytes, stamp: Stamp, digest: bytes) -> None:
        """Keeps a sound file's digest; written with others of its batch."""
        self.batch.append((name, *stamp, digest, CHECK))
        if len(self.batch) >= BATCH or time.monotonic() - self.written > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the batch."""

        def write(db: sqlite3.Connection) -> None:
            with db:
                db.execute("BEGIN IMMEDIATE")
                db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", self.batch)

        if self.batch:
            self.ask(write, None)
        self.batch, self.written = [], time.monotonic()

    def close(self) -> None:
        """Writes what is left."""
        self.flush()
        self._disconnect()

    def ask(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What `work` makes of the file; `otherwise` without one. A damaged file is set aside for a new one."""
        for _ in range(2):
            if self.path is None:
                break
            try:
                self.db = self.db or _connect(self.path)
                return work(self.db)
            except (OSError, sqlite3.OperationalError) as error:  # no place, no right, no room, or locked for too long
                self._give_up(error)
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:  # a mistake of ours
                    raise
                self._disconnect()
                try:
                    _set_aside(self.path, error)
                except OSError as refused:
                    self._give_up(refused)
        return otherwise

    def _give_up(self, error: Exception) -> None:
        _warn(f"{self.path} cannot be used ({error}): image files are read again at every start")
        self._disconnect()
        self.path = None

    def _disconnect(self) -> None:
        if self.db is not None:
            self.db.close()
        self.db = None


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to the file, which is made if need be.

    Raises:
        sqlite3.DatabaseError: it is no such file, or a damaged one.  sqlite3.OperationalError, OSError: it cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.without_link(path)
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        if _format(db) != FORMAT:
            db.execute("BEGIN IMMEDIATE")
            if _format(db) == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for table in TABLES:
                    db.execute(table)
                db.execute(f"PRAGMA user_version = {FORMAT}")
            db.execute("COMMIT")
            if _format(db) != FORMAT:
                raise sqlite3.DatabaseError("it is of another format")
        disk.write_ahead(db)
        db.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        db.close()
        raise
    return db


def _format(db: sqlite3.Connection) -> int:
    return db.execute("PRAGMA user_version").fetchone()[0]


def _set_aside(path: Path, error: Exception) -> None:
    """Renames a damaged file, unless another process has done so meanwhile."""
    with disk.lock(path.with_name(path.name + ".lock")):
        if _sound(path):
            return
        number = next(n for n in range(1, 10**6) if not path.with_name(f"{path.name}.damaged-{n}").exists())
        aside = path.with_name(f"{path.name}.damaged-{number}")
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                path.with_name(path.name + ending).rename(f"{aside}{ending}")
        _warn(f"{path} is damaged ({error}): set aside as {aside.name}, and image files are read again")


def _sound(path: Path) -> bool:
    if not path.exists():
        return True  # a new one will be made
    try:
        db = _connect(path)
        try:
            return db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
        finally:
            db.close()
    except sqlite3.Error:
        return False


@once
def _warn(message: str) -> None:
    """A line in the log, once a process: every seed asks anew."""
    log.warning("%s", message)
