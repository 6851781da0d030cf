"""Which streams to snapshot at a commit: the longest dirty first, spread evenly, so that replay stays bounded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.state.table import CLEAN, Slots, SlotTable


@dataclass(slots=True)
class SnapshotPolicy:
    """Every dirty stream is snapshotted within `every` seconds, and no task replays more than `replay_records` offsets.

    A commit takes its share of the dirty streams, `dirty · elapsed / every`, fractions carried over, so that a thousand keys
    that became dirty together do not come due together.
    """

    every: float
    replay_records: int
    _carry: float = 0.0

    def choose(self, table: SlotTable, tasks: dict[int, int], now: float, elapsed: float) -> Slots:
        """Slots to snapshot now, of the tasks given with their next offsets; `elapsed` seconds after the last commit."""
        dirty = self._dirty(table, tasks)
        if not len(dirty):
            return dirty
        share = len(dirty) * min(elapsed / self.every, 1.0) + self._carry
        quota = int(share)
        self._carry = share - quota
        return dirty[: max(quota, self._overdue(table, dirty, tasks, now))]

    def overdue(self, table: SlotTable, tasks: dict[int, int], now: float) -> bool:
        """Whether a commit is owed for the sake of snapshots alone."""
        dirty = self._dirty(table, tasks)
        return bool(len(dirty)) and self._overdue(table, dirty[:1], tasks, now) > 0

    def _dirty(self, table: SlotTable, tasks: dict[int, int]) -> Slots:
        slots = table.dirty()
        if len(tasks) == 0:
            return slots[:0]
        slots = slots[np.isin(table.column("task")[slots], list(tasks))]
        return slots[np.argsort(table.column("dirty_at")[slots], kind="stable")]

    def _overdue(self, table: SlotTable, dirty: Slots, tasks: dict[int, int], now: float) -> int:
        """How many of the oldest must go: those too old, and those that hold back a task's replay bound."""
        rows = table.rows[dirty]
        reach = np.array([tasks[task] for task in rows["task"].tolist()]) - self.replay_records
        must = (rows["dirty_at"] <= now - self.every) | (rows["dirty_since"] < reach)
        return int(np.flatnonzero(must)[-1]) + 1 if must.any() else 0


def replay_from(table: SlotTable, task: int, next_offset: int, leaving_out: Slots) -> int:
    """The first offset that a recovery of `task` must read, once the streams in `leaving_out` are snapshotted."""
    since = table.column("dirty_since").copy()
    since[leaving_out] = CLEAN
    since = since[(table.column("task") == task) & (since != CLEAN)]
    return min(int(since.min()), next_offset) if len(since) else next_offset
