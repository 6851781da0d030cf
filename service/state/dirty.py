"""Which streams to snapshot at a commit: the longest dirty first, spread evenly, so that replay stays bounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

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
        dirty, table = self._dirty(tables, tasks)
        overdue, quota = 0, 0
        if len(dirty):
            share = len(dirty) * min(elapsed / self.every, 1.0) + self._carry
            self._carry = share - int(share)
            overdue = self._overdue(tables, dirty, table, tasks, now)
            quota = max(int(share), overdue)
        # What one second brings may be saved up, and one snapshot always.
        self._allowance = min(self._allowance + elapsed * self.bytes_per_second, max(self.bytes_per_second, self._size))
        if quota * self._size > self._allowance:
            quota = max(int(self._allowance // self._size), 0)
        self.deferred = max(overdue - quota, 0)
        return [dirty[:quota][table[:quota] == number] for number in range(len(tables))]

    def wrote(self, snapshots: int, size: int) -> None:
        """So many snapshots of `size` bytes in all were written, whatever for."""
        if snapshots:
            self._size = size / snapshots
            self._allowance -= size

    def overdue(self, tables: Sequence[SlotTable], tasks: Mapping[int, int], now: float, elapsed: float) -> bool:
        """Whether a commit is owed for the sake of snapshots alone."""
        if self._allowance + elapsed * self.bytes_per_second < self._size:
            return False
        dirty, table = self._dirty(tables, tasks)
        return bool(len(dirty)) and self._overdue(tables, dirty[:1], table[:1], tasks, now) > 0

    def _dirty(self, tables: Sequence[SlotTable], tasks: Mapping[int, int]) -> tuple[Slots, Int64[np.ndarray, "B"]]:
        """Dirty rows of all tables, the longest dirty first, and the table of each."""
        parts = [table.dirty() for table in tables]
        parts = [rows[np.isin(table.column("task")[rows], list(tasks))] for table, rows in zip(tables, parts, strict=True)]
        since = np.concatenate([table.column("dirty_at")[rows] for table, rows in zip(tables, parts, strict=True)])
        order = np.argsort(since, kind="stable")
        numbers = np.repeat(np.arange(len(tables)), [len(rows) for rows in parts])
        return np.concatenate(parts)[order], numbers[order]

    def _overdue(
        self,
        tables: Sequence[SlotTable],
        dirty: Slots,
        table: Int64[np.ndarray, "B"],
        tasks: Mapping[int, int],
        now: float,
    ) -> int:
        """How many of the oldest must go: those too old, and those that hold back a task's replay bound."""
        rows = np.empty(len(dirty), tables[0].rows.dtype)
        for number, each in enumerate(tables):
            rows[table == number] = each.rows[dirty[table == number]]
        numbers, inverse = np.unique(rows["task"], return_inverse=True)
        reach = np.array([tasks[task] for task in numbers.tolist()], np.int64)[inverse] - self.replay_records
        must = (rows["dirty_at"] <= now - self.every) | (rows["dirty_since"] < reach)
        return int(np.flatnonzero(must)[-1]) + 1 if must.any() else 0


def replay_from(table: SlotTable, task: int, next_offset: int, leaving_out: Slots) -> int:
    """The first offset that a recovery of `task` must read, once the streams in `leaving_out` are snapshotted."""
    since = table.column("dirty_since").copy()
    since[leaving_out] = CLEAN
    since = since[(since != CLEAN) & (table.column("task") == task)]
    return min(int(since.min()), next_offset) if len(since) else next_offset
