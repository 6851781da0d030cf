"""The index arithmetic of one round: which elements of every value are computed, and where the elements they read lie."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from service.streaming.graph import Value
from service.streaming.native import Library, Packed
from service.streaming.timeline import Count

END_OF_TIME = torch.iinfo(torch.int64).max
WORD = torch.int32
"""Of addresses and of indices relative to a round: half the memory traffic of int64."""
LAP = 1 << 29
"""A multiple of every ring's depth, beyond every padding."""


def phase(index: Int64[Tensor, "B"]) -> Int64[Tensor, "B"]:
    """An index that lies where `index` lies in every ring, and is `index` while that is small; it fits a word."""
    return torch.where(index < LAP, index, (index & (LAP - 1)) + LAP)


@cache
def _depths(depths: tuple[int, ...]) -> tuple[Int64[Tensor, "D 1"], Int64[Tensor, "D 1"]]:
    """As columns, and what masks an index to each."""
    column = torch.tensor(depths).unsqueeze(1)
    return column, column - 1


class Span:
    """Elements `start[b] … stop[b] - 1` of every stream `b`, packed stream after stream."""

    beyond: Bool[Tensor, "M"] | None = None
    """Which packed rows are nobody's, where there are such."""

    def __init__(self, start: Int64[Tensor, "B"], stop: Int64[Tensor, "B"]) -> None:
        self.start = start
        self.stop = stop
        self.lengths: Int64[Tensor, "B"] = stop - start
        self.ends: Int64[Tensor, "B"] = self.lengths.cumsum(0)
        self.rows = int(self.ends[-1]) if start.shape[0] else 0
        self._slot: Int64[Tensor, "M"] | None = None
        self._ring_rows: dict[int, Int64[Tensor, "M"]] = {}
        self._last: dict[int, Span] = {}
        self._tiles: dict[int, Span] = {}

    @cached_property
    def offset(self) -> Int64[Tensor, "B"]:
        """The packed position of each stream's first row."""
        return self.ends - self.lengths

    @cached_property
    def to_stage(self) -> Int64[Tensor, "B"]:
        """What leads from an absolute index to the packed position."""
        return self.offset - self.start

    @cached_property
    def longest(self) -> int:
        return int(self.lengths.max()) if self.rows else 0

    @cached_property
    def each(self) -> int | None:
        """How many elements every stream has here, when all have as many."""
        return self.longest if self.rows and self.longest * self.start.shape[0] == self.rows else None

    @cached_property
    def earliest(self) -> int:
        """The lowest index at which any stream starts here."""
        return int(self.start.min()) if self.start.shape[0] else 0

    @cached_property
    def owner(self) -> Int64[Tensor, "M"]:
        """The stream of each packed row."""
        if self.each is not None:
            return torch.arange(len(self.start), device=self.start.device).unsqueeze(1).expand(-1, self.each).reshape(-1)
        # Counting where streams begin wakes no threads, which repeat_interleave does however small the batch is.
        return torch.bincount(self.offset, minlength=self.rows + 1)[: self.rows].cumsum(0).sub_(1)

    @cached_property
    def index(self) -> Int64[Tensor, "M"]:
        """The absolute index of each packed row in its stream."""
        if self.each is not None:
            return (self.start.unsqueeze(1) + torch.arange(self.each, device=self.start.device)).view(-1)
        position = torch.arange(self.rows, device=self.start.device)
        return position.sub_(self.to_stage.index_select(0, self.owner))

    def ring_rows(self, slots: Int64[Tensor, "B"], depth: int, alike: tuple[int, ...] = ()) -> Int64[Tensor, "M"]:
        """Where each packed row lies in rings of `depth` rows per slot.

        `alike` are the depths that will be asked for as well: few operations on much are quicker than many on little.
        """
        rows = self._ring_rows.get(depth)
        if rows is None:
            depths = tuple(other for other in alike if other not in self._ring_rows) if depth in alike else (depth,)
            column, mask = _depths(depths)
            found = self.index & mask
            if self.each is not None:
                found.view(len(depths), -1, self.each).add_((slots * column).unsqueeze(2))
            else:
                if self._slot is None:
                    self._slot = slots.index_select(0, self.owner)
                found.addcmul_(self._slot, column)
            self._ring_rows.update(zip(depths, found.unbind(), strict=True))
            rows = self._ring_rows[depth]
        return rows

    def last_ring_rows(self, slots: Int64[Tensor, "B"], depth: int) -> Int64[Tensor, "B*depth"]:
        """Where each stream's last `depth` elements lie; every stream has at least as many here."""
        assert self.each is not None
        index = self.index.view(-1, self.each)[:, self.each - depth :]
        return (index & (depth - 1)).add_(slots.unsqueeze(1), alpha=depth).view(-1)

    def within(self, whole: Span) -> Int64[Tensor, "M"]:
        """The packed positions of these elements in a span that has them too."""
        return self.index + whole.to_stage.index_select(0, self.owner)

    def last(self, count: int) -> Span:
        """Of every stream, the last `count` elements here at most; itself where no stream has more."""
        if self.longest <= count:
            return self
        last = self._last.get(count)
        if last is None:
            last = self._last[count] = Span(torch.maximum(self.start, self.stop - count), self.stop)
        return last

    def tiles(self, size: int) -> Span:
        """The tiles of `size` neighbours that these elements lie in; tile `q` begins at element `q * size`."""
        tiles = self._tiles.get(size)
        if tiles is None:
            first = torch.div(self.start, size, rounding_mode="floor")
            stop = torch.div(self.stop + (size - 1), size, rounding_mode="floor")
            tiles = self._tiles[size] = Span(first, torch.where(self.lengths > 0, stop, first))
        return tiles

    def in_tiles(self, size: int) -> Int64[Tensor, "M"]:
        """Where each packed row lies in its packed tiles."""
        return self.index + (self.tiles(size).to_stage * size).index_select(0, self.owner)

    @cached_property
    def time_major(self) -> TimeMajor:
        """The rows in the order in which a recurrence takes them."""
        return TimeMajor.of(self)


@dataclass(frozen=True)
class TimeMajor:
    """A permutation of packed rows: first every stream's first row, longest streams first, then every second row, …"""

    streams: Int64[Tensor, "B"]
    rows: Int64[Tensor, "M"]
    places: Int64[Tensor, "M"]
    active: list[int]

    @staticmethod
    def of(span: Span) -> TimeMajor:
        if span.each is not None:
            count = len(span.start)
            in_order = torch.arange(span.rows, device=span.start.device)
            rows, places = in_order.view(count, -1).t().reshape(-1), in_order.view(-1, count).t().reshape(-1)
            return TimeMajor(in_order[:count], rows, places, [count] * span.each)
        streams = span.lengths.sort(descending=True, stable=True).indices
        rank = torch.empty_like(streams).scatter_(0, streams, torch.arange(len(streams), device=streams.device))
        step = span.index - span.start.index_select(0, span.owner)
        rows = (step * len(streams) + rank.index_select(0, span.owner)).argsort()
        places = torch.empty_like(rows).scatter_(0, rows, torch.arange(span.rows, device=rows.device))
        active = torch.bincount(step, minlength=span.longest).tolist() if span.rows else []
        return TimeMajor(streams, rows, places, active)


class Turn:
    """One round of one step: streams in `slots` go from `before` to `after` frames, those in `final` end there."""

    def __init__(
        self,
        slots: Int64[Tensor, "B"],
        before: Int64[Tensor, "B"],
        after: Int64[Tensor, "B"],
        final: Bool[Tensor, "B"] | None,
        own: Library | None = None,
    ) -> None:
        self.slots = slots
        self.before = before
        self.after = after
        self.final = final
        self.own = own
        """Kernels of our own; None where torch's have to do."""
        self.dense = False
        """Whether convolutions take the dense way, where they can."""
        # Kept here, not in a span: a span that its own entries name would live on until a garbage collection.
        self.shared: dict[object, Any] = {}
        self._spans: dict[object, Span] = {}
        self._of_value: dict[int, Span] = {}
        self._starts: dict[Count, Int64[Tensor, "B"]] = {}

    def span(self, value: Value) -> Span:
        """The elements of `value` that this round computes; one object for all values that share them."""
        span = self._of_value.get(value.index)
        if span is None:
            span = self._of_value[value.index] = self._make_span(value)
        return span

    def _make_span(self, value: Value) -> Span:
        timeline = value.timeline
        key: object = timeline.ready if self.final is None else timeline
        span = self._spans.get(key)
        if span is None:
            start = self._starts.get(timeline.ready)
            if start is None:
                start = self._starts[timeline.ready] = timeline.ready(self.before)
            span = self._spans[key] = Span(start, timeline.until(self.after, self.final))
        return span

    def packed(self, span: Span) -> Packed:
        """The span's elements as a kernel takes them."""
        return Packed(self.slots, span.start, span.stop, span.offset)

    def limit(self, high: Count) -> Int64[Tensor, "B"]:
        """Where data ends for streams that end now; nowhere for the others."""
        assert self.final is not None
        return torch.where(self.final, high(self.after), END_OF_TIME)


class WarmTurn(Turn):
    """Recomputes what rings must hold for streams that are at `frames`, from the tails of the program's sources."""

    def __init__(
        self, slots: Int64[Tensor, "B"], frames: Int64[Tensor, "B"], warm: dict[int, Count], own: Library | None = None
    ) -> None:
        super().__init__(slots, frames, frames, None, own)
        self.warm = warm

    def _make_span(self, value: Value) -> Span:
        warm = self.warm[value.index]
        key = (warm, value.timeline.ready)
        span = self._spans.get(key)
        if span is None:
            stop = value.timeline.ready(self.after)
            span = self._spans[key] = Span(torch.minimum(warm(self.after), stop), stop)
        return span


def pieces(turn: Turn, lengths: Int64[Tensor, "B"], most: int) -> list[tuple[Turn, slice]]:
    """The same work in rounds of at most `most` packed frames, each with its frames' rows.

    A round has whole streams. Only a stream of more than `most` frames is cut, into rounds of its own.
    """
    ends: list[int] = lengths.cumsum(0).tolist()
    turns = []
    first = begun = 0
    while first < len(ends):
        stop = bisect_right(ends, begun + most, lo=first)
        if stop > first:
            streams = slice(first, stop)
            final = None if turn.final is None else turn.final[streams]
            turns.append(
                (
                    Turn(turn.slots[streams], turn.before[streams], turn.after[streams], final, turn.own),
                    slice(begun, ends[stop - 1]),
                )
            )
        else:
            stop = first + 1
            streams = slice(first, stop)
            for row in range(begun, ends[first], most):
                end = min(row + most, ends[first])
                fed = turn.before[streams] + (row - begun)
                final = None if turn.final is None or end < ends[first] else turn.final[streams]
                turns.append((Turn(turn.slots[streams], fed, fed + (end - row), final, turn.own), slice(row, end)))
        first, begun = stop, ends[stop - 1]
    return turns
