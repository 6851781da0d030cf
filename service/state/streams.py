"""All streams of this process: the arena, the table beside it, the index from keys to slots, and the way back.

Between two commits every change can be undone: `protect` takes a picture of a slot before its first change in an epoch,
`rollback` puts all pictures back, `settle` forgets them. Slots that end are reused only after `settle`, so a picture never
meets a new tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64

from service.errors import SnapshotMismatch
from service.state.snapshot import Snapshot
from service.state.table import CLEAN, Slots, SlotTable
from service.streaming import Program, Ragged


@dataclass(slots=True)
class _Picture:
    """Slots as they were before the epoch changed them."""

    slots: Slots
    rows: np.ndarray[Any, Any]
    checkpoint: Any


@dataclass(slots=True)
class _Undo:
    pictures: list[_Picture] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    thawed: list[tuple[int, bytes, Snapshot]] = field(default_factory=list)


class Streams:
    """Owns `program`'s arena and everything about who sits in it. Grows when there are more keys than slots."""

    def __init__(self, program: Program, capacity: int, device: str) -> None:
        self.program = program
        self.device = torch.device(device)
        self.state = program.new_state(slots=capacity, device=device)
        self.table = SlotTable(capacity)
        self.index: dict[int, dict[bytes, int]] = {}
        self.frozen: dict[int, dict[bytes, Snapshot]] = {}
        self.rates: set[float] = set()  # the first two different rates of streams, in Hz
        self._undo = _Undo()
        self._protected = np.zeros(capacity, np.bool_)

    # tasks

    def assign(self, task: int, frozen: dict[bytes, Snapshot]) -> None:
        """A task begins with the snapshots that its topic holds; each is thawed when the key's next record comes."""
        self.index[task] = {}
        self.frozen[task] = frozen
        for rate in {snapshot.rate for snapshot in frozen.values()}:
            self._note_rate(rate)

    def drop(self, task: int) -> None:
        """Forget a task. Nothing of it may be unsettled: `settle` or `rollback` comes first."""
        slots = list(self.index.pop(task, {}).values())
        self.frozen.pop(task, None)
        if slots:
            self.program.reset(self.state, self._tensor(np.array(slots, np.int64)))
            self.table.vacate(slots)

    # slots

    def open(self, task: int, key: bytes, offset: int, rate: float, live: bool) -> int:
        """A slot for a new stream whose first record stands at `offset`."""
        slot = self._take(task, key, live)
        row = self.table.rows[slot]
        row["stream"] = offset
        row["position"] = offset
        row["rate"] = rate
        self._note_rate(rate)
        return slot

    def rate(self, task: int, key: bytes) -> float | None:
        """The sampling rate (Hz) of the key's present stream, None where it has none."""
        slot = self.index[task].get(key)
        if slot is not None:
            return float(self.table.rows["rate"][slot])
        snapshot = self.frozen[task].get(key)
        return None if snapshot is None else snapshot.rate

    def thaw(self, task: int, keys: Sequence[bytes], live: bool) -> list[int]:
        """Slots for streams that lie frozen. Raises `SnapshotMismatch` naming the keys; the task must not go on then."""
        snapshots = [self.frozen[task][key] for key in keys]
        slots = [self._take(task, key, live) for key in keys]
        try:
            self.program.thaw(self.state, self._tensor(np.array(slots, np.int64)), [s.blob for s in snapshots])
        except SnapshotMismatch as error:
            shown = ", ".join(repr(key) for key in keys[:3])
            raise SnapshotMismatch(f"task {task}, key(s) {shown}{' …' if len(keys) > 3 else ''}: {error}") from error
        for slot, key, snapshot in zip(slots, keys, snapshots, strict=True):
            row = self.table.rows[slot]
            row["stream"], row["frames"], row["position"] = snapshot.stream, snapshot.frames, snapshot.positions[0]
            row["last_start"], row["last_time"], row["rate"] = snapshot.last_start, snapshot.last_time, snapshot.rate
            row["snapshotted"] = True
            del self.frozen[task][key]
            if live:
                self._undo.thawed.append((task, key, snapshot))
        return slots

    def protect(self, slots: Slots) -> None:
        """Take a picture of those of `slots` that this epoch has not changed yet."""
        fresh = slots[~self._protected[slots]]
        if len(fresh):
            self._protected[fresh] = True
            checkpoint = self.program.checkpoint(self.state, self._tensor(fresh))
            self._undo.pictures.append(_Picture(fresh, self.table.rows[fresh], checkpoint))

    def feed(
        self,
        slots: Slots,
        values: Float32[np.ndarray, "N C"],
        lengths: Int64[np.ndarray, "B"],
        final: Bool[np.ndarray, "B"] | None,
    ) -> tuple[Float32[np.ndarray, "M C_out"], Int64[np.ndarray, "B"]]:
        """One packed step; the outputs' values and how many each stream got."""
        packed = Ragged(torch.from_numpy(values).to(self.device), torch.from_numpy(lengths).to(self.device))
        ended = None if final is None else torch.from_numpy(final).to(self.device)
        out = self.program.step(self.state, self._tensor(slots), packed, final=ended)
        return out.values.cpu().numpy(), out.lengths.cpu().numpy()

    def end(self, slots: Slots, live: bool) -> None:
        """These streams are over: their keys are free for new streams at once, their slots after `settle`."""
        self.program.reset(self.state, self._tensor(slots))
        for slot in slots.tolist():
            del self.index[int(self.table.rows["task"][slot])][self.table.keys[slot]]
        self.table.rows["dirty_since"][slots] = CLEAN
        if live:
            self._undo.ended += slots.tolist()
        else:
            self.table.vacate(slots.tolist())

    # epochs

    def settle(self) -> None:
        """The epoch is committed: what it did stays."""
        for picture in self._undo.pictures:
            self._protected[picture.slots] = False
        self._protected[self._undo.opened] = False
        self.table.vacate(self._undo.ended)
        self._undo = _Undo()

    def rollback(self) -> None:
        """The epoch is void: every slot, key and frozen snapshot is again what it was when the epoch began."""
        undo, self._undo = self._undo, _Undo()
        ended = set(undo.ended)
        for slot in undo.opened:
            if slot not in ended:
                del self.index[int(self.table.rows["task"][slot])][self.table.keys[slot]]
        if undo.opened:
            opened = np.array(undo.opened, np.int64)
            self.program.reset(self.state, self._tensor(opened))
            self._protected[opened] = False
            self.table.vacate(undo.opened)
        for picture in undo.pictures:
            self.table.rows[picture.slots] = picture.rows
            self.program.rollback(self.state, picture.checkpoint)
            self._protected[picture.slots] = False
            for slot in picture.slots.tolist():
                self.index[int(self.table.rows["task"][slot])][self.table.keys[slot]] = slot
        for task, key, snapshot in undo.thawed:
            self.frozen[task][key] = snapshot

    def freeze(self, slots: Slots) -> list[Snapshot]:
        """Snapshots of `slots`, true at each stream's present position."""
        blobs = self.program.freeze(self.state, self._tensor(slots))
        rows = self.table.rows[slots]
        columns = (rows[name].tolist() for name in ("stream", "position", "frames", "last_start", "last_time", "rate"))
        return [
            Snapshot(stream, (position,), frames, last_start, last_time, rate, blob)
            for stream, position, frames, last_start, last_time, rate, blob in zip(*columns, blobs, strict=True)
        ]

    def _note_rate(self, rate: float) -> None:
        if len(self.rates) < 2:
            self.rates.add(rate)

    def _take(self, task: int, key: bytes, live: bool) -> int:
        if not self.table.free:
            capacity = 2 * self.table.capacity
            self.program.resize(self.state, capacity)
            self.table.grow(capacity)
            self._protected = np.concatenate([self._protected, np.zeros(capacity // 2, np.bool_)])
        slot = self.table.free.pop()
        self.table.occupy(slot, task, key)
        self.index[task][key] = slot
        if live:
            self._undo.opened.append(slot)
            self._protected[slot] = True
        return slot

    def _tensor(self, slots: Slots) -> torch.Tensor:
        return torch.from_numpy(slots).to(self.device)
