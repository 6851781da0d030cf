"""What a round launches: every node on as many rows as its level says, from static tensors into static tensors.

Nothing here looks at the number of rows that a round really has, except in the nodes whose work depends on it (recurrences, which
loop over the longest chunk, and modules on windows): those stand between the parts that can be captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from service.streaming.addresses import Origins, origins
from service.streaming.arena import State
from service.streaming.device.levels import Level
from service.streaming.device.placed import FilledSpan, FilledWindows, PlacedSpan, RecurrentTables, limits
from service.streaming.device.tables import Tables
from service.streaming.execution import Step
from service.streaming.graph import Graph, Node, Value
from service.streaming.operator import Banded, Batched, Expansion, Pointwise, Recurrence, Windowed
from service.streaming.reading import Reading
from service.streaming.turn import END_OF_TIME, WORD, Span, Turn

PIECE = 1 << 26
"""How many numbers of tiles are gathered at once."""


def depends_on_data(node: Node) -> bool:
    """Whether what is launched for the node depends on how many rows there are."""
    return isinstance(node.operator, Recurrence | Batched)


class Launches:
    """The nodes of one kind of round: those of a step, or, `warm`, of one that rebuilds rings."""

    def __init__(self, graph: Graph, steps: Sequence[Step], state: State, level: Level, tables: Tables, warm: bool) -> None:
        self.state = state
        self.level = level
        self.tables = tables
        self.warm = warm
        self.turn: Turn | None = None
        """The round at hand, for nodes that depend on its data; None where there is none yet."""
        self.input = graph.input
        self._parts = self._apart(steps)
        self._lasting = self._places(graph)
        self._rows: dict[int, Tensor] = {}

    @property
    def parts(self) -> list[tuple[Callable[[], None], bool]]:
        """What to run, in order, and whether it can be captured."""
        return [(self._begin, True), *((partial(self._run, steps), not self._alone(steps[0])) for steps in self._parts)]

    @property
    def made(self) -> dict[int, Tensor]:
        """The rows of values that have a place of their own, by value index."""
        return self._lasting

    def _alone(self, step: Step) -> bool:
        # Rings are rebuilt from what a recurrence has put out; it does not run then.
        return depends_on_data(step.node) and not (self.warm and isinstance(step.node.operator, Recurrence))

    def _apart(self, steps: Sequence[Step]) -> list[list[Step]]:
        parts: list[list[Step]] = []
        for place, step in enumerate(steps):
            if place == 0 or self._alone(step) or self._alone(steps[place - 1]):
                parts.append([])
            parts[-1].append(step)
        return parts

    def _places(self, graph: Graph) -> dict[int, Float[Tensor, "M C"]]:
        """Static rows for every value with a staging area, for the output, and for what one part hands to another."""
        assert graph.output is not None
        shared = {graph.input.index: graph.input, graph.output.index: graph.output}
        made_in = {graph.input.index: -1}
        for number, steps in enumerate(self._parts):
            for step in steps:
                made_in[step.node.output.index] = number
                shared.update((view.value.index, view.value) for view in step.node.inputs if made_in[view.value.index] != number)
                if self._alone(step):
                    shared[step.node.output.index] = step.node.output
        places = {}
        for value in (graph.input, *(node.output for node in graph.nodes)):
            rows = self.level.of(value)
            if value.index in self.state.stores:
                places[value.index] = self.state.stores[value.index].stage(rows)
            elif value.index in shared:
                places[value.index] = self.state.like.new_zeros(rows, value.channels)
        return places

    def _begin(self) -> None:
        rows, channels = self._lasting[0].shape
        if not self.warm:
            self._lasting[0].copy_(self.tables.ask("values", (rows, channels), lambda _, values: values, self.state.like.dtype))
        elif self.state.stores.get(0):
            self._lasting[0].copy_(self._remembered(self.input))
        self._rows[0] = self._lasting[0]

    def _run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            index = step.node.output.index
            place = self._lasting.get(index)
            if not self._alone(step):
                made = self._compute(step, place)
                self._rows[index] = made if place is None or made is place else place.copy_(made[: len(place)])
            elif self.turn is not None and (rows := self.turn.span(step.node.output).rows):
                assert place is not None
                place[:rows].copy_(self._compute_some(step, self.turn))
            else:
                self._tables_of(step)
            if place is not None:
                self._rows[index] = place
            for value in step.retired:
                self._retire(value)
            for forgotten in step.forgotten:
                if forgotten not in self._lasting:
                    self._rows.pop(forgotten, None)

    # Nodes of which as many rows are computed as the level has

    def _compute(self, step: Step, place: Tensor | None) -> Float[Tensor, "M C"]:
        operator, output = step.node.operator, step.node.output
        if isinstance(operator, Recurrence):
            # What it has put out cannot be recomputed; its ring is a source.
            return self._remembered(output)
        if isinstance(operator, Pointwise):
            return operator.compute([self._read(reading, output) for reading in step.readings], place)
        (reading,) = step.readings
        if isinstance(operator, Windowed):
            span = FilledSpan(self.tables, self._key(output), self._span(output), self.level.of(output))
            values = self._read(reading, output).view(self.level.of(output), reading.taps, reading.view.channels)
            return operator.compute(FilledWindows(values, span, self._totals(reading, output)), place)
        if isinstance(operator, Banded):
            return self._attend(operator, reading, output)
        assert isinstance(operator, Expansion)
        return self._expanded(operator, reading, output)

    def _read(self, reading: Reading, output: Value) -> Float[Tensor, "M*k C"]:
        value = reading.view.value
        if reading.in_place and self._key(value) == self._key(output):
            return self._rows[value.index]
        count = self.level.of(output) * reading.taps
        addresses = self.tables.ask(
            (reading, "addresses"), (count,), lambda turn, _: reading.addresses(turn, turn.span(output), self.state), WORD
        )
        return self._source(value).index_select(0, addresses)

    def _source(self, value: Value) -> Tensor:
        store = self.state.stores.get(value.index)
        return self._rows[value.index] if store is None else store.rows

    def _totals(self, reading: Reading, output: Value) -> Callable[[], Int64[Tensor, "M"]]:
        total = reading.view.timeline.total
        where = self._span(output)
        return lambda: self.tables.ask(
            (self._key(output), total),
            (self.level.of(output),),
            lambda turn, _: limits(turn, where(turn), total),
            torch.int64,
            END_OF_TIME,
        )

    def _attend(self, operator: Banded, reading: Reading, output: Value) -> Float[Tensor, "M C"]:
        tiles, size = self.level.tiles[output.timeline, operator.tile], operator.tile
        where = self._span(output)

        def addresses(turn: Turn, _: Tensor) -> Int[Tensor, "P k"]:
            return reading.tile_addresses(turn, where(turn), operator, self.state)[0]

        def first(turn: Turn, _: Tensor) -> Int64[Tensor, "P"]:
            return where(turn).tiles(size).index * size

        read = self.tables.ask((reading, "tiles"), (tiles, reading.taps), addresses, WORD)
        begin = self.tables.ask((self._key(output), size, "first"), (tiles,), first, torch.int64)
        place = self.tables.ask(
            (self._key(output), size, "in tiles"), (self.level.of(output),), lambda turn, _: where(turn).in_tiles(size), torch.int64
        )
        count = max(1, PIECE // (reading.taps * reading.view.channels))
        store = self.state.stores[reading.view.value.index]
        made = [
            operator.compute(store.rows.index_select(0, some.flatten()).view(*some.shape, -1), beginning, True)
            for some, beginning in zip(torch.split(read, count), torch.split(begin, count), strict=True)
        ]
        return torch.cat(made).flatten(0, 1).index_select(0, place)

    def _expanded(self, operator: Expansion, reading: Reading, output: Value) -> Float[Tensor, "M C"]:
        value = reading.view.value
        made = operator.compute(self._rows[value.index])
        rows = self.level.of(output)

        def places(turn: Turn, _: Tensor) -> Int64[Tensor, "M"]:
            out, into = turn.span(output), turn.span(value)
            return out.index + into.to_stage.index_select(0, out.owner) * operator.factor

        return made.index_select(0, self.tables.ask((self._key(output), "of", self._key(value)), (rows,), places, torch.int64))

    def _remembered(self, value: Value) -> Float[Tensor, "M C"]:
        """A source's elements, which all are in its ring."""
        store = self.state.stores[value.index]

        def places(turn: Turn, _: Tensor) -> Int64[Tensor, "M"]:
            return turn.span(value).ring_rows(turn.slots, store.depth) + store.ring_at

        table = self.tables.ask((value.index, "remembered"), (self.level.of(value),), places, torch.int64)
        return store.rows.index_select(0, table)

    def _retire(self, value: Value) -> None:
        store = self.state.stores[value.index]

        def places(turn: Turn, _: Tensor) -> Int64[Tensor, "M"]:
            span = turn.span(value)
            found = span.ring_rows(turn.slots, store.depth)
            if span.longest <= store.depth:
                return found
            # Of a chunk longer than the ring only the last rows are kept; the dummy slot takes the others.
            return found.masked_fill(span.index < (span.stop - store.depth).index_select(0, span.owner), 0)

        table = self.tables.ask((self._key(value), store.depth, "ring"), (self.level.of(value),), places, torch.int64)
        store.ring.index_copy_(0, table, self._lasting[value.index])

    # Nodes of which as many rows are computed as there are

    def _compute_some(self, step: Step, turn: Turn) -> Float[Tensor, "M C"]:
        operator, output = step.node.operator, step.node.output
        (reading,) = step.readings
        tables = self._tables_of(step)
        span = turn.span(output)
        if isinstance(operator, Batched):
            at = Origins(*(table[: span.rows] for table in cast(list[Tensor], tables)))
            batches = reading.batches_from(at, span, operator.portions(span.rows), self._rows, self.state)
            return torch.cat([operator.compute(windows, None) for windows in batches])
        assert isinstance(operator, Recurrence)
        assert isinstance(tables, RecurrentTables)
        rows = self._read(reading, output)[: span.rows]
        hidden, slots = self.state.hidden[output.index], tables.slots[: len(turn.slots)]
        made, memory = operator.advance(rows, PlacedSpan(span, tables), hidden.index_select(0, slots))
        hidden.index_copy_(0, slots, memory)
        return made

    def _tables_of(self, step: Step) -> RecurrentTables | list[Tensor]:
        output = step.node.output
        rows = self.level.of(output)
        (reading,) = step.readings
        if not isinstance(step.node.operator, Batched):
            self._read(reading, output)
            return RecurrentTables(self.tables, self._key(output), self._span(output), rows, self.level.streams)
        return self._origins(reading, output)

    def _origins(self, reading: Reading, output: Value) -> list[Int[Tensor, "M"]]:
        def source(part: int) -> Callable[[Turn, Tensor], Tensor]:
            def table(turn: Turn, _: Tensor) -> Tensor:
                window = reading.window
                return origins(turn, turn.span(output), turn.span(reading.view.value), window.stride, window.per).parts[part]

            return table

        return [self.tables.ask((reading, "origins", part), (self.level.of(output),), source(part), WORD) for part in range(4)]

    # Keys: what has the same elements has the same tables

    def _key(self, value: Value) -> object:
        return (value.index, "warm") if self.warm else value.timeline

    def _span(self, value: Value) -> Callable[[Turn], Span]:
        return lambda turn: turn.span(value)
