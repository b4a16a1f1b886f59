"""Rows of a profile, and the results of single images behind them, in one SQLite file.

Several processes write at once, a transaction a measurement. What identifies a row is unique, so none is there twice;
a kill loses at most what was not measured to its end. `results.csv` is its exported form.
"""

import errno
import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ovit_core import disk
from ovit_core.study import paths, provenance
from ovit_core.study.parameters import Parameters
from ovit_core.study.tasks import COLUMNS, KEY, NUMBERS, Row, World

WAIT = 120.0  # seconds for another process that is writing
# The order of the key is that of questions: by run, then by what was measured.
_UNIQUE = sorted(KEY, key=lambda c: (c not in ("run_id", "phase", "method"), KEY.index(c)))


def _names(columns: Iterable[str]) -> str:
    """Columns for SQL, to which `update` and `commit` would be words of its own."""
    return ", ".join(f'"{column}"' for column in columns)


SCHEMA = f"""
CREATE TABLE IF NOT EXISTS rows (
    id INTEGER PRIMARY KEY, {", ".join(f'"{c}" {"" if c in NUMBERS else "TEXT"} NOT NULL' for c in COLUMNS)},
    UNIQUE ({_names(_UNIQUE)}));
CREATE TABLE IF NOT EXISTS images (
    id INTEGER PRIMARY KEY REFERENCES rows (id), correct BLOB NOT NULL, loss BLOB NOT NULL, top BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS splits (digest TEXT PRIMARY KEY, labels BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS split_of (id INTEGER PRIMARY KEY REFERENCES rows (id), digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
    request TEXT NOT NULL, seed NOT NULL, what TEXT NOT NULL, reason TEXT NOT NULL, UNIQUE (request, seed, what));
CREATE TABLE IF NOT EXISTS worlds (request TEXT PRIMARY KEY, world TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS workers (
    grid TEXT NOT NULL, worker TEXT NOT NULL, done INTEGER NOT NULL, doing TEXT NOT NULL, UNIQUE (grid, worker));
"""


@dataclass(frozen=True)
class Images:
    """What a model made of each image of a split, in its order."""

    correct: np.ndarray  # (n,) bool
    loss: np.ndarray | None = None  # (n,) cross-entropy; None where it is not kept
    top: np.ndarray | None = None  # (n,) probability of the class it took the image for
    labels: np.ndarray | None = None  # (n,) int32, the split's own; None where they are not known


@dataclass(frozen=True)
class Measured:
    """A row, and the images behind it where it has some."""

    row: dict[str, Any] = field(default_factory=dict)
    images: Images | None = None


class Store:
    """The rows of a profile, results/PROFILE.sqlite. On a local disk: SQLite's write-ahead log needs shared memory.

    Raises:
        ValueError: the file is damaged, no SQLite database, or of other columns.  OSError: it cannot be written, or the disk is full.
    """

    def __init__(self, profile: str):
        self.path = paths.rows(profile)
        with self._connected() as db:
            disk.write_ahead(db)
            there = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'split_of'").fetchone()[0]
            known = {name for _, name, *_ in db.execute("PRAGMA table_info(rows)")}
        if known and (odd := known ^ {"id", *COLUMNS}):  # a row of other columns would be left out without a word
            raise ValueError(
                f"{self.path} is of another version of the study, which differs in the columns {', '.join(sorted(odd))}: move "
                f"it away, and the same command measures anew; `take {profile}` takes published rows"
            )
        if not there:
            with self._writing() as db:
                for statement in SCHEMA.split(";"):
                    db.execute(statement)

    @staticmethod
    def exists(profile: str) -> bool:
        """Whether there is such a file; asking makes none."""
        return paths.rows(profile).is_file()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection for a moment: processes come and go, and none is to hold one for long."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=0.2, isolation_level=None)) as db:
                yield db
        except sqlite3.OperationalError as error:  # the disk, the rights, another process that never ends
            code = errno.ENOSPC if "full" in str(error) or "I/O" in str(error) else errno.EACCES
            raise disk.cannot_write(self.path, OSError(code, f"SQLite: {error}")) from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # a mistake of ours
                raise
            raise ValueError(
                f"{self.path} is damaged, or no SQLite database ({error}): move it away, and the same command measures "
                "anew; what was exported is in results.csv beside the figures"
            ) from error
        except OSError as error:
            raise disk.cannot_write(self.path, error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction; waits for others' in Python, where a signal is heard, and not in SQLite."""
        with self._connected() as db:
            until = time.monotonic() + WAIT
            while not db.in_transaction:
                try:
                    db.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > until:
                        raise
            yield db
            db.execute("COMMIT")

    def check(self) -> None:
        """Raises ValueError if the file is damaged."""
        with self._connected() as db:
            said = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if said != "ok":
                raise sqlite3.DatabaseError(disk.first_line(said))

    def add(self, measured: Iterable[Measured]) -> None:
        """Writes the rows of one measurement in one transaction; a row that is there already stays as it is.

        Raises:
            KeyError: a column is not in COLUMNS.  ValueError: a value is not finite.
        """
        measured = list(measured)
        for one in measured:
            if odd := one.row.keys() - set(COLUMNS):
                raise KeyError(f"no such column: {', '.join(sorted(odd))}")
            if not math.isfinite(one.row["value"]):
                raise ValueError(
                    f"{one.row['metric']} of {one.row['method']} is {one.row['value']}: not a number to keep"
                )
        marks = ", ".join("?" * len(COLUMNS))
        with self._writing() as db:
            for one in measured:
                values = [_plain(one.row.get(column, "")) for column in COLUMNS]
                written = db.execute(f"INSERT OR IGNORE INTO rows ({_names(COLUMNS)}) VALUES ({marks})", values)
                if written.rowcount and one.images is not None:
                    behind = (written.lastrowid, *_packed(one.images))
                    db.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", behind)
                    if one.images.labels is not None:  # once for all rows of a split
                        labels = np.asarray(one.images.labels, np.int32).tobytes()
                        digest = hashlib.sha256(labels).hexdigest()
                        db.execute("INSERT OR IGNORE INTO splits VALUES (?, ?)", (digest, labels))
                        db.execute("INSERT OR REPLACE INTO split_of VALUES (?, ?)", (written.lastrowid, digest))

    def rows(self, run_id: str = "") -> list[dict[str, Any]]:
        """All rows, or those of a run, as dicts of COLUMNS, "" for none; in the order in which they were measured."""
        where = "WHERE run_id = ?" if run_id else ""
        with self._connected() as db:
            query = f"SELECT {_names(COLUMNS)} FROM rows {where} ORDER BY id"
            found = db.execute(query, (run_id,) if run_id else ()).fetchall()
        return [dict(zip(COLUMNS, row)) for row in found]

    def images(self, rows: Iterable[Row]) -> list[Images | None]:
        """What is kept of the images behind each of some rows; rows of one split share the array of its labels."""
        where = " AND ".join(f'"{column}" = ?' for column in _UNIQUE)
        query = f"""SELECT correct, loss, top, n_test, digest FROM rows JOIN images USING (id)
            LEFT JOIN split_of USING (id) WHERE {where}"""
        with self._connected() as db:
            splits = {digest: np.frombuffer(x, np.int32) for digest, x in db.execute("SELECT * FROM splits")}
            behind = [db.execute(query, [_plain(row[column]) for column in _UNIQUE]).fetchone() for row in rows]
        return [_unpacked(*found[:4], splits.get(found[4])) if found else None for found in behind]

    def remember(self, experiment: str, config: Parameters, world: World) -> None:
        """Notes what the rows of an ablation depend on, so that they are found without reading images again."""
        with self._writing() as db:
            values = _request(experiment, config), json.dumps(asdict(world))
            db.execute("INSERT OR REPLACE INTO worlds VALUES (?, ?)", values)

    def recall(self, experiment: str, config: Parameters) -> World | None:
        """What `remember` noted last for the same parameters."""
        query = "SELECT world FROM worlds WHERE request = ?"
        with self._connected() as db:
            found = db.execute(query, (_request(experiment, config),)).fetchone()
        if found is None:
            return None
        values = json.loads(found[0])
        return World(**values | dict(dense={int(seed): weights for seed, weights in values["dense"].items()}))

    def fail(self, experiment: str, config: Parameters, seed: int | None, what: str, reason: str) -> None:
        """Notes why something could not be measured, of a seed or of all, for the page."""
        where = (_request(experiment, config), "" if seed is None else seed, what, reason)
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)", where)

    def forgive(self, experiment: str, config: Parameters) -> None:
        """Forgets the failures of an ablation with these parameters, before another try."""
        with self._writing() as db:
            db.execute("DELETE FROM failures WHERE request = ?", (_request(experiment, config),))

    def failures(self, experiment: str, config: Parameters) -> list[str]:
        """What could not be measured, a line each."""
        query = "SELECT seed, what, reason FROM failures WHERE request = ? ORDER BY rowid"  # as they came
        with self._connected() as db:
            return [failure(*found) for found in db.execute(query, (_request(experiment, config),))]

    def tell(self, grid: str, worker: str, done: int, doing: str) -> None:
        """Says how far a worker of a grid is, for the bar."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?)", (grid, worker, done, doing))

    def told(self, grid: str) -> tuple[int, list[str]]:
        """Tasks that the workers of a grid have done, and what each is doing."""
        with self._connected() as db:
            found = db.execute("SELECT done, doing FROM workers WHERE grid = ? ORDER BY worker", (grid,)).fetchall()
        return sum(done for done, _ in found), [doing for _, doing in found if doing]

    def end(self, grid: str) -> None:
        """Forgets the workers of a grid."""
        with self._writing() as db:
            db.execute("DELETE FROM workers WHERE grid = ?", (grid,))


def _request(experiment: str, config: Parameters) -> str:
    """Who asks: two studies of a profile with other parameters are told apart, but for who does the work."""
    return provenance.digest(experiment, config.model_dump(mode="json", exclude={"engine", "workers"}))


def failure(seed: int | str | None, what: str, reason: str) -> str:
    """A failure in words."""
    return f"{'' if seed in ('', None) else f'seed {seed}, '}{what}: {reason}"


def _plain(value: Any) -> Any:
    """A value as SQLite holds it."""
    return value.item() if isinstance(value, np.generic) else value


def _packed(images: Images) -> tuple[bytes, bytes, bytes]:
    """A bit an image for `correct`, float16 for the others, nothing for what is not kept."""
    half = lambda x: b"" if x is None else np.clip(x, 0, 65_504).astype(np.float16).tobytes()
    return np.packbits(images.correct).tobytes(), half(images.loss), half(images.top)


def _unpacked(correct: bytes, loss: bytes, top: bytes, n_test: Any, labels: np.ndarray | None) -> Images:
    """What is kept of the images behind a row, whose number its losses tell, or else its column."""
    told = [np.frombuffer(x, np.float16) if x else None for x in (loss, top)]
    count = int(n_test) if told[0] is None else len(told[0])  # a table has counts as floats
    return Images(np.unpackbits(np.frombuffer(correct, np.uint8), count=count).astype(bool), *told, labels)
