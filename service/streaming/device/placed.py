"""What a round's positions are on the device: per stream they come from the host, per row they are worked out there.

A filled turn has one stream more than the level allows, in the dummy slot and without rows of its own: all rows beyond those of the
round are taken for its rows, and whatever they would read or write is led to the dummy slot or to a fill row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from service.streaming.device.levels import Level
from service.streaming.device.tables import Tables
from service.streaming.graph import Value
from service.streaming.operator import Windows
from service.streaming.timeline import Count
from service.streaming.turn import END_OF_TIME, Span, TimeMajor, Turn, WarmTurn

Where = Callable[[Turn], Span]
"""Finds the elements of a value that a round computes."""


class FilledSpan(Span):
    """`rows` elements whatever the round has: those of its streams, then the dummy stream's."""

    def __init__(self, start: Int64[Tensor, "B+1"], stop: Int64[Tensor, "B+1"], rows: int, tiles: dict[int, int]) -> None:
        self.start = start
        self.stop = stop
        self.rows = rows
        self.lengths = stop - start
        self.ends = self.lengths.cumsum(0)
        self._slot = None
        self._ring_rows = {}
        self._fitting = tiles
        self._in_tiles: dict[int, FilledSpan] = {}

    each = None
    """Whether streams are alike is not known before the round."""
    earliest = 0
    """No index is lower; that some stream begins here cannot be excluded."""

    @cached_property
    def place(self) -> Int64[Tensor, "M"]:
        return torch.arange(self.rows, device=self.start.device)

    @cached_property
    def owner(self) -> Int64[Tensor, "M"]:
        return torch.searchsorted(self.ends, self.place, right=True).clamp_(max=len(self.ends) - 1)

    @cached_property
    def beyond(self) -> Bool[Tensor, "M"]:  # type: ignore[override]
        return self.place >= self.ends[-1]

    @cached_property
    def index(self) -> Int64[Tensor, "M"]:
        return self.place - self.to_stage.index_select(0, self.owner)

    def ring_rows(self, slots: Int64[Tensor, "B+1"], depth: int, alike: tuple[int, ...] = ()) -> Int64[Tensor, "M"]:
        """Of elements that the ring has no room for, and of the dummy stream's, a row of the dummy slot."""
        rows = self._ring_rows.get(depth)
        if rows is None:
            if self._slot is None:
                self._slot = slots.index_select(0, self.owner)
            rows = (self.index & (depth - 1)).add_(self._slot, alpha=depth)
            self._ring_rows[depth] = rows.masked_fill_(self.before_end > depth, 0)
        return rows

    @cached_property
    def before_end(self) -> Int64[Tensor, "M"]:
        """How many elements of its stream there are from each one on; too many for any ring, for those of nobody."""
        left = self.stop.index_select(0, self.owner).sub_(self.index)
        return left.masked_fill_(self.beyond, END_OF_TIME)

    def tiles(self, size: int) -> FilledSpan:
        tiles = self._in_tiles.get(size)
        if tiles is None:
            first = torch.div(self.start, size, rounding_mode="floor")
            stop = torch.div(self.stop + (size - 1), size, rounding_mode="floor")
            tiles = FilledSpan(first, torch.where(self.lengths > 0, stop, first), self._fitting[size], {})
            self._in_tiles[size] = tiles
        return tiles

    @cached_property
    def longest(self) -> int:
        raise AssertionError("how many rows a stream has is not known before the round; asking the device would make the host wait")


class FilledTurn(Turn):
    """A round on the device: `span` and `limit` from tables that the host fills per stream."""

    def __init__(self, tables: Tables, level: Level, warm: bool) -> None:
        self._tables = tables
        self._level = level
        self._is_warm = warm
        self.shared = {}
        self.own = None
        self._filled: dict[object, FilledSpan] = {}
        self.slots = self._column("slots", lambda turn: turn.slots)
        # Any: that some stream ends here cannot be excluded.
        self.final = self.slots

    def _column(self, key: object, source: Callable[[Turn], Tensor], pad: int = 0) -> Int64[Tensor, "B+1"]:
        return self._tables.ask(key, (self._level.streams + 1,), lambda turn, _: source(turn), torch.int64, pad)

    def span(self, value: Value) -> FilledSpan:
        key = self.key(value)
        span = self._filled.get(key)
        if span is None:
            start = self._column((key, "start"), lambda turn: turn.span(value).start)
            stop = self._column((key, "stop"), lambda turn: turn.span(value).stop)
            tiles = {size: count for (timeline, size), count in self._level.tiles.items() if timeline == value.timeline}
            span = self._filled[key] = FilledSpan(start, stop, self._level.of(value), tiles)
        return span

    def key(self, value: Value) -> object:
        """The same for values that have the same elements in every round."""
        return (value.index, "warm") if self._is_warm else value.timeline

    def limit(self, high: Count) -> Int64[Tensor, "B+1"]:
        return self._column(("limit", high), lambda turn: _limits(turn, high), END_OF_TIME)


class FilledWarmTurn(FilledTurn, WarmTurn):
    """One that rebuilds rings."""

    def __init__(self, tables: Tables, level: Level) -> None:
        FilledTurn.__init__(self, tables, level, True)


def _limits(turn: Turn, high: Count) -> Int64[Tensor, "B"]:
    return torch.full_like(turn.slots, END_OF_TIME) if turn.final is None else turn.limit(high)


class FilledWindows(Windows):
    """Windows whose totals are worked out when they are looked at. There always are totals."""

    def __init__(self, values: Float[Tensor, "M k C_in"], span: FilledSpan, totals: Callable[[], Tensor]) -> None:
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "span", span)
        object.__setattr__(self, "_totals", totals)

    @property
    def totals(self) -> Int64[Tensor, "M"]:
        found: Tensor = vars(self)["_totals"]()
        return found


class PlacedSpan(Span):
    """A round's own span for a recurrence, whose loop takes no padding: host numbers as they are, tensors on the device."""

    def __init__(self, span: Span, filled: FilledSpan, order: OrderTables) -> None:
        count = len(span.start)
        self.rows = span.rows
        self.start, self.stop, self.lengths, self.ends = (
            part[:count] for part in (filled.start, filled.stop, filled.lengths, filled.ends)
        )
        vars(self).update(
            offset=filled.offset[:count],
            to_stage=filled.to_stage[:count],
            longest=span.longest,
            each=span.each,
            earliest=span.earliest,
            owner=filled.owner[: span.rows],
            index=filled.index[: span.rows],
            time_major=TimeMajor(order.streams[:count], order.rows[: span.rows], order.places[: span.rows], span.time_major.active),
        )


class OrderTables:
    """The order in which a recurrence takes its rows."""

    def __init__(self, tables: Tables, key: object, where: Where, rows: int, streams: int) -> None:
        def table(name: str, count: int, source: Callable[[TimeMajor], Tensor]) -> Tensor:
            return tables.ask((key, name), (count,), lambda turn, _: source(where(turn).time_major), torch.int64)

        self.streams = table("streams", streams, lambda order: order.streams)
        self.rows = table("order", rows, lambda order: order.rows)
        self.places = table("places", rows, lambda order: order.places)
