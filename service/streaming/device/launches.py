"""What a round launches: every node on as many rows as its level says, from static tensors into static tensors.

Nothing here looks at the number of rows that a round really has, except in the nodes whose work depends on it (recurrences, which
loop over the longest chunk, and modules on windows): those stand between the parts that can be captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.addresses import Origins, origins
from service.streaming.arena import State
from service.streaming.device.levels import Level
from service.streaming.device.placed import FilledTurn, FilledWarmTurn, FilledWindows, OrderTables, PlacedSpan
from service.streaming.device.tables import Tables
from service.streaming.execution import Step
from service.streaming.graph import Graph, Node, Value
from service.streaming.operator import Banded, Batched, Expansion, Pointwise, Recurrence, Windowed
from service.streaming.reading import Reading
from service.streaming.turn import Turn

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
        self.filled: FilledTurn

    @property
    def parts(self) -> list[tuple[Callable[[], None], bool]]:
        """What to run, in order, and whether it can be captured."""
        return [
            (partial(self._run, steps, first=number == 0), not any(map(self._alone, steps)))
            for number, steps in enumerate(self._parts)
        ]

    @property
    def made(self) -> dict[int, Tensor]:
        """The rows of values that have a place of their own, by value index."""
        return self._lasting

    def _alone(self, step: Step) -> bool:
        # Rings are rebuilt from what a recurrence has put out; it does not run then.
        return depends_on_data(step.node) and not (self.warm and isinstance(step.node.operator, Recurrence))

    def _apart(self, steps: Sequence[Step]) -> list[list[Step]]:
        parts: list[list[Step]] = [[]]
        for place, step in enumerate(steps):
            if self._alone(step) or (place and self._alone(steps[place - 1])):
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

    def _run(self, steps: Sequence[Step], first: bool) -> None:
        # Each part works out for itself what its nodes share: what another part had in memory may be of another round.
        self.filled = FilledWarmTurn(self.tables, self.level) if self.warm else FilledTurn(self.tables, self.level, False)
        if first:
            self._begin()
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
                self._ask(step)
            if place is not None:
                self._rows[index] = place
            for value in step.retired:
                self._retire(value)
            for forgotten in step.forgotten:
                if forgotten not in self._lasting:
                    self._rows.pop(forgotten, None)

    def _begin(self) -> None:
        place = self._rows[0] = self._lasting[0]
        if not self.warm:
            place.copy_(self.tables.ask("values", place.shape, lambda _, values: values, place.dtype))
        elif self.state.stores.get(0):
            place.copy_(self._remembered(self.input))

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
            span = self.filled.span(output)
            values = self._read(reading, output).view(span.rows, reading.taps, reading.view.channels)
            limits, total = self.filled.limit, reading.view.timeline.total
            return operator.compute(FilledWindows(values, span, lambda: limits(total).index_select(0, span.owner)), place)
        if isinstance(operator, Banded):
            return self._attend(operator, reading, output)
        assert isinstance(operator, Expansion)
        return self._expanded(operator, reading, output)

    def _read(self, reading: Reading, output: Value) -> Float[Tensor, "M*k C"]:
        value = reading.view.value
        turn = self.filled
        if reading.in_place and turn.key(value) == turn.key(output):
            return self._rows[value.index]
        addresses = reading.addresses(turn, turn.span(output), self.state)
        store = self.state.stores.get(value.index)
        source = self._rows[value.index] if store is None else store.rows
        return source.index_select(0, addresses)

    def _attend(self, operator: Banded, reading: Reading, output: Value) -> Float[Tensor, "M C"]:
        span = self.filled.span(output)
        read, begin = reading.tile_addresses(self.filled, span, operator, self.state)
        count = max(1, PIECE // (reading.taps * reading.view.channels))
        store = self.state.stores[reading.view.value.index]
        made = [
            operator.compute(store.rows.index_select(0, some.flatten()).view(*some.shape, -1), first, True)
            for some, first in zip(torch.split(read, count), torch.split(begin, count), strict=True)
        ]
        whole = torch.cat(made).flatten(0, 1)
        return whole.index_select(0, span.in_tiles(operator.tile).clamp_(0, len(whole) - 1))

    def _expanded(self, operator: Expansion, reading: Reading, output: Value) -> Float[Tensor, "M C"]:
        value = reading.view.value
        made = operator.compute(self._rows[value.index])
        out, into = self.filled.span(output), self.filled.span(value)
        places = out.index + into.to_stage.index_select(0, out.owner) * operator.factor
        return made.index_select(0, places.clamp_(0, len(made) - 1))

    def _remembered(self, value: Value) -> Float[Tensor, "M C"]:
        """A source's elements, which all are in its ring."""
        store = self.state.stores[value.index]
        if not store.depth:
            return self._lasting[value.index]  # nobody reads what it has put out before
        return store.ring.index_select(0, self.filled.span(value).ring_rows(self.filled.slots, store.depth))

    def _retire(self, value: Value) -> None:
        store = self.state.stores[value.index]
        places = self.filled.span(value).ring_rows(self.filled.slots, store.depth)
        store.ring.index_copy_(0, places, self._lasting[value.index])

    # Nodes of which as many rows are computed as there are

    def _compute_some(self, step: Step, turn: Turn) -> Float[Tensor, "M C"]:
        operator, output = step.node.operator, step.node.output
        (reading,) = step.readings
        span, filled = turn.span(output), self.filled.span(output)
        if isinstance(operator, Batched):
            at = origins(self.filled, filled, self.filled.span(reading.view.value), reading.window.stride, reading.window.per)
            at = Origins(*(part[: span.rows] for part in at.parts))
            batches = reading.batches_from(at, span, operator.portions(span.rows), self._rows, self.state)
            return torch.cat([operator.compute(windows, None) for windows in batches])
        assert isinstance(operator, Recurrence)
        rows = self._read(reading, output)[: span.rows]
        hidden, slots = self.state.hidden[output.index], self.filled.slots[: len(turn.slots)]
        made, memory = operator.advance(rows, PlacedSpan(span, filled, self._order(output)), hidden.index_select(0, slots))
        hidden.index_copy_(0, slots, memory)
        return made

    def _order(self, output: Value) -> OrderTables:
        return OrderTables(
            self.tables, self.filled.key(output), lambda turn: turn.span(output), self.level.of(output), self.level.streams
        )

    def _ask(self, step: Step) -> None:
        """Asks for the tables of a node that has no rows."""
        output, (reading,) = step.node.output, step.readings
        self.filled.span(output)
        self.filled.span(reading.view.value)
        if isinstance(step.node.operator, Recurrence):
            self._read(reading, output)
            self._order(output)
