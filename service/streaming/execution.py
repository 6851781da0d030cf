"""One round through the graph: every node computes its new rows, every ring takes in what later rounds will read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.arena import State, Store
from service.streaming.graph import Node, Value
from service.streaming.operator import Expansion, Pointwise, Recurrence, Window, Windowed
from service.streaming.plan import Plan
from service.streaming.reading import Reading
from service.streaming.turn import Span, Turn, WarmTurn

SAME_INDEX = Window(1, (0,))

Rows = dict[int, Float[Tensor, "M C"]]
"""The new rows of each value, by value index."""


@dataclass(frozen=True)
class Step:
    """One node, ready to run."""

    node: Node
    readings: tuple[Reading, ...]
    retired: tuple[Value, ...]
    """Values whose last reader this is: their new rows go into their rings now."""


def prepare(plan: Plan) -> tuple[Step, ...]:
    """The nodes of a plan in the order in which they run."""
    steps = []
    for position, node in enumerate(plan.graph.nodes):
        window = node.operator.window if isinstance(node.operator, Windowed) else SAME_INDEX
        retired = [index for index, last in plan.last_reader.items() if last == position and plan.depth.get(index)]
        readings = tuple(Reading(view, window) for view in node.inputs)
        steps.append(Step(node, readings, tuple(plan.graph.values[index] for index in retired)))
    return tuple(steps)


def run(steps: Sequence[Step], state: State, turn: Turn, rows: Rows) -> None:
    """Runs all nodes; `rows` holds those of the input and gets those of every other value."""
    for step in steps:
        _run(step, state, turn, rows)
        for value in step.retired:
            _retire(state.stores[value.index], turn, turn.span(value))


def _run(step: Step, state: State, turn: Turn, rows: Rows) -> None:
    operator, output = step.node.operator, step.node.output
    span = turn.span(output)
    store = state.stores.get(output.index)
    target = None if store is None else store.stage(span.rows)
    stores = state.stores
    if span.rows == 0:
        made = torch.empty(0, operator.channels, device=state.device) if target is None else target
    elif isinstance(operator, Pointwise):
        made = operator.compute([reading.rows(turn, span, rows, stores) for reading in step.readings], target)
    elif isinstance(operator, Windowed):
        (reading,) = step.readings
        made = operator.compute(reading.windows(turn, span, rows, stores), target)
    else:
        (reading,) = step.readings
        if isinstance(operator, Expansion):
            made = reading.expanded(turn, span, operator.compute(reading.packed(rows)), operator.factor)
        else:
            assert isinstance(operator, Recurrence)
            made = _advance(operator, output, reading, state, turn, rows)
        made = made if target is None else target.copy_(made)
    rows[output.index] = made


def _advance(operator: Recurrence, output: Value, reading: Reading, state: State, turn: Turn, rows: Rows) -> Tensor:
    span = turn.span(output)
    if isinstance(turn, WarmTurn):
        # What a recurrence has put out cannot be recomputed; its ring is a source.
        return from_ring(state.stores[output.index], turn, span)
    hidden = state.hidden[output.index]
    made, memory = operator.advance(reading.rows(turn, span, rows, state.stores), span, hidden.index_select(0, turn.slots))
    hidden.index_copy_(0, turn.slots, memory)
    return made


def from_ring(store: Store, turn: Turn, span: Span) -> Tensor:
    """The span's elements, when all of them are still in the ring."""
    return store.ring.index_select(0, span.ring_rows(turn.slots, store.depth))


def _retire(store: Store, turn: Turn, span: Span) -> None:
    """Moves a value's new rows from the staging area into its ring; of a chunk longer than the ring, the last ones."""
    if not span.rows:
        return
    places, fresh = span.ring_rows(turn.slots, store.depth), store.stage(span.rows)
    if span.longest > store.depth:
        kept = (span.index >= (span.stop - store.depth).index_select(0, span.owner)).nonzero().flatten()
        places, fresh = places.index_select(0, kept), fresh.index_select(0, kept)
    store.ring.index_copy_(0, places, fresh)
