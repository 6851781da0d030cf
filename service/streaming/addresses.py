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
from service.streaming.operator import Edge
from service.streaming.timeline import Count
from service.streaming.turn import WORD, Span, Turn, WarmTurn, phase

if TYPE_CHECKING:
    from service.streaming.reading import Reading

SIGN = torch.iinfo(WORD).bits - 1
MOST_TAPS = 96
"""Of one group: enough to make the number of operations small, few enough to keep their tensors in the cache."""
AGAIN = 3
"""How often rounds of one shape have to come before what their addresses have in common is kept."""
MOST_KEPT = 1 << 20
"""Addresses of all shapes of a group, at most, for which that is done; each takes 16 bytes."""
REMEMBERED = 64


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
        self._seen: dict[tuple[object, ...], int | Regular] = {}
        self._kept = 0
        self._rebuilt: tuple[object, list[Tensor]] = (None, [])

    def addresses(self, turn: Turn, out: Span, into: Span, stores: Mapping[int, Store]) -> list[Int[Tensor, "M*k"]]:
        """Per reading, the rows of its store, or of its packed input where that has no store, window after window."""
        read = [stores[reading.view.value.index] for reading in self.readings if reading.view.value.index in stores]
        regular = self._regular(turn, out, into, read)
        if regular is not None:
            return regular.addresses(turn, into)
        shape = self._shape_rebuilt(turn, out, into, read)
        if shape is not None and shape == self._rebuilt[0]:
            return self._rebuilt[1]
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
        made = list(found.view(len(self.readings), self.taps, -1).transpose(1, 2).reshape(len(self.readings), -1).unbind())
        if shape is not None:
            self._rebuilt = (shape, made)
        return made

    def _shape_rebuilt(self, turn: Turn, out: Span, into: Span, read: Sequence[Store]) -> object:
        """Where rings of streams that are all alike are rebuilt, and what is read is staged: what the addresses depend on; None
        where more counts."""
        if not isinstance(turn, WarmTurn) or out.each is None or into.each is None or out.beyond is not None:
            return None
        if self.per != 1 or self.edge is not Edge.FILL or self._padding(out):
            return None
        lead = _lead(turn, out, into, self.stride)
        stage_at = read[0].stage_at if read else 0
        return None if lead is None else (len(turn.slots), out.each, into.each, lead, stage_at)

    def _regular(self, turn: Turn, out: Span, into: Span, read: Sequence[Store]) -> Regular | None:
        """What is known of rounds like this one, where it is a regular one and the like came before."""
        each, fed = out.each, into.each
        if each is None or fed is None or self.per != 1 or self.edge is not Edge.FILL or out.beyond is not None:
            return None
        if not any(store.depth for store in read):
            return None
        size = out.rows * len(self.offsets)
        if turn.final is not None or isinstance(turn, WarmTurn) or size > MOST_KEPT or self._padding(out):
            return None
        lead = _lead(turn, out, into, self.stride)
        if lead is None:
            return None
        key = (len(turn.slots), each, fed, lead, *(store.ring_at for store in read))
        seen = self._seen.get(key, 0)
        if isinstance(seen, Regular):
            return seen
        if len(self._seen) >= REMEMBERED or (seen + 1 == AGAIN and self._kept + size > MOST_KEPT):
            self._seen.clear()
            self._kept = 0
        self._seen[key] = seen + 1
        if seen + 1 < AGAIN:
            return None
        self._kept += size
        ahead = torch.arange(lead, lead + each * self.stride, self.stride, dtype=WORD) + self.offsets
        regular = self._seen[key] = Regular(ahead, self.taps, len(turn.slots), fed, read[0].stage_at, self._rings(read))
        return regular

    def _padding(self, out: Span) -> bool:
        """Whether any window begins before its input does."""
        first = out.earliest * self.stride // self.per
        return any(reading.padded and first + reading.offsets[0] < reading.view.low for reading in self.readings)

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


class Regular:
    """What the addresses of regular rounds have in common: as many streams, as many new elements of each, no padding in sight.

    Of every address it is known then whether it lies in a ring, at `slot * depth + ring_at + (index & (depth - 1))`, or in the
    staging area, where it is the same in each of these rounds. All parts are laid out as the addresses are: `[readings, M*k]`.
    """

    def __init__(
        self, ahead: Int[Tensor, "P n"], taps: int, streams: int, fed: int, stage_at: int, rings: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        each = ahead.shape[1]
        self._of_stream = each * taps

        def laid_out(numbers: Int[Tensor, "P _"]) -> Int[Tensor, "R 1 n*k"]:
            return numbers.expand(-1, each).view(-1, taps, each).transpose(1, 2).reshape(-1, 1, self._of_stream)

        def of_all(numbers: Int[Tensor, "R _ n*k"]) -> Int[Tensor, "R M*k"]:
            return numbers.expand(-1, streams, -1).flatten(1).contiguous()

        depth, mask, ring_at = (laid_out(column) for column in rings)
        ahead = laid_out(ahead)
        staged = ahead + torch.arange(stage_at, stage_at + streams * fed, fed, dtype=WORD).unsqueeze(1)
        old = ahead < 0
        self._ahead = of_all(ahead)
        self._mask = of_all(mask * old)
        self._depth = of_all(depth * old)
        self._begin = of_all(torch.where(old, ring_at, staged))

    def addresses(self, turn: Turn, into: Span) -> list[Int[Tensor, "M*k"]]:
        """Per reading, the rows of its store."""
        per_stream = torch.stack([phase(into.start), turn.slots]).to(WORD)
        index, slot = per_stream.unsqueeze(2).expand(-1, -1, self._of_stream).reshape(2, -1)
        found = self._ahead + index
        found &= self._mask
        found.addcmul_(slot, self._depth)
        found += self._begin
        return list(found.unbind())


def _lead(turn: Turn, out: Span, into: Span, stride: int) -> int | None:
    """How far the first window's origin is ahead of the input's first new element, where that is alike for all streams."""
    if out is into and stride == 1:
        return 0
    key = ("lead", out, into, stride)
    lead = turn.shared.get(key)
    if lead is None:
        least, most = torch.aminmax(out.start * stride - into.start)
        lead = turn.shared[key] = (int(least), int(most))
    return lead[0] if lead[0] == lead[1] else None


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
