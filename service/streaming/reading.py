"""How a node reads one input: the rows themselves, or windows gathered from staging area, ring and fill rows."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from service.streaming.arena import Store
from service.streaming.graph import View
from service.streaming.operator import Window, Windows
from service.streaming.turn import Span, Turn


class Reading:
    """One input of one node, prepared: reads through `view` what `window` asks for."""

    def __init__(self, view: View, window: Window) -> None:
        self.view = view
        self.window = window
        self.taps = len(window.offsets)
        self.offsets = [offset + view.shift for offset in window.offsets]
        self.fill = window.fill if view.fill is None else view.fill
        self.padded = view.fill is not None or not window.is_same_index
        self._tiled = torch.empty(0, dtype=torch.int64)

    def rows(self, turn: Turn, out: Span, packed: Tensor, store: Store | None) -> Float[Tensor, "M C"]:
        """The elements read, window after window."""
        if out is turn.span(self.view.value) and self.offsets == [0] and self.window.stride == 1:
            return packed
        return self._gather(turn, out, packed, store)

    def windows(self, turn: Turn, out: Span, packed: Tensor, store: Store | None) -> Windows:
        """The window of each output element."""
        values = self.rows(turn, out, packed, store).view(out.rows, self.taps, packed.shape[1])
        totals = None
        if turn.final is not None:
            totals = turn.limit(self.view.timeline.total).index_select(0, out.owner)
        return Windows(values, out, totals)

    def _gather(self, turn: Turn, out: Span, packed: Tensor, store: Store | None) -> Float[Tensor, "Mk C"]:
        absolute = self.absolute(out)
        into = turn.span(self.view.value)
        start, staged_at, ring_at = self._bases(out, into, turn, store)
        rows = absolute + staged_at
        if store is None:
            return packed.index_select(0, rows)
        if store.depth:
            in_ring = (absolute & (store.depth - 1)).add_(ring_at)
            rows = torch.where(absolute >= start, rows, in_ring)
        if self.padded:
            outside = self._outside(turn, out, absolute)
            if outside is not None:
                rows = rows.masked_fill_(outside, store.fills.index(self.fill))
        return store.rows.index_select(0, rows)

    def absolute(self, out: Span) -> Int64[Tensor, "Mk"]:
        """The index in the value of every element read, before bounds."""
        key = ("index", self.window.stride, self.taps)
        scaled = out.bases.get(key)
        if scaled is None:
            index = out.index * self.window.stride if self.window.stride > 1 else out.index
            scaled = out.bases[key] = (index.repeat_interleave(self.taps) if self.taps > 1 else index,)
        if self._tiled.numel() < scaled[0].numel() or self._tiled.device != scaled[0].device:
            offsets = torch.tensor(self.offsets, device=scaled[0].device)
            self._tiled = offsets.repeat(2 * out.rows)
        return scaled[0] + self._tiled[: scaled[0].numel()]

    def _bases(self, out: Span, into: Span, turn: Turn, store: Store | None) -> tuple[Tensor, ...]:
        """Per element read: where the new rows begin in time, in the staging area, and where the slot's ring begins."""
        stage_at, ring_at, depth = (0, 0, 0) if store is None else (store.stage_at, store.ring_at, store.depth)
        key = (out, into, self.taps, ring_at, depth)
        bases = turn.bases.get(key)
        if bases is None:
            owner = out.owner.repeat_interleave(self.taps) if self.taps > 1 else out.owner
            bases = turn.bases[key] = (
                into.start.index_select(0, owner),
                (into.offset - into.start + stage_at).index_select(0, owner),
                (turn.slots * depth + ring_at).index_select(0, owner),
            )
        return bases

    def _outside(self, turn: Turn, out: Span, absolute: Int64[Tensor, "Mk"]) -> Tensor | None:
        """Which elements lie in padding; None when none can, which is most steps."""
        outside = None
        if out.earliest * self.window.stride + self.offsets[0] < self.view.low:
            outside = absolute < self.view.low
        if turn.final is not None:
            limit = turn.limit(self.view.high or self.view.value.timeline.total)
            owner = out.owner.repeat_interleave(self.taps) if self.taps > 1 else out.owner
            beyond = absolute >= limit.index_select(0, owner)
            outside = beyond if outside is None else outside | beyond
        return outside
