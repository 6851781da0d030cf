"""One round through the graph: every node computes its new rows, every ring takes in what later rounds will read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.arena import State, Store
from service.streaming.dense import Dense, put_together
from service.streaming.graph import Node, Value
from service.streaming.operator import Banded, Batched, Convolvable, Expansion, Pointwise, Recurrence, Windowed
from service.streaming.plan import Plan
from service.streaming.reading import Reading, readings_of
from service.streaming.turn import Span, Turn, WarmTurn

Rows = dict[int, Float[Tensor, "M C"]]
"""The new rows of each value, by value index."""


@dataclass(frozen=True)
class Step:
    """One node, ready to run."""

    node: Node
    readings: tuple[Reading, ...]
    retired: tuple[Value, ...]
    """Values whose last reader this is: their new rows go into their rings now."""
    dense: Dense | None
    """How its input is read for a dense convolution, where that may be quicker."""
    forgotten: tuple[int, ...]
    """Values whose new rows nobody needs any more, so that their memory, still in the cache, serves the next node."""


def prepare(plan: Plan, dense: bool) -> tuple[Step, ...]:
    """The nodes of a plan in the order in which they run; `dense` allows dense convolutions."""
    steps = []
    for position, (node, readings) in enumerate(zip(plan.graph.nodes, readings_of(plan), strict=True)):
        done = [index for index, last in plan.last_reader.items() if last == position]
        retired = tuple(plan.graph.values[index] for index in done if plan.depth.get(index))
        able = dense and isinstance(node.operator, Convolvable) and Dense.suits(readings[0])
        steps.append(Step(node, readings, retired, Dense(readings[0]) if able else None, tuple(done)))
    put_together(((step.node, step.dense) for step in steps if step.dense), plan.depth)
    return tuple(steps)


def run(steps: Sequence[Step], state: State, turn: Turn, rows: Rows) -> None:
    """Runs all nodes; `rows` holds those of the input and gets those of every other value."""
    for step in steps:
        output = step.node.output
        if output.index in state.stores:
            # Before any address is taken: growing moves the rings.
            state.stores[output.index].reserve(turn.span(output).rows)
    for step in steps:
        _run(step, state, turn, rows)
        for value in step.retired:
            _retire(state.stores[value.index], turn, turn.span(value))
        for index in step.forgotten:
            del rows[index]


def _run(step: Step, state: State, turn: Turn, rows: Rows) -> None:
    operator, output = step.node.operator, step.node.output
    span = turn.span(output)
    store = state.stores.get(output.index)
    target = None if store is None else store.stage(span.rows)
    if span.rows == 0:
        made = torch.empty(0, operator.channels, device=state.device) if target is None else target
    elif isinstance(operator, Pointwise):
        made = operator.compute([reading.rows(turn, span, rows, state) for reading in step.readings], target)
    elif step.dense is not None and isinstance(operator, Convolvable) and step.dense.wants(turn, span):
        made = operator.convolve(step.dense.frames(turn, span, rows, state))
        made = made if target is None else target.copy_(made)
    elif isinstance(operator, Batched):
        (reading,) = step.readings
        batches = reading.batches(turn, span, operator.portions(span.rows), rows, state)
        parts = [operator.compute(windows, None) for windows in batches]
        made = torch.cat(parts) if target is None else torch.cat(parts, out=target)
    elif isinstance(operator, Windowed):
        (reading,) = step.readings
        made = operator.compute(reading.windows(turn, span, rows, state), target)
    else:
        (reading,) = step.readings
        if isinstance(operator, Banded):
            tiles = [operator.compute(values, first) for values, first in reading.tiles(turn, span, operator, rows, state)]
            made = torch.cat(tiles).flatten(0, 1).index_select(0, span.in_tiles(operator.tile))
        elif isinstance(operator, Expansion):
            made = reading.expanded(turn, span, operator.compute(reading.packed(rows)), operator.factor)
        else:
            assert isinstance(operator, Recurrence)
            made = _advance(operator, output, reading, state, turn, rows)
        made = made if target is None else target.copy_(made)
    rows[output.index] = made.clone() if state.scratch.holds(made) else made


def _advance(operator: Recurrence, output: Value, reading: Reading, state: State, turn: Turn, rows: Rows) -> Tensor:
    span = turn.span(output)
    if isinstance(turn, WarmTurn):
        # What a recurrence has put out cannot be recomputed; its ring is a source.
        return from_ring(state.stores[output.index], turn, span)
    hidden = state.hidden[output.index]
    made, memory = operator.advance(reading.rows(turn, span, rows, state), span, hidden.index_select(0, turn.slots))
    hidden.index_copy_(0, turn.slots, memory)
    return made


def from_ring(store: Store, turn: Turn, span: Span) -> Tensor:
    """The span's elements, when all of them are still in the ring."""
    return store.ring.index_select(0, span.ring_rows(turn.slots, store.depth))


def _retire(store: Store, turn: Turn, span: Span) -> None:
    """Moves a value's new rows from the staging area into its ring; of a chunk longer than the ring, the last ones."""
    if not span.rows:
        return
    fresh = store.stage(span.rows)
    if span.each is not None and span.each > store.depth:
        last = fresh.view(-1, span.each, store.channels)[:, span.each - store.depth :]
        store.put(span.last_ring_rows(turn.slots, store.depth), last.reshape(-1, store.channels))
    else:
        kept = span.last(store.depth)
        store.put(kept.ring_rows(turn.slots, store.depth), fresh if kept is span else fresh.index_select(0, kept.within(span)))
