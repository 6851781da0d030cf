"""Which streams to snapshot at a commit: the longest dirty first, spread evenly, so that replay stays bounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from service.state.table import CLEAN, Slots, SlotTable


@dataclass(slots=True)
class SnapshotPolicy:
    """Every dirty stream is snapshotted within `every` seconds, and no task replays more than `replay_records` offsets; but no more
    than `bytes_per_second` of snapshots are written, which wins: with very many sparse keys, replay is what gets longer.

    A commit takes its share of the dirty streams, `dirty · elapsed / every`, fractions carried over, so that a thousand keys
    that became dirty together do not come due together. `deferred` is how many of the last commit's overdue streams the budget
    has put off.
    """

    every: float
    replay_records: int
    bytes_per_second: float = math.inf
    deferred: int = 0
    _carry: float = 0.0
    _allowance: float = 0.0
    _size: float = 0.0  # of the mean snapshot, in bytes

    def choose(self, tables: Sequence[SlotTable], tasks: Mapping[int, int], now: float, elapsed: float) -> list[Slots]:
        """Rows of each table to snapshot now, of the tasks given with their next offsets; `elapsed` seconds after the last commit.

        The longest dirty go first, in whichever table they are.
        """
        dirty = _dirty(tables, tasks)
        overdue = quota = 0
        if len(dirty.rows):
            share = len(dirty.rows) * min(elapsed / self.every, 1.0) + self._carry
            self._carry = share - int(share)
            must = self._must(dirty, tasks, now)
            # Whoever is as old as one that must go does too.
            overdue = int((dirty.at <= dirty.at[must].max()).sum()) if must.any() else 0
            quota = max(int(share), overdue)
        # What one second brings may be saved up, and one snapshot always.
        self._allowance = min(self._allowance + elapsed * self.bytes_per_second, max(self.bytes_per_second, self._size))
        if quota * self._size > self._allowance:
            quota = max(int(self._allowance // self._size), 0)
        self.deferred = max(overdue - quota, 0)
        chosen = dirty.oldest(quota)
        return [dirty.rows[chosen][dirty.table[chosen] == number] for number in range(len(tables))]

    def wrote(self, snapshots: int, size: int) -> None:
        """So many snapshots of `size` bytes in all were written, whatever for."""
        if snapshots:
            self._size = size / snapshots
            self._allowance -= size

    def overdue(self, tables: Sequence[SlotTable], tasks: Mapping[int, int], now: float, elapsed: float) -> bool:
        """Whether a commit is owed for the sake of snapshots alone."""
        if self._allowance + elapsed * self.bytes_per_second < self._size:
            return False
        return bool(self._must(_dirty(tables, tasks), tasks, now).any())

    def _must(self, dirty: _Dirty, tasks: Mapping[int, int], now: float) -> Bool[np.ndarray, "B"]:
        """Those too old, and those that hold back a task's replay bound."""
        reach = np.zeros(max(tasks, default=0) + 1, np.int64)
        for task, next_offset in tasks.items():
            reach[task] = next_offset - self.replay_records
        must: Bool[np.ndarray, "B"] = (dirty.at <= now - self.every) | (dirty.since < reach[dirty.task])
        return must


@dataclass(frozen=True, slots=True)
class _Dirty:
    """Dirty rows of several tables: the table and the row, the task, and since which offset and time."""

    table: Int64[np.ndarray, "B"]
    rows: Slots
    task: Int64[np.ndarray, "B"]
    since: Int64[np.ndarray, "B"]
    at: Float64[np.ndarray, "B"]

    def oldest(self, count: int) -> Int64[np.ndarray, "K"]:
        """Which, the longest dirty first. Only so many are put in order: at every commit there may be a hundred thousand."""
        if not count:
            return np.zeros(0, np.int64)
        chosen = np.argpartition(self.at, count - 1)[:count] if count < len(self.at) else np.arange(len(self.at))
        return chosen[np.argsort(self.at[chosen], kind="stable")]


def _dirty(tables: Sequence[SlotTable], tasks: Mapping[int, int]) -> _Dirty:
    """Those of the tasks given."""
    held = np.zeros(max(tasks, default=0) + 1, np.bool_)
    held[list(tasks)] = True
    found: list[list[np.ndarray[Any, Any]]] = []
    for number, table in enumerate(tables):
        rows = table.dirty()
        task = table.column("task")[rows]
        known = (task < len(held)) & held[np.minimum(task, len(held) - 1)]
        if not known.all():
            rows, task = rows[known], task[known]
        columns = (table.column(name)[rows] for name in ("dirty_since", "dirty_at"))
        found.append([np.full(len(rows), number), rows, task, *columns])
    return _Dirty(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def replay_from(table: SlotTable, task: int, next_offset: int, leaving_out: Slots) -> int:
    """The first offset that a recovery of `task` must read, once the streams in `leaving_out` are snapshotted."""
    since = table.column("dirty_since").copy()
    since[leaving_out] = CLEAN
    since = since[(since != CLEAN) & (table.column("task") == task)]
    return min(int(since.min()), next_offset) if len(since) else next_offset
