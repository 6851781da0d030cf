"""What the host knows of each slot, as columns: identity, position, time, and since when it is dirty."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64

FREE = -1
CLEAN = -1

Slots = Int64[np.ndarray, "B"]

_ROW = np.dtype(
    [
        ("task", np.int64),  # FREE where nobody holds the slot
        ("stream", np.int64),  # offset of the stream's first record
        ("frames", np.int64),  # fed so far
        ("position", np.int64),  # offset after the last record fed
        ("last_start", np.int64),  # frame index at which the latest record with samples began
        ("last_time", np.float64),  # its time, epoch ms
        ("rate", np.float64),  # Hz
        ("dirty_since", np.int64),  # offset of the first record after the last snapshot, or CLEAN
        ("dirty_at", np.float64),  # when that was fed, in seconds of the worker's clock
        ("snapshotted", np.bool_),  # the snapshot topic holds this stream
        ("used", np.int64),  # when it was last fed, in steps
    ],
    align=True,
)


class SlotTable:
    """Slots `1 … capacity − 1`; slot 0 is the dummy. Keys and their printable labels ride along."""

    def __init__(self, capacity: int) -> None:
        self.rows = np.zeros(capacity, _ROW)
        self.rows["task"] = FREE
        self.rows["dirty_since"] = CLEAN
        self.keys: list[bytes] = [b""] * capacity
        self.labels: list[str] = [""] * capacity
        self.free: list[int] = list(range(capacity - 1, 0, -1))

    @property
    def capacity(self) -> int:
        return len(self.rows)

    @property
    def used(self) -> int:
        return self.capacity - 1 - len(self.free)

    def column(self, name: str) -> np.ndarray[Any, Any]:
        return self.rows[name]

    def grow(self, capacity: int) -> None:
        old = self.capacity
        self.rows = np.concatenate([self.rows, np.zeros(capacity - old, _ROW)])
        self.rows["task"][old:] = FREE
        self.rows["dirty_since"][old:] = CLEAN
        self.keys += [b""] * (capacity - old)
        self.labels += [""] * (capacity - old)
        self.free = list(range(capacity - 1, old - 1, -1)) + self.free

    def occupy(self, slot: int, task: int, key: bytes) -> None:
        self.rows[slot] = (task, 0, 0, 0, 0, np.nan, np.nan, CLEAN, 0.0, False, 0)
        self.keys[slot] = key
        self.labels[slot] = key.decode("utf-8", "backslashreplace")

    def vacate(self, slots: list[int]) -> None:
        self.rows["task"][slots] = FREE
        self.rows["dirty_since"][slots] = CLEAN
        self.free += slots

    def dirty(self) -> Slots:
        return np.flatnonzero(self.rows["dirty_since"] != CLEAN)

    def check_integrity(self) -> None:
        """Free and used slots make up the whole; cheap enough for idle moments and tests."""
        held = int((self.rows["task"] != FREE).sum())
        assert held + len(self.free) == self.capacity - 1, (held, len(self.free), self.capacity)
        assert len(set(self.free)) == len(self.free)
