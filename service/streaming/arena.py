"""The arena: every state tensor of a program, for all slots."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

DUMMY_SLOT = 0


class Store:
    """The rows of one value: constant fill rows, then a staging area for the round at hand, then a ring for every slot.

    One tensor holds all three, so that a window is gathered in one call wherever its parts lie. Element `j` of slot `s` is row
    `s * depth + j % depth` of the rings; `depth` is a power of two, or 0 for a value without history.
    """

    def __init__(self, slots: int, depth: int, channels: int, staged: int, fills: Sequence[float], like: Tensor) -> None:
        self.depth = depth
        self.channels = channels
        self.fills = tuple(fills)
        self._like = like
        self._allocate(slots, staged)

    def _allocate(self, slots: int, staged: int) -> None:
        self.slots = slots
        self.staged = staged
        self.stage_at = len(self.fills)
        self.ring_at = self.stage_at + staged
        self.rows: Float[Tensor, "rows C"] = self._like.new_empty(self.ring_at + slots * self.depth, self.channels)
        for row, fill in enumerate(self.fills):
            self.rows[row] = fill
        self.ring: Float[Tensor, "slots_depth C"] = self.rows[self.ring_at :]

    def stage(self, count: int) -> Float[Tensor, "M C"]:
        """Where the `count` new rows of this round go."""
        if count > self.staged:
            self.resize(self.slots, 2 * count)
        return self.rows[self.stage_at : self.stage_at + count]

    def resize(self, slots: int, staged: int | None = None) -> None:
        """Grows in place; rings keep their content."""
        kept = self.ring
        self._allocate(slots, self.staged if staged is None else staged)
        self.ring[: len(kept)] = kept

    @property
    def per_slot(self) -> Float[Tensor, "slots depth_C"]:
        """Every slot's ring as one row."""
        return self.ring.view(self.slots, self.depth * self.channels)


class State:
    """What a program remembers of all streams; changed in place by `step`, `thaw`, `rollback`, `reset` and `resize`.

    `frames [slots]` counts the frames each stream has fed; `stores` are the rings by value index, `hidden` the recurrences'
    memories by node index, `program` the fingerprint of the program that made it.
    """

    def __init__(
        self,
        program: str,
        slots: int,
        device: torch.device,
        stores: dict[int, Store],
        hidden: dict[int, Float[Tensor, "slots S"]],
    ) -> None:
        self.program = program
        self.slots = slots
        self.device = device
        self.frames: Int64[Tensor, "slots"] = torch.zeros(slots, dtype=torch.int64, device=device)
        self.stores = stores
        self.hidden = hidden
