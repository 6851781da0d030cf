"""Where the elements that windows read lie: in the staging area, in a ring, or in a fill row.

Windows that are alike in time (same output elements, same input elements, same stride) are addressed together, one row of numbers
per tap, whatever their dilations and whosever rings they read: the arithmetic is done once per step and rate, not per layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from service.streaming.arena import Store
from service.streaming.native import Library, Readings
from service.streaming.operator import Edge
from service.streaming.timeline import Count
from service.streaming.turn import WORD, Span, Turn, WarmTurn, phase

if TYPE_CHECKING:
    from service.streaming.reading import Reading

SIGN = torch.iinfo(WORD).bits - 1
MOST_TAPS = 96
"""Of one group: enough to make the number of operations small, few enough to keep their tensors in the cache."""


@dataclass(frozen=True)
class Origins:
    """Of each output element, what the addresses of its window start from; all `[M]`.

    `ahead` is the window's origin relative to the input's first new element, `packed` and `phase` are that element's row in the
    staging area and its index in the stream, `slot` is the stream's.
    """

    ahead: Int[Tensor, "M"]
    packed: Int[Tensor, "M"]
    phase: Int[Tensor, "M"]
    slot: Int[Tensor, "M"]

    @property
    def parts(self) -> tuple[Int[Tensor, "M"], ...]:
        return self.ahead, self.packed, self.phase, self.slot


class Group:
    """Readings to be addressed together, of as many taps each; all of them read stores, or none does."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.readings = tuple(readings)
        self.stride = readings[0].window.stride
        self.per = readings[0].window.per
        self.edge = readings[0].window.edge
        self.taps = readings[0].taps
        self.offsets = _column([offset for reading in readings for offset in reading.offsets])
        self._places: tuple[list[int], tuple[Tensor, Tensor, Tensor]] | None = None
        self._described: tuple[object, Readings | None] = (None, None)

    def addresses(self, turn: Turn, out: Span, into: Span, stores: Mapping[int, Store]) -> list[Int[Tensor, "M*k"]]:
        """Per reading, the rows of its store, or of its packed input where that has no store, window after window."""
        read = [stores[reading.view.value.index] for reading in self.readings if reading.view.value.index in stores]
        if turn.own is not None and self.per == 1 and self.edge is Edge.FILL and out.beyond is None:
            return self._by_kernel(turn.own, turn, out, into, read)
        rows = origins(turn, out, into, self.stride, self.per)
        ahead = rows.ahead + self.offsets
        if self.edge is not Edge.FILL:
            ahead = self._inside(turn, out, into, rows, ahead)
        found = ahead + (rows.packed + read[0].stage_at if read else rows.packed)
        if any(store.depth for store in read) and not isinstance(turn, WarmTurn):
            depth, mask, ring_at = self._rings(read)
            in_ring = ahead + rows.phase
            in_ring &= mask
            in_ring += rows.slot * depth
            in_ring += ring_at
            # where(ahead < 0, in_ring, found); a sign's bits select several times faster than a condition does.
            in_ring -= found
            in_ring &= ahead >> SIGN
            found += in_ring
        if read and self.edge is Edge.FILL:
            self._fill(turn, out, into, rows, ahead, found, read[0].fills)
        if out.beyond is not None:
            found.masked_fill_(out.beyond, 0)
        return list(found.view(len(self.readings), self.taps, -1).transpose(1, 2).reshape(len(self.readings), -1).unbind())

    def _by_kernel(self, own: Library, turn: Turn, out: Span, into: Span, read: Sequence[Store]) -> list[Int[Tensor, "M*k"]]:
        """By a kernel of our own, element by element: as quick for rounds of any shape, padding and ends of streams included."""
        rebuilt = isinstance(turn, WarmTurn)
        key = (rebuilt, [store.ring_at for store in read])
        if self._described[0] != key:
            self._described = (key, self.describe(read, rebuilt))
        readings = self._described[1]
        assert readings is not None
        limit = None
        if turn.final is not None:
            highs = [reading.view.high or reading.view.value.timeline.total for reading in self.readings]
            limit = torch.stack([turn.limit(high) for high in highs])
        return own.addresses(readings, turn.packed(out), out.rows, turn.packed(into), self.stride, limit)

    def describe(self, read: Sequence[Store], rebuilt: bool) -> Readings:
        """The readings as a kernel takes them; `rebuilt`: nothing is read from rings."""
        padded = [bool(read) and reading.padded for reading in self.readings]
        return Readings(
            offsets=torch.tensor([reading.offsets for reading in self.readings]),
            depth=torch.tensor([0 if rebuilt else store.depth for store in read] or [0] * len(self.readings)),
            ring_at=torch.tensor([store.ring_at for store in read] or [0] * len(self.readings)),
            low=torch.tensor([reading.view.low for reading in self.readings]),
            fill=torch.tensor(
                [read[0].fills.index(reading.fill) if pads else -1 for reading, pads in zip(self.readings, padded, strict=True)]
            ),
            stage_at=read[0].stage_at if read else 0,
        )

    def _rings(self, read: Sequence[Store]) -> tuple[Tensor, Tensor, Tensor]:
        """Per tap, its ring's depth, what masks an index to it, and where the rings begin; made anew when an arena has grown."""
        begin = [store.ring_at for store in read]
        if self._places is None or self._places[0] != begin:
            # A value without history has no old elements to be found: any address will do.
            depths = [max(1, store.depth) for store in read]
            spread = [(depth, depth - 1, at if store.depth else 0) for depth, at, store in zip(depths, begin, read, strict=True)]
            columns = zip(*(entry for entry in spread for _ in range(self.taps)), strict=True)
            depth, mask, ring_at = (_column(column).to(self.offsets.device) for column in columns)
            self._places = (begin, (depth, mask, ring_at))
        return self._places[1]

    def _inside(self, turn: Turn, out: Span, into: Span, rows: Origins, ahead: Tensor) -> Int[Tensor, "P M"]:
        """Elements beyond an edge, led back inside."""
        index = ahead + rows.phase
        inside = index.abs() if self.edge is Edge.REFLECT else index.clamp(min=0)
        ahead = inside - rows.phase
        if turn.final is None:
            return ahead
        last = _limit(turn, out, into, self.readings[0].view.value.timeline.total) - 1
        if self.edge is Edge.REFLECT:
            return torch.where(ahead > last, 2 * last - ahead, ahead)
        return torch.minimum(ahead, last)

    def _fill(self, turn: Turn, out: Span, into: Span, rows: Origins, ahead: Tensor, found: Tensor, fills: Sequence[float]) -> None:
        """Leads what lies in padding to the fill rows; in most steps nothing does."""
        first = 0
        for reading in self.readings:
            part = slice(first, first + self.taps)
            first += self.taps
            if not reading.padded:
                continue
            fill = fills.index(reading.fill)
            if out.earliest * self.stride // self.per + reading.offsets[0] < reading.view.low:
                found[part].masked_fill_(ahead[part] + rows.phase < reading.view.low, fill)
            if turn.final is not None:
                limit = _limit(turn, out, into, reading.view.high or reading.view.value.timeline.total)
                found[part].masked_fill_(ahead[part] >= limit, fill)


def _column(numbers: Iterable[int]) -> Int[Tensor, "P 1"]:
    return torch.tensor(list(numbers), dtype=WORD).unsqueeze(1)


def origins(turn: Turn, out: Span, into: Span, stride: int, per: int) -> Origins:
    """Of the output elements' windows into the elements of `into`."""
    key = (out, into, stride, per)
    rows: Origins | None = turn.shared.get(key)
    if rows is None:
        origin = (out.start - out.offset) * stride - into.start
        per_stream = torch.stack([origin, into.offset, phase(into.start), turn.slots]).to(WORD)
        if out.each is not None:
            origin, packed, index, slot = per_stream.unsqueeze(2).expand(-1, -1, out.each).reshape(4, -1)
        else:
            origin, packed, index, slot = per_stream.index_select(1, out.owner)
        if per == 1:
            ahead = torch.arange(0, out.rows * stride, stride, dtype=WORD, device=origin.device).add_(origin)
        else:
            read = torch.div(out.index * stride, per, rounding_mode="floor")
            ahead = read.sub_(into.start.index_select(0, out.owner)).to(WORD)
        rows = turn.shared[key] = Origins(ahead, packed, index, slot)
    return rows


def _limit(turn: Turn, out: Span, into: Span, high: Count) -> Int[Tensor, "M"]:
    """Per output element, how many elements of the input, counted from its first new one, are data."""
    ahead = (turn.limit(high) - into.start).clamp_(max=torch.iinfo(WORD).max // 2)
    return ahead.to(WORD).index_select(0, out.owner)
