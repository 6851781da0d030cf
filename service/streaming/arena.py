"""The arena: every state tensor of a program, for all slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

if TYPE_CHECKING:
    from service.streaming.device.rounds import Rounds
    from service.streaming.tape import Tape

DUMMY_SLOT = 0
WIDE = (torch.complex128, torch.float64)
ALIGNED = 128
"""Rows of a multiple of which staging areas begin on a device: 512 bytes, as the memory does that is allocated there, so that a
library that looks at addresses chooses the same kernel for both."""
MOST_ROWS = torch.iinfo(torch.int32).max
MOST_ROOMS = 256
GRAIN = 32768
"""Numbers from which torch shares a copy between threads."""


class Store:
    """The rows of one value: constant fill rows, then a staging area for the round at hand, then a ring for every slot.

    One tensor holds all three, so that a window is gathered in one call wherever its parts lie. Element `j` of slot `s` is row
    `s * depth + j % depth` of the rings; `depth` is a power of two, or 0 for a value without history. The staging
    area begins at a multiple of `aligned` rows.
    """

    def __init__(
        self, slots: int, depth: int, channels: int, staged: int, fills: Sequence[float], like: Tensor, aligned: int = 1
    ) -> None:
        self.depth = depth
        self.channels = channels
        self.fills = tuple(fills)
        self._like = like
        self.stage_at = -(-len(self.fills) // aligned) * aligned
        self._allocate(slots, staged)

    def _allocate(self, slots: int, staged: int) -> None:
        ring_at = self.stage_at + staged
        if ring_at + slots * self.depth > MOST_ROWS:
            raise ValueError(f"{slots} slots of {self.depth} rows are more than one arena addresses ({MOST_ROWS}); use fewer slots")
        # Before anything changes: there may be no memory for it.
        rows: Float[Tensor, "rows C"] = self._like.new_empty(ring_at + slots * self.depth, self.channels)
        self.slots, self.staged, self.ring_at, self.rows = slots, staged, ring_at, rows
        for row, fill in enumerate(self.fills):
            self.rows[row] = fill
        self.ring: Float[Tensor, "slots_depth C"] = self.rows[self.ring_at :]
        bytes_of_row = self.channels * self.rows.itemsize
        self._wide = next((dtype for dtype in WIDE if bytes_of_row % dtype.itemsize == 0), self.rows.dtype)
        self._wide_ring = self.ring.view(self._wide)
        self._fresh = self.rows[self.stage_at : self.stage_at]
        self._count = 0

    def put(self, places: Int64[Tensor, "M"], rows: Float[Tensor, "M C"]) -> None:
        """Copies rows into the rings, as few and as wide numbers as fit: torch moves them one by one."""
        moved = rows.view(self._wide)
        if moved.numel() < GRAIN:
            # Takes two thirds of the other's time, as long as one thread does it.
            self._wide_ring.index_put_((places,), moved)
        else:
            self._wide_ring.index_copy_(0, places, moved)

    def reserve(self, count: int) -> None:
        """Makes room for `count` new rows; addresses taken before are void then."""
        if count > self.staged:
            self.resize(self.slots, 2 * count)

    def stage(self, count: int) -> Float[Tensor, "M C"]:
        """Where the `count` new rows of this round go."""
        if count != self._count:
            self.reserve(count)
            self._fresh = self.rows[self.stage_at : self.stage_at + count]
            self._count = count
        return self._fresh

    def resize(self, slots: int, staged: int | None = None) -> None:
        """Grows in place; rings keep their content."""
        kept = self.ring
        self._allocate(slots, self.staged if staged is None else staged)
        self.ring[: len(kept)] = kept

    @property
    def per_slot(self) -> Float[Tensor, "slots depth_C"]:
        """Every slot's ring as one row."""
        return self.ring.view(self.slots, self.depth * self.channels)


class Scratch:
    """Memory for gathered windows, kept from node to node: fresh memory of that size costs more than what is done with it."""

    def __init__(self, like: Tensor) -> None:
        self._lanes: dict[int, Tensor] = {}
        self._like = like
        self._addresses: frozenset[int] = frozenset()
        self._rooms: dict[tuple[int, int, int], Tensor] = {}

    def rows(self, lane: int, count: int, channels: int) -> Float[Tensor, "M C"]:
        """Room for `count` rows, valid until the lane is asked for again."""
        room = self._rooms.get((lane, count, channels))
        if room is None:
            room = self._make_room(lane, count, channels)
        return room

    def _make_room(self, lane: int, count: int, channels: int) -> Float[Tensor, "M C"]:
        size = count * channels
        memory = self._lanes.get(lane)
        if memory is None or len(memory) < size:
            # Zeros, so that no garbage that was never written slows a product down.
            memory = self._lanes[lane] = self._like.new_zeros(size + size // 4)
            self._addresses = frozenset(kept.untyped_storage().data_ptr() for kept in self._lanes.values())
            self._rooms.clear()
        if len(self._rooms) >= MOST_ROOMS:
            self._rooms.clear()
        room = self._rooms[lane, count, channels] = memory[:size].view(count, channels)
        return room

    def holds(self, rows: Tensor) -> bool:
        """Whether the tensor is a part of this memory."""
        return rows.untyped_storage().data_ptr() in self._addresses


class State:
    """What a program remembers of all streams; changed in place by `step`, `thaw`, `rollback`, `reset` and `resize`.

    `frames [slots]` counts the frames each stream has fed, `behind` marks the streams of which only the sources hold what they
    should, both always on the host; `stores` are the rings by value index, `hidden` the recurrences' memories by node index,
    `program` the fingerprint of the program that made it, `rounds` what an accelerator needs besides, `tape` the calls
    of kernels of our own.
    """

    def __init__(
        self,
        program: str,
        slots: int,
        like: Tensor,
        stores: dict[int, Store],
        hidden: dict[int, Float[Tensor, "slots S"]],
        rounds: Rounds | None = None,
    ) -> None:
        self.program = program
        self.slots = slots
        self.like = like
        self.device = like.device
        self.frames: Int64[Tensor, "slots"] = torch.zeros(slots, dtype=torch.int64)
        self.behind: Bool[Tensor, "slots"] = torch.zeros(slots, dtype=torch.bool)
        self._any_behind = False
        self.stores = stores
        self.hidden = hidden
        self.scratch = Scratch(like)
        self.rounds = rounds
        self.tape: Tape | None = None

    def holds(self, rows: Tensor) -> bool:
        """Whether the tensor is a part of a store."""
        address = rows.untyped_storage().data_ptr()
        return any(address == store.rows.untyped_storage().data_ptr() for store in self.stores.values())

    def fall_behind(self, slots: Int64[Tensor, "B"]) -> None:
        """What these streams' other rings hold is not true any more."""
        self.behind.index_fill_(0, slots, True)
        self._any_behind = True

    def those_behind(self, slots: Int64[Tensor, "B"]) -> Int64[Tensor, "C"] | None:
        """Which of `slots` are; None where none is."""
        found = slots[self.behind.index_select(0, slots)] if self._any_behind else slots[:0]
        return found if len(found) else None

    def caught_up(self, slots: Int64[Tensor, "B"]) -> None:
        """These are no longer behind."""
        if self._any_behind:
            self.behind.index_fill_(0, slots, False)
            self._any_behind = bool(self.behind.any())

    def send(self, *tensors: Tensor) -> list[Tensor]:
        """Tensors of the host where the state is."""
        return list(tensors) if self.rounds is None else self.rounds.staging.send(*tensors)

    def fetch(self, *tensors: Tensor) -> list[Tensor]:
        """Tensors of the state on the host."""
        return list(tensors) if self.rounds is None else self.rounds.staging.fetch(*tensors)
