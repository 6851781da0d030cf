"""How many rows every value has in a round: a few fixed sizes, so that shapes repeat, and how work is cut so that it fits.

A step's rounds have any numbers of rows; a `Level` fixes a number for every rate in the network. A round takes the smallest level
that holds it and is filled up with rows of the dummy slot. Under `exact` there is one level only: the library then sees one shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from service.streaming.graph import Graph, Value
from service.streaming.operator import Banded
from service.streaming.plan import Plan
from service.streaming.timeline import Timeline
from service.streaming.turn import Turn, WarmTurn

SMALLEST = 256
"""Frames of the smallest level: fewer take a GPU as long."""
APART = 4
"""Each level has so many times the frames of the one below."""
MOST_STREAMS = 4096
"""Of a round: every rate sends two or three numbers for each, whether there is one or not."""
LOOSE = 4
"""A tile holds its size over this many outputs on average before a level is full of tiles."""


@dataclass(frozen=True)
class Level:
    """Rounds of one size: `rows` by timeline, `tiles` by timeline and size, at most `streams` streams.

    One stream that is fed up to `frames` frames, ended or rebuilt always fits.
    """

    frames: int
    streams: int
    rows: Mapping[Timeline, int]
    tiles: Mapping[tuple[Timeline, int], int]

    def of(self, value: Value) -> int:
        return self.rows[value.timeline]


def levels_of(plan: Plan, most: int, one: bool) -> list[Level]:
    """Levels of up to `most` frames, the smallest first; `one` for a single one."""
    sizes = [most]
    while not one and sizes[0] >= APART * SMALLEST:
        sizes.insert(0, sizes[0] // APART)
    return [_level(plan, frames) for frames in sizes]


def _level(plan: Plan, frames: int) -> Level:
    rows: dict[Timeline, int] = {}
    for value in _values(plan.graph):
        rebuilt = value.timeline.ready.exceeds(plan.warm[value.index]) or 0
        rows[value.timeline] = max(rows.get(value.timeline, 1), rebuilt, most_of_one(value.timeline, frames))
    tiles = {}
    for node in plan.graph.nodes:
        if isinstance(node.operator, Banded):
            size, count = node.operator.tile, rows[node.output.timeline]
            tiles[node.output.timeline, size] = max(1, LOOSE * count // size, (count - 1) // size + 2)
    return Level(frames, min(frames, MOST_STREAMS), rows, tiles)


def _values(graph: Graph) -> list[Value]:
    return [graph.input, *(node.output for node in graph.nodes)]


def most_of_one(timeline: Timeline, frames: int) -> int:
    """The most elements that `frames` frames of one stream can make, its end included."""
    ready = timeline.ready
    before = np.arange(ready.settled + ready.period + 1, dtype=np.int64)
    grown = int((ready.numpy(before + frames) - ready.numpy(before)).max())
    # At the end comes out what was held back; a stream without a frame has nothing.
    return grown + max(0, timeline.total.exceeds(ready) or 0)


class Measures:
    """What has to fit into a level, counted per stream: streams, rows at every rate, tiles."""

    def __init__(self, plan: Plan, warm: bool) -> None:
        spans: dict[object, Value] = {}
        for value in _values(plan.graph):
            spans.setdefault((plan.warm[value.index] if warm else None, value.timeline), value)
        self.values = list(spans.values())
        self.tiled: dict[tuple[Timeline, int], Value] = {}
        for node in plan.graph.nodes:
            if isinstance(node.operator, Banded):
                self.tiled[node.output.timeline, node.operator.tile] = node.output

    def counts(self, turn: Turn) -> Int64[Tensor, "K B"]:
        rows = [turn.span(value).lengths for value in self.values]
        tiles = [turn.span(value).tiles(size).lengths for (_, size), value in self.tiled.items()]
        return torch.stack([torch.ones_like(turn.slots), *rows, *tiles])

    def limits(self, level: Level) -> Int64[Tensor, "K"]:
        return torch.tensor([level.streams, *map(level.of, self.values), *(level.tiles[key] for key in self.tiled)])


@dataclass(frozen=True)
class Piece:
    """A round of its own: a turn that fits `level`, and which of the step's packed frames are its."""

    turn: Turn
    frames: slice
    level: int


class Cutter:
    """Cuts turns into rounds that fit a level."""

    def __init__(self, plan: Plan, levels: Sequence[Level]) -> None:
        self.plan = plan
        self.levels = levels
        self._measures = {warm: Measures(plan, warm) for warm in (False, True)}
        self._limits = {
            warm: torch.stack([measures.limits(level) for level in levels]) for warm, measures in self._measures.items()
        }

    def cut(self, turn: Turn) -> Iterator[Piece]:
        """Rounds of whole streams; only a stream of more frames than a level has is cut, into rounds of its own."""
        warm = isinstance(turn, WarmTurn)
        if not len(turn.slots):
            return
        lengths = turn.after - turn.before
        counts = self._measures[warm].counts(turn)
        level = self._fitting(counts.sum(1), warm)
        if level is not None:
            yield Piece(turn, slice(0, int(lengths.sum())), level)
            return
        ends, limit = counts.cumsum(1), self._limits[warm][-1]
        frames = [0, *lengths.cumsum(0).tolist()]
        first, begun = 0, torch.zeros_like(limit)
        while first < len(lengths):
            found = torch.searchsorted(ends, (begun + limit).unsqueeze(1), right=True)
            stop = int(found.min())
            if stop > first:
                sums = ends[:, stop - 1] - begun
                level = self._fitting(sums, warm)
                assert level is not None
                yield Piece(_part(turn, slice(first, stop)), slice(frames[first], frames[stop]), level)
            else:
                stop = first + 1
                yield from self._cut_one(turn, first, frames[first], frames[stop])
            first, begun = stop, ends[:, stop - 1]

    def _cut_one(self, turn: Turn, stream: int, begin: int, end: int) -> Iterator[Piece]:
        assert end - begin > self.levels[-1].frames, "one stream of so few frames fits"
        this = slice(stream, stream + 1)
        for row in range(begin, end, self.levels[-1].frames):
            stop = min(row + self.levels[-1].frames, end)
            fed = turn.before[this] + (row - begin)
            final = None if turn.final is None or stop < end else turn.final[this]
            part = Turn(turn.slots[this], fed, fed + (stop - row), final)
            level = self._fitting(self._measures[False].counts(part).sum(1), False)
            assert level is not None
            yield Piece(part, slice(row, stop), level)

    def _fitting(self, sums: Int64[Tensor, "K"], warm: bool) -> int | None:
        fits = (sums <= self._limits[warm]).all(1).tolist()
        return fits.index(True) if True in fits else None


def _part(turn: Turn, streams: slice) -> Turn:
    if isinstance(turn, WarmTurn):
        return WarmTurn(turn.slots[streams], turn.after[streams], turn.warm)
    final = None if turn.final is None else turn.final[streams]
    return Turn(turn.slots[streams], turn.before[streams], turn.after[streams], final)


def most_rows(levels: Iterable[Level], value: Value) -> int:
    return max(level.of(value) for level in levels)
