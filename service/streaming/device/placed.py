"""What operators are handed on a device in place of a round's own spans and windows: the same tables, filled up and static."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from service.streaming.device.tables import Tables
from service.streaming.operator import Windows
from service.streaming.turn import END_OF_TIME, Span, TimeMajor, Turn

Where = Callable[[Turn], Span]
"""Finds the elements of a value that a round computes."""


class FilledSpan(Span):
    """The elements of a windowed value, for operators that look at their indices; asks for a table when it is looked at first."""

    def __init__(self, tables: Tables, key: object, where: Where, rows: int) -> None:
        self._tables = tables
        self._key = key
        self._where = where
        self.rows = rows

    @cached_property
    def index(self) -> Int64[Tensor, "M"]:
        return self._tables.ask((self._key, "index"), (self.rows,), lambda turn, _: self._where(turn).index, torch.int64)

    @cached_property
    def earliest(self) -> int:
        """No index is lower; that some stream begins here cannot be excluded."""
        return 0


class FilledWindows(Windows):
    """Windows whose totals are a table that is asked for when they are looked at first. There always are totals."""

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

    def __init__(self, span: Span, tables: RecurrentTables) -> None:
        count = len(span.start)
        self.rows = span.rows
        self.start, self.lengths, self.ends = (table[:count] for table in (tables.start, tables.lengths, tables.ends))
        self.stop = self.start + self.lengths
        order = span.time_major
        vars(self).update(
            offset=self.ends - self.lengths,
            to_stage=self.ends - self.lengths - self.start,
            longest=span.longest,
            each=span.each,
            earliest=span.earliest,
            owner=tables.owner[: span.rows],
            index=tables.index[: span.rows],
            time_major=TimeMajor(tables.streams[:count], tables.order[: span.rows], tables.places[: span.rows], order.active),
        )


class RecurrentTables:
    """What a recurrence may ask of its span, in tables of their own."""

    def __init__(self, tables: Tables, key: object, where: Where, rows: int, streams: int) -> None:
        def table(name: str, count: int, source: Callable[[Span], Tensor]) -> Tensor:
            return tables.ask((key, name), (count,), lambda turn, _: source(where(turn)), torch.int64)

        self.slots = tables.ask("slots", (streams,), lambda turn, _: turn.slots, torch.int64)
        self.start = table("start", streams, lambda span: span.start)
        self.lengths = table("lengths", streams, lambda span: span.lengths)
        self.ends = table("ends", streams, lambda span: span.ends)
        self.owner = table("owner", rows, lambda span: span.owner)
        self.index = table("index", rows, lambda span: span.index)
        self.streams = table("streams", streams, lambda span: span.time_major.streams)
        self.order = table("order", rows, lambda span: span.time_major.rows)
        self.places = table("places", rows, lambda span: span.time_major.places)


def limits(turn: Turn, span: Span, total: Callable[[Tensor], Tensor]) -> Int64[Tensor, "M"]:
    """Per row, where its stream's input ends; nowhere for streams that go on."""
    if turn.final is None:
        return torch.full((span.rows,), END_OF_TIME)
    return torch.where(turn.final, total(turn.after), END_OF_TIME).index_select(0, span.owner)
