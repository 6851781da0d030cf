"""All streams of this process: the arena, the table beside it, the index from keys to slots, and the way back.

Slots are a cache: where more are needed than are free, the streams that were fed longest ago are frozen and leave theirs.
Between two commits every change can be undone: `protect` takes a picture of a slot before its first change in an epoch,
`rollback` puts all pictures back, `settle` forgets them. A slot that an epoch has changed is not given away before the epoch is
settled, so a picture never meets a new tenant, and who leaves a slot is as the last commit left it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64

from service.errors import SnapshotMismatch
from service.state.cold import ColdStreams, Frozen
from service.state.dirty import SnapshotPolicy, replay_from
from service.state.disk import SnapshotDisk
from service.state.snapshot import Snapshot
from service.state.table import CLEAN, FREE, Slots, SlotTable
from service.streaming import Program, Ragged

MEMORY = 256 << 20
"""Bytes that frozen streams may take of the host's memory, unless told otherwise."""

_AT_ONCE = 16
"""A sixteenth of the slots is made free at a time, where so many may be."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Streams that a commit snapshots: those in slots, and those that lie frozen (rows of the cold table)."""

    slots: Slots
    cold: Slots

    def __len__(self) -> int:
        return len(self.slots) + len(self.cold)


@dataclass(slots=True)
class Packed:
    """The chunks of B streams, one after another; `final` marks those that end with it."""

    slots: Slots
    values: Float32[np.ndarray, "N C"]
    lengths: Int64[np.ndarray, "B"]
    final: Bool[np.ndarray, "B"] | None


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
    thawed: list[tuple[int, bytes, Frozen]] = field(default_factory=list)
    buried: list[tuple[int, bytes]] = field(default_factory=list)


class Streams:
    """Owns `program`'s arena and everything about who sits in it. `capacity` slots, the dummy included, and never more."""

    def __init__(self, program: Program, capacity: int, memory: int = MEMORY, disk: SnapshotDisk | None = None) -> None:
        self.program = program
        self.state = program.new_state(slots=capacity)
        self.table = SlotTable(capacity)
        self.index: dict[int, dict[bytes, int]] = {}
        self.cold = ColdStreams(memory, disk or SnapshotDisk())
        self.rates: set[float] = set()  # the first two different rates of streams, in Hz
        self.evictions = 0
        self._undo = _Undo()
        self._protected = np.zeros(capacity, np.bool_)  # changed by the epoch at hand
        self._held = np.zeros(capacity, np.bool_)  # snapshotted by the commit under way
        self._steps = 0

    # tasks

    def assign(self, task: int) -> None:
        """A task begins, without streams."""
        self.drop(task)
        self.index[task] = {}
        self.cold.assign(task)

    def receive(self, task: int, snapshots: Mapping[bytes, bytes | None]) -> None:
        """What the snapshot topic holds, a part at a time; None is a tombstone. Each is thawed when its key's next record comes."""
        self.cold.receive(task, snapshots)

    def drop(self, task: int) -> None:
        """Forget a task. Nothing of it may be unsettled: `settle` or `rollback` comes first."""
        slots = list(self.index.pop(task, {}).values())
        self.cold.drop(task)
        if slots:
            self.program.reset(self.state, self._tensor(np.array(slots, np.int64)))
            self.table.vacate(slots)

    def holds(self, task: int, key: bytes) -> bool:
        """Whether the key has a stream, in a slot or frozen."""
        return key in self.index[task] or key in self.cold.find(task, [key])

    # slots

    @property
    def slots(self) -> int:
        """How many streams can have a slot at the same time."""
        return self.table.capacity - 1

    @property
    def room(self) -> int:
        """How many streams can get a slot, or be changed in theirs, before the epoch is settled."""
        return self.slots - int((self._protected | self._held).sum())

    def make_room(self, count: int, pinned: Collection[int] = ()) -> None:
        """Free at least `count` slots; `pinned` ones stay. There must be `room`."""
        short = count - len(self.table.free)
        if short <= 0:
            return
        movable = (self.table.column("task") != FREE) & ~self._protected & ~self._held
        movable[list(pinned)] = False
        candidates = np.flatnonzero(movable)
        if len(candidates) < short:
            raise AssertionError(f"{short} slots are wanted, and {len(candidates)} can be had")
        many = min(max(short, self.table.capacity // _AT_ONCE), len(candidates))
        used = self.table.column("used")[candidates]
        self._evict(candidates if many == len(candidates) else candidates[np.argpartition(used, many - 1)[:many]])

    def _evict(self, slots: Slots) -> None:
        rows = self.table.rows[slots].copy()
        clean = rows["dirty_since"] == CLEAN
        frozen = np.flatnonzero(~clean | (not self.cold.disk.complete))
        data = dict(zip(frozen.tolist(), self.freeze(slots[frozen]), strict=True)) if len(frozen) else {}
        for place, (slot, task) in enumerate(zip(slots.tolist(), rows["task"].tolist(), strict=True)):
            key = self.table.keys[slot]
            del self.index[task][key]
            if place in data:
                self.cold.put(task, key, Frozen(data[place].to_bytes(), None if clean[place] else rows[place]))
        self.program.reset(self.state, self._tensor(slots))
        self.table.vacate(slots.tolist())
        self.cold.spill()
        self.evictions += len(slots)

    def open(self, task: int, key: bytes, offset: int, rate: float, live: bool) -> int:
        """A slot for a new stream whose first record stands at `offset`."""
        slot = self._take(task, key, live)
        row = self.table.rows[slot]
        row["stream"] = offset
        row["position"] = offset
        row["rate"] = rate
        self.note_rate(rate)
        return slot

    def present_rates(self, task: int, keys: Collection[bytes]) -> dict[bytes, float]:
        """The sampling rate (Hz) of each key's present stream, where it has one."""
        index = self.index[task]
        rates = {key: float(self.table.rows["rate"][index[key]]) for key in keys if key in index}
        frozen = self.find(task, [key for key in keys if key not in index])
        return rates | {key: snapshot.rate for key, (_, snapshot) in frozen.items()}

    def find(self, task: int, keys: Collection[bytes]) -> dict[bytes, tuple[Frozen, Snapshot]]:
        """Those of `keys` that have a frozen stream. Raises `StateDiskFailed` where the disk has damaged one."""
        found = {}
        for key, frozen in self.cold.find(task, keys).items():
            try:
                snapshot = Snapshot.from_bytes(frozen.data)
                if frozen.on_disk:
                    self.program.check(snapshot.blob)
            except SnapshotMismatch as error:
                if frozen.on_disk:
                    self.cold.disk.fail(str(error))
                raise
            found[key] = frozen, snapshot
        return found

    def positions(self, task: int, keys: Collection[bytes]) -> dict[bytes, int]:
        """Of those of `keys` that have a stream, the offset of the first record that it does not contain."""
        index, column = self.index[task], self.table.column("position")
        found = {key: int(column[slot]) for key in keys if (slot := index.get(key)) is not None}
        frozen = self.find(task, [key for key in keys if key not in found])
        return found | {key: snapshot.positions[0] for key, (_, snapshot) in frozen.items()}

    def thaw(self, task: int, frozen: Mapping[bytes, tuple[Frozen, Snapshot]], live: bool) -> list[int]:
        """Slots for streams that lie frozen. Raises `SnapshotMismatch` naming the keys; the task must not go on then."""
        slots = [self._take(task, key, live) for key in frozen]
        try:
            blobs = [snapshot.blob for _, snapshot in frozen.values()]
            self.program.thaw(self.state, self._tensor(np.array(slots, np.int64)), blobs)
        except SnapshotMismatch as error:
            shown = ", ".join(repr(key) for key in list(frozen)[:3])
            raise SnapshotMismatch(f"task {task}, key(s) {shown}{' …' if len(frozen) > 3 else ''}: {error}") from error
        for slot, (key, (found, snapshot)) in zip(slots, frozen.items(), strict=True):
            row = self.table.rows[slot]
            if found.row is not None:
                self.table.rows[slot] = found.row
            else:
                row["stream"], row["frames"], row["position"] = snapshot.stream, snapshot.frames, snapshot.positions[0]
                row["last_start"], row["last_time"], row["rate"] = snapshot.last_start, snapshot.last_time, snapshot.rate
                row["snapshotted"] = True
            if live:
                self._undo.thawed.append((task, key, found))
        self.cold.remove(task, frozen)
        return slots

    def protect(self, slots: Slots) -> None:
        """Take a picture of those of `slots` that this epoch has not changed yet."""
        fresh = slots[~self._protected[slots]]
        if len(fresh):
            self._protected[fresh] = True
            checkpoint = self.program.checkpoint(self.state, self._tensor(fresh))
            self._undo.pictures.append(_Picture(fresh, self.table.rows[fresh], checkpoint))

    def feed(self, packed: Packed) -> tuple[Float32[np.ndarray, "M C_out"], Int64[np.ndarray, "B"]]:
        """One step; the outputs' values and how many each stream got."""
        out = self.program.step(self.state, *self._used(packed))
        return out.values.numpy(), out.lengths.numpy()

    def absorb(self, packed: Packed) -> None:
        """The same without outputs."""
        self.program.absorb(self.state, *self._used(packed))

    def _used(self, packed: Packed) -> tuple[Int64[torch.Tensor, "B"], Ragged, Bool[torch.Tensor, "B"] | None]:
        """As the program takes them; their slots have been used just now."""
        self._steps += 1
        self.table.rows["used"][packed.slots] = self._steps
        chunks = Ragged(torch.from_numpy(packed.values), torch.from_numpy(packed.lengths))
        return self._tensor(packed.slots), chunks, None if packed.final is None else torch.from_numpy(packed.final)

    def end(self, slots: Slots, live: bool) -> None:
        """These streams are over: their keys are free for new streams at once, their slots after `settle`."""
        self.program.reset(self.state, self._tensor(slots))
        for slot in slots.tolist():
            task, key = int(self.table.rows["task"][slot]), self.table.keys[slot]
            del self.index[task][key]
            if self.table.rows["snapshotted"][slot]:
                self.cold.bury(task, key)
                if live:
                    self._undo.buried.append((task, key))
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
        self._held[:] = False
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
        self._held[:] = False
        for task, key in undo.buried:
            self.cold.unbury(task, key)
        for task, key, frozen in undo.thawed:
            self.cold.put(task, key, frozen)

    # snapshots

    def freeze(self, slots: Slots) -> list[Snapshot]:
        """Snapshots of `slots`, true at each stream's present position."""
        blobs = self.program.freeze(self.state, self._tensor(slots))
        rows = self.table.rows[slots]
        columns = (rows[name].tolist() for name in ("stream", "position", "frames", "last_start", "last_time", "rate"))
        return [
            Snapshot(stream, (position,), frames, last_start, last_time, rate, blob)
            for stream, position, frames, last_start, last_time, rate, blob in zip(*columns, blobs, strict=True)
        ]

    def choose(
        self, policy: SnapshotPolicy, tasks: Mapping[int, int], now: float, elapsed: float, closing: Collection[int] = ()
    ) -> Chosen:
        """Which dirty streams of `tasks` (with their next offsets) to snapshot at a commit; of the tasks in `closing` all."""
        slots, cold = policy.choose([self.table, self.cold.dirty], tasks, now, elapsed)
        chosen = []
        for table, rows, must in ((self.table, slots, slots[:0]), (self.cold.dirty, cold, self.cold.crowding())):
            dirty = table.dirty()
            leaving = dirty[np.isin(table.column("task")[dirty], [task for task in closing if task in tasks])]
            must = must[np.isin(table.column("task")[must], list(tasks))]
            chosen.append(np.union1d(np.union1d(rows, must), leaving).astype(np.int64))
        return Chosen(*chosen)

    def overdue(self, policy: SnapshotPolicy, tasks: Mapping[int, int], now: float, elapsed: float) -> bool:
        """Whether a commit is owed for the sake of snapshots alone."""
        return policy.overdue([self.table, self.cold.dirty], tasks, now, elapsed)

    def snapshots(self, chosen: Chosen) -> list[tuple[int, bytes, bytes]]:
        """Task, key and snapshot of each. Their slots are not given away before `settle` or `rollback`."""
        self._held[chosen.slots] = True
        table, cold = self.table, self.cold.dirty
        warm = [snapshot.to_bytes() for snapshot in self.freeze(chosen.slots)] if len(chosen.slots) else []
        return [
            (int(table.column("task")[slot]), table.keys[slot], data)
            for slot, data in zip(chosen.slots.tolist(), warm, strict=True)
        ] + [
            (int(cold.column("task")[row]), cold.keys[row], data)
            for row, data in zip(chosen.cold.tolist(), self.cold.data(chosen.cold), strict=True)
        ]

    def committed(self, chosen: Chosen, written: Sequence[tuple[int, bytes, bytes | None]]) -> None:
        """The epoch is committed, with these snapshots and, `written` in the snapshot topic in this order, all that it brought."""
        self.cold.committed(written)
        self.table.rows["dirty_since"][chosen.slots] = CLEAN
        self.table.rows["snapshotted"][chosen.slots] = True
        self.cold.snapshotted(chosen.cold)
        self.cold.spill()
        self.settle()

    def replay_from(self, task: int, next_offset: int, chosen: Chosen) -> int:
        """The first offset that a recovery of `task` must read, once the chosen streams are snapshotted."""
        return min(
            replay_from(self.table, task, next_offset, chosen.slots), replay_from(self.cold.dirty, task, next_offset, chosen.cold)
        )

    def count_evictions(self) -> int:
        """How many streams have been frozen to make room, since this was asked before."""
        count, self.evictions = self.evictions, 0
        return count

    def close(self) -> None:
        self.cold.disk.close()

    def note_rate(self, rate: float) -> None:
        """A stream of this rate (Hz) is here, or may be thawed."""
        if len(self.rates) < 2:
            self.rates.add(rate)

    def _take(self, task: int, key: bytes, live: bool) -> int:
        slot = self.table.free.pop()
        self.table.occupy(slot, task, key)
        self.index[task][key] = slot
        if live:
            self._undo.opened.append(slot)
            self._protected[slot] = True
        return slot

    def _tensor(self, slots: Slots) -> torch.Tensor:
        return torch.from_numpy(slots)
