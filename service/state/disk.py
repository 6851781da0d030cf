"""Committed snapshots on the local disk, in SQLite: a cache of the snapshot topic, never more.

Without a directory it is a file without a name that takes what does not fit into memory, and ends with the process. With one it
is *complete*: it follows every commit, and says for each task up to which offset of the snapshot topic it is true, so that a
restart reads only the rest. What it cannot vouch for it forgets: another topic or fingerprint, a mark that is older than
tombstones are kept, a file that is damaged. That costs the time to read the topic, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.errors import StateDiskFailed

log = structlog.get_logger("penstock.state")

_FORMAT = 1
_CHUNK = 500  # keys in one question
_PENDING = 5000  # rows in one transaction of SQLite
_FILE = "snapshots.sqlite3"
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS snapshots (task INTEGER, key BLOB, data BLOB NOT NULL, PRIMARY KEY (task, key));
CREATE TABLE IF NOT EXISTS marks (task INTEGER PRIMARY KEY, position INTEGER, begun INTEGER, ahead INTEGER, at REAL, rates TEXT);
"""
_PUT = "INSERT INTO snapshots VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET data = excluded.data"


@dataclass(frozen=True, slots=True)
class Mark:
    """The disk holds what the task's partition of the snapshot topic holds below `position`. `begun`: the task has ever
    committed; `ahead`: the highest input offset that a snapshot reached; `at`: epoch seconds; `rates`: those of its
    streams, in Hz."""

    position: int
    begun: bool
    ahead: int
    at: float
    rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """What a disk belongs to: the snapshot topic (its id, which a topic of the same name that was made anew does not share) and
    the fingerprint of the application. `keep` is for how many seconds a mark is good."""

    topic: str
    fingerprint: str
    keep: float


class SnapshotDisk:
    """Snapshots by task and key. Every method raises `StateDiskFailed` where the disk fails; the file is gone then."""

    def __init__(self, directory: Path | None = None, origin: Origin | None = None) -> None:
        self.complete = directory is not None and origin is not None
        self._origin = origin
        self._directory = directory
        self._path: Path | None = None
        self._db: sqlite3.Connection | None = None
        self._pending = 0
        if self.complete:
            self._open_again()

    # snapshots

    def get(self, task: int, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        if self._db is None:
            return {}
        found: dict[bytes, bytes] = {}
        with self._guard() as db:
            for begin in range(0, len(keys), _CHUNK):
                part = keys[begin : begin + _CHUNK]
                marks = ",".join("?" * len(part))
                found |= dict(db.execute(f"SELECT key, data FROM snapshots WHERE task = ? AND key IN ({marks})", (task, *part)))
        return found

    def put(self, task: int, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        """The latest of each key; None removes it."""
        latest = dict(items)
        with self._guard() as db:
            if not db.in_transaction:
                db.execute("BEGIN")
            gone = [(task, key) for key, data in latest.items() if data is None]
            if gone:
                db.executemany("DELETE FROM snapshots WHERE task = ? AND key = ?", gone)
            db.executemany(_PUT, [(task, key, data) for key, data in latest.items() if data is not None])
            self._pending += len(latest)
            if self._pending >= _PENDING:  # rows ahead of the mark do no harm: they are read again
                db.execute("COMMIT")
                self._pending = 0

    def follow(self, task: int, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        """These were committed to the snapshot topic. A disk that takes only the overflow has to forget the ended ones."""
        if self.complete:
            self.put(task, items)
        elif self._db is not None:
            self.put(task, [(key, data) for key, data in items if data is None])

    def dropped(self, task: int) -> None:
        """The task's streams are forgotten. What a complete disk holds may be of use again."""
        if not self.complete and self._db is not None:
            self.clear(task)

    def clear(self, task: int) -> None:
        if self._db is not None:
            with self._guard() as db:
                db.execute("DELETE FROM marks WHERE task = ?", (task,))
                db.execute("DELETE FROM snapshots WHERE task = ?", (task,))

    def beginning_with(self, task: int, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Keys with that prefix, and what is kept under them."""
        if self._db is None:
            return []
        with self._guard() as db:
            bounds = (task, prefix, prefix + b"\xff")
            return list(db.execute("SELECT key, data FROM snapshots WHERE task = ? AND key >= ? AND key < ?", bounds))

    # marks

    def mark(self, task: int) -> Mark | None:
        """Up to where the disk is true for the task; None where it holds nothing that can be trusted."""
        if not self.complete:
            return None
        with self._guard() as db:
            row = db.execute("SELECT position, begun, ahead, at, rates FROM marks WHERE task = ?", (task,)).fetchone()
        return Mark(int(row[0]), bool(row[1]), int(row[2]), float(row[3]), tuple(map(float, row[4].split()))) if row else None

    def trusted(self, task: int, now: float) -> Mark | None:
        """The mark, unless it is older than half the time for which the topic keeps tombstones, or of the future."""
        mark = self.mark(task)
        assert mark is None or self._origin is not None
        if mark is not None and self._origin is not None and 0 <= now - mark.at <= self._origin.keep:
            return mark
        return None

    def set_mark(self, task: int, mark: Mark) -> None:
        """All that was put before is on disk when the mark is, and the mark with it."""
        if not self.complete:
            return
        with self._guard() as db:
            if not db.in_transaction:
                db.execute("BEGIN")
            db.execute(
                "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?, ?)",
                (task, mark.position, mark.begun, mark.ahead, mark.at, " ".join(map(repr, mark.rates))),
            )
            db.execute("COMMIT")

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("COMMIT" if self.complete else "ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                db.close()
        if not self.complete and self._path is not None:
            _remove(self._path)

    def fail(self, why: str) -> None:
        """What was read makes no sense. Raises `StateDiskFailed`."""
        with self._guard():
            raise sqlite3.DatabaseError(why)

    def abandon(self) -> None:
        """Close the file as the end of the process would: what was put since the last mark may be lost."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    # the file

    def _open_again(self) -> None:
        """What an earlier process left, or an empty one where that cannot be used."""
        assert self._directory is not None
        self._directory.mkdir(parents=True, exist_ok=True)
        self._path = self._directory / _FILE
        assert self._origin is not None
        expected = {"format": str(_FORMAT), "topic": self._origin.topic, "fingerprint": self._origin.fingerprint}
        try:
            self._db = self._connect(self._path)
            found = dict(self._db.execute("SELECT name, value FROM about"))
            pages, size = (int(self._db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size"))
            why = None
            if found and found != expected:
                why = "it belongs to " + ", ".join(
                    f"{name} {found.get(name)}" for name in expected if found.get(name) != expected[name]
                )
            elif self._path.stat().st_size < pages * size and not self._has_wal():
                why = f"it has {self._path.stat().st_size} bytes of {pages * size}"
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                log.warning("state_disk_in_use", path=str(self._path))
                self._db, self._path, self.complete = None, None, False
                return
            why = str(error)
        except sqlite3.DatabaseError as error:
            why = str(error)
        if why is not None:
            log.warning("state_disk_discarded", path=str(self._path), reason=why)
            if self._db is not None:
                self._db.close()
            _remove(self._path)
            self._db = self._connect(self._path)
        assert self._db is not None
        with self._guard() as db:
            db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", list(expected.items()))

    def _has_wal(self) -> bool:
        wal = Path(f"{self._path}-wal")
        return wal.exists() and wal.stat().st_size > 0

    def _connect(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        durable = ("journal_mode = WAL", "synchronous = NORMAL")
        fleeting = ("journal_mode = OFF", "synchronous = OFF")
        for pragma in (
            "page_size = 8192",
            "locking_mode = EXCLUSIVE",
            *(durable if self.complete else fleeting),
            "cache_size = -8192",
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
        db.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.strip().split(";"):
            db.execute(statement)
        db.execute("COMMIT")
        return db

    @contextlib.contextmanager
    def _guard(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._db is None:
                handle, name = tempfile.mkstemp(prefix="penstock-state-", suffix=".sqlite3", dir=self._directory)
                os.close(handle)
                self._path = Path(name)
                self._db = self._connect(self._path)
                # It serves this process alone; without a name it goes with it, however that ends.
                with contextlib.suppress(OSError):
                    _remove(self._path)
            yield self._db
        except sqlite3.Error as error:
            path = self._path
            if self._db is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()
                self._db = None
            if path is not None:
                _remove(path)
            raise StateDiskFailed(
                f"{path}: {error}. The disk under `state.directory` (the temporary files, where none is set) holds a cache: see to "
                "its space and health, and start again; what is missing there is read from the snapshot topic."
            ) from error


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
