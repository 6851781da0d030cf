"""How a node reads one input: the rows themselves, or windows gathered from staging area, ring and fill rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from service.streaming.arena import Store
from service.streaming.graph import View
from service.streaming.operator import Edge, Window, Windows
from service.streaming.turn import Span, Turn

Rows = Mapping[int, Float[Tensor, "M C"]]
Stores = Mapping[int, Store]
"""Both by value index."""


class Reading:
    """One input of one node, prepared: reads through `view` what `window` asks for."""

    def __init__(self, view: View, window: Window) -> None:
        self.view = view
        self.window = window
        self.taps = len(window.offsets)
        self.offsets = [offset + view.shift for offset in window.offsets]
        self.fill = window.fill if view.fill is None else view.fill
        self.padded = view.fill is not None or not window.is_same_index
        self.in_place = self.offsets == [0] and window.stride == 1
        self._tiled = torch.empty(0, dtype=torch.int64)

    def packed(self, rows: Rows) -> Float[Tensor, "M_in C"]:
        """The value's new rows as they are."""
        return rows[self.view.value.index]

    def rows(self, turn: Turn, out: Span, rows: Rows, stores: Stores) -> Float[Tensor, "M*k C"]:
        """The elements read, window after window."""
        if self.in_place and out is turn.span(self.view.value):
            return self.packed(rows)
        return self._gather(turn, out, self.packed(rows), stores.get(self.view.value.index))

    def windows(self, turn: Turn, out: Span, rows: Rows, stores: Stores) -> Windows:
        """The window of each output element."""
        values = self.rows(turn, out, rows, stores).view(out.rows, self.taps, self.view.channels)
        totals = None
        if turn.final is not None:
            totals = turn.limit(self.view.timeline.total).index_select(0, out.owner)
        return Windows(values, out, totals)

    def expanded(self, turn: Turn, out: Span, made: Float[Tensor, "F C"], factor: int) -> Float[Tensor, "M C"]:
        """Of the elements made from all new input rows, those that the output needs; all of them, except when rings are rebuilt."""
        if out.rows == len(made):
            return made
        into = turn.span(self.view.value)
        return made.index_select(0, out.index + into.to_stage.index_select(0, out.owner) * factor)

    def _gather(self, turn: Turn, out: Span, packed: Tensor, store: Store | None) -> Float[Tensor, "Mk C"]:
        absolute = self._absolute(turn, out)
        if self.window.edge is not Edge.FILL:
            absolute = self._inside(turn, out, absolute)
        into = turn.span(self.view.value)
        rows = absolute + self._per_element(turn, out, "stage", into, into.to_stage)
        if store is None:
            return packed.index_select(0, rows)
        rows.add_(store.stage_at)
        if store.depth:
            slot = self._per_element(turn, out, "slot", None, turn.slots)
            in_ring = (absolute & (store.depth - 1)).add_(slot, alpha=store.depth).add_(store.ring_at)
            is_new = absolute >= self._per_element(turn, out, "start", into, into.start)
            rows = torch.where(is_new, rows, in_ring)
        if self.padded:
            outside = self._outside(turn, out, absolute)
            if outside is not None:
                rows.masked_fill_(outside, store.fills.index(self.fill))
        return store.rows.index_select(0, rows)

    def _absolute(self, turn: Turn, out: Span) -> Int64[Tensor, "Mk"]:
        """The index in the value of every element read, before bounds."""
        key = (out, "index", self.window.stride, self.taps)
        index = turn.shared.get(key)
        if index is None:
            index = out.index * self.window.stride if self.window.stride > 1 else out.index
            index = turn.shared[key] = _repeated(index, self.taps)
        if self._tiled.numel() < index.numel() or self._tiled.device != index.device:
            self._tiled = torch.tensor(self.offsets, device=index.device).repeat(2 * out.rows)
        return index + self._tiled[: index.numel()]

    def _per_element(self, turn: Turn, out: Span, name: str, of: object, per_stream: Int64[Tensor, "B"]) -> Int64[Tensor, "Mk"]:
        """A number of each stream, spread over the elements that the output's windows read; made once for all layers alike."""
        key = (out, name, of, self.taps)
        spread = turn.shared.get(key)
        if spread is None:
            spread = turn.shared[key] = _repeated(per_stream.index_select(0, out.owner), self.taps)
        return spread

    def _inside(self, turn: Turn, out: Span, absolute: Int64[Tensor, "Mk"]) -> Int64[Tensor, "Mk"]:
        """Indices beyond an edge, led back inside."""
        reflects = self.window.edge is Edge.REFLECT
        absolute = absolute.abs() if reflects else absolute.clamp(min=0)
        if turn.final is None:
            return absolute
        last = _repeated(turn.limit(self.view.value.timeline.total).index_select(0, out.owner), self.taps) - 1
        return torch.minimum(absolute, torch.where(absolute > last, 2 * last - absolute, absolute) if reflects else last)

    def _outside(self, turn: Turn, out: Span, absolute: Int64[Tensor, "Mk"]) -> Tensor | None:
        """Which elements lie in padding; None when none can, which is most steps."""
        outside = None
        if out.earliest * self.window.stride + self.offsets[0] < self.view.low:
            outside = absolute < self.view.low
        if turn.final is not None:
            limit = turn.limit(self.view.high or self.view.value.timeline.total)
            beyond = absolute >= _repeated(limit.index_select(0, out.owner), self.taps)
            outside = beyond if outside is None else outside | beyond
        return outside


def _repeated(rows: Int64[Tensor, "M"], taps: int) -> Int64[Tensor, "Mk"]:
    return rows if taps == 1 else rows.repeat_interleave(taps)
