"""Streams that have no slot: frozen, in host memory up to a limit, beyond it on disk, until their next record comes.

A frozen stream is *clean* when it is what the snapshot topic holds, and then the disk may have it. A *dirty* one is newer than its
last committed snapshot, or has none: it stays in memory, with the same row that it had in the arena's table, until a commit has
snapshotted it. So what is on disk is always what is committed, and an abort has nothing to undo there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.state.disk import SnapshotDisk
from service.state.table import Slots, SlotTable

_OVERHEAD = 300
"""Bytes of a frozen stream beside its key and its snapshot: the table's row, dictionaries, headers of objects."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A stream without a slot: its snapshot, and what the table knew of it (None: it is what the snapshot topic holds)."""

    data: bytes
    row: np.void | None = None
    on_disk: bool = False


class ColdStreams:
    """Frozen streams by task and key. `limit` is what they may take of the host's memory, in bytes."""

    def __init__(self, limit: int, disk: SnapshotDisk) -> None:
        self.limit = limit
        self.disk = disk
        self.dirty = SlotTable(1024)  # a row for each dirty stream; snapshots and keys ride along
        self.dirty_bytes = 0
        self.clean_bytes = 0
        self._data: dict[int, bytes] = {}
        self._rows: dict[int, dict[bytes, int]] = {}
        self._clean: dict[int, dict[bytes, bytes]] = {}  # the longest frozen first
        self._gone: dict[int, set[bytes]] = {}  # keys whose stream has ended, though the disk still has it

    @property
    def crowded(self) -> bool:
        """Dirty streams take more than the limit: a commit is owed that snapshots some of them."""
        return self.dirty_bytes > self.limit

    @property
    def size(self) -> int:
        """What all frozen streams take of the host's memory, in bytes."""
        return self.clean_bytes + self.dirty_bytes

    def assign(self, task: int) -> None:
        self._rows[task], self._clean[task], self._gone[task] = {}, {}, set()

    def receive(self, task: int, snapshots: Mapping[bytes, bytes | None]) -> None:
        """Committed snapshots and, as None, tombstones, newer than what was received before."""
        if self.disk.complete:
            self.disk.put(task, list(snapshots.items()))
            return
        clean = self._clean[task]
        self.remove(task, snapshots)
        ended = [(key, None) for key, data in snapshots.items() if data is None]
        if ended:
            self.disk.follow(task, ended)
        for key, data in snapshots.items():
            if data is not None:
                clean[key] = data
                self.clean_bytes += _size(key, data)
        self.spill()

    def drop(self, task: int) -> None:
        rows = list(self._rows.pop(task, {}).values())
        self._release(rows)
        self.clean_bytes -= sum(_size(key, data) for key, data in self._clean.pop(task, {}).items())
        self._gone.pop(task, None)
        self.disk.dropped(task)

    def find(self, task: int, keys: Iterable[bytes]) -> dict[bytes, Frozen]:
        """Those of `keys` that have a frozen stream."""
        rows, clean, gone = self._rows[task], self._clean[task], self._gone[task]
        found, elsewhere = {}, []
        for key in keys:
            if (row := rows.get(key)) is not None:
                found[key] = Frozen(self._data[row], self.dirty.rows[row].copy())
            elif (data := clean.get(key)) is not None:
                found[key] = Frozen(data)
            elif key not in gone:
                elsewhere.append(key)
        if elsewhere:
            found |= {key: Frozen(data, on_disk=True) for key, data in self.disk.get(task, elsewhere).items()}
        return found

    def put(self, task: int, key: bytes, frozen: Frozen) -> None:
        """Keep a stream that has left its slot."""
        if frozen.row is not None:
            if not self.dirty.free:
                self.dirty.grow(2 * self.dirty.capacity)
            row = self.dirty.free.pop()
            self.dirty.rows[row], self.dirty.keys[row], self._data[row] = frozen.row, key, frozen.data
            self._rows[task][key] = row
            self.dirty_bytes += _size(key, frozen.data)
        elif not self.disk.complete:
            self._clean[task][key] = frozen.data
            self.clean_bytes += _size(key, frozen.data)

    def remove(self, task: int, keys: Iterable[bytes]) -> None:
        """These have a slot again. What the disk has of them is found no more: whoever has a slot is looked for there first."""
        rows, clean = self._rows[task], self._clean[task]
        self._release([rows.pop(key) for key in keys if key in rows])
        for key in keys:
            if (data := clean.pop(key, None)) is not None:
                self.clean_bytes -= _size(key, data)

    def bury(self, task: int, key: bytes) -> None:
        """The key's stream has ended; the disk learns of it when the tombstone is committed."""
        self._gone[task].add(key)

    def unbury(self, task: int, key: bytes) -> None:
        self._gone[task].discard(key)

    def spill(self) -> None:
        """Bring memory back under the limit, as far as clean streams do; the longest frozen go to the disk first."""
        while self.clean_bytes > 0 and self.size > self.limit:
            task = max(self._clean, key=lambda number: len(self._clean[number]))
            clean = self._clean[task]
            over = self.size - self.limit
            leaving: list[tuple[bytes, bytes | None]] = []
            for key, data in clean.items():
                leaving.append((key, data))
                over -= _size(key, data)
                if over <= 0:
                    break
            self.disk.put(task, leaving)
            self.remove(task, [key for key, _ in leaving])

    def crowding(self) -> Slots:
        """Rows of the dirty streams that must be snapshotted for the sake of memory: the oldest, down to half the limit."""
        if not self.crowded:
            return self.dirty.dirty()[:0]
        rows = self.dirty.dirty()
        rows = rows[np.argsort(self.dirty.column("dirty_at")[rows], kind="stable")]
        sizes = np.array([_size(self.dirty.keys[row], self._data[row]) for row in rows.tolist()])
        return rows[: int(np.searchsorted(np.cumsum(sizes), self.dirty_bytes - self.limit / 2)) + 1]

    def data(self, rows: Slots) -> list[bytes]:
        """The snapshots of dirty streams, as they lie here."""
        return [self._data[row] for row in rows.tolist()]

    def snapshotted(self, rows: Slots) -> None:
        """The snapshots of these dirty streams are committed: they are clean."""
        for row in rows.tolist():
            task, key, data = int(self.dirty.rows["task"][row]), self.dirty.keys[row], self._data[row]
            del self._rows[task][key]
            self._release([row])
            self.put(task, key, Frozen(data))

    def committed(self, written: Sequence[tuple[int, bytes, bytes | None]]) -> None:
        """These snapshots and tombstones are in the snapshot topic now: the disk follows."""
        by_task: dict[int, list[tuple[bytes, bytes | None]]] = {}
        for task, key, data in written:
            by_task.setdefault(task, []).append((key, data))
        for task, items in by_task.items():
            if task in self._gone:
                self.disk.follow(task, items)
                self._gone[task].difference_update(key for key, _ in items)

    def _release(self, rows: list[int]) -> None:
        for row in rows:
            self.dirty_bytes -= _size(self.dirty.keys[row], self._data.pop(row))
            self.dirty.keys[row] = b""
        self.dirty.vacate(rows)


def _size(key: bytes, data: Any) -> int:
    return len(key) + len(data) + _OVERHEAD
