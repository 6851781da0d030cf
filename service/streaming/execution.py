"""One round through the graph: every node computes its new rows, every ring takes in what later rounds will read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.arena import State, Store
from service.streaming.dense import Dense, put_together
from service.streaming.graph import Node, Value
from service.streaming.operator import Banded, Batched, Convolvable, Expansion, Gathering, Operator, Pointwise, Recurrence, Windowed
from service.streaming.operators.arithmetic import Join
from service.streaming.operators.pointwise import Relu
from service.streaming.plan import Plan
from service.streaming.reading import Reading, readings_of
from service.streaming.timeline import Count
from service.streaming.turn import Span, Turn, WarmTurn

Rows = dict[int, Float[Tensor, "M C"]]
"""The new rows of each value, by value index."""


Compute = Callable[["Step", State, Turn, Span, Rows, Tensor | None], Tensor]
"""Makes a step's new rows of a span, in the last argument or elsewhere."""


@dataclass(frozen=True)
class Step:
    """One node, ready to run."""

    node: Node
    readings: tuple[Reading, ...]
    compute: Compute
    retired: tuple[Value, ...]
    """Values whose last reader this is: their new rows go into their rings now."""
    alike: tuple[tuple[int, ...], ...]
    """Of each of them, the depths of all rings that take in the same elements."""
    dense: Dense | None
    """How its input is read for a dense convolution, where that may be quicker."""
    forgotten: tuple[int, ...]
    """Values whose new rows nobody needs any more, so that their memory, still in the cache, serves the next node."""
    parts: tuple[Step, ...] = ()
    """Steps that are one here, in most rounds: a product, a sum, a relu perhaps."""

    @property
    def first(self) -> Step:
        return self.parts[0] if self.parts else self

    @property
    def added(self) -> Value | None:
        """What the sum adds to the product."""
        if not self.parts:
            return None
        one, other = (view.value for view in self.parts[1].node.inputs)
        return one if other is self.first.node.output else other


def prepare(plan: Plan, dense: bool) -> tuple[Step, ...]:
    """The nodes of a plan in the order in which they run; `dense` allows dense convolutions."""
    steps = []
    depths: dict[Count, set[int]] = defaultdict(set)
    for index, depth in plan.depth.items():
        if depth:
            depths[plan.graph.values[index].timeline.ready].add(depth)
    for position, (node, readings) in enumerate(zip(plan.graph.nodes, readings_of(plan), strict=True)):
        done = [index for index, last in plan.last_reader.items() if last == position]
        retired = tuple(plan.graph.values[index] for index in done if plan.depth.get(index))
        able = dense and isinstance(node.operator, Convolvable) and Dense.suits(readings[0])
        alike = tuple(tuple(sorted(depths[value.timeline.ready])) for value in retired)
        compute = next(compute for kind, compute in KINDS if isinstance(node.operator, kind))
        steps.append(Step(node, readings, compute, retired, alike, Dense(readings[0]) if able else None, tuple(done)))
    put_together(((step.node, step.dense) for step in steps if step.dense), plan.depth)
    return tuple(steps)


def fused(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Sums that directly follow a product of which nobody else reads the result are computed with it, a relu behind them too."""
    made: list[Step] = []
    for step in steps:
        before = made[-1] if made else None
        if before is not None and _completes(before, step):
            parts = (*(before.parts or (before,)), step)
            retired, alike = before.retired + step.retired, before.alike + step.alike
            forgotten = tuple(index for index in before.forgotten + step.forgotten if index != before.node.output.index)
            made[-1] = Step(step.node, step.readings, _fused, retired, alike, before.dense, forgotten, parts)
        else:
            made.append(step)
    return tuple(made)


def _completes(before: Step, step: Step) -> bool:
    first, operator = before.first.node.operator, step.node.operator
    only = before.node.output.index in step.forgotten and before.node.output not in step.retired
    output = step.node.output
    alike = all(
        reading.in_place and view.channels == output.channels and view.timeline == view.value.timeline == output.timeline
        for reading in step.readings
        for view in [reading.view]
    )
    if not (only and alike and isinstance(first, Gathering) and first.multiplications):
        return False
    if isinstance(operator, Relu):
        return len(before.parts) == 2
    adds = isinstance(operator, Join) and operator.function is torch.add and not before.parts
    return adds and sum(reading.view.value is before.node.output for reading in step.readings) == 1


def run(steps: Sequence[Step], state: State, turn: Turn, rows: Rows) -> None:
    """Runs all nodes; `rows` holds those of the input and gets those of every other value."""
    for step in steps:
        output = step.node.output
        if output.index in state.stores:
            # Before any address is taken: growing moves the rings.
            state.stores[output.index].reserve(turn.span(output).rows)
    for step in steps:
        _run(step, state, turn, rows)
        for value, alike in zip(step.retired, step.alike, strict=True):
            store, span = state.stores[value.index], turn.span(value)
            retire(store, turn, span, store.stage(span.rows), alike)
        for index in step.forgotten:
            del rows[index]


def _run(step: Step, state: State, turn: Turn, rows: Rows) -> None:
    output = step.node.output
    span = turn.span(output)
    store = state.stores.get(output.index)
    target = None if store is None else store.stage(span.rows)
    if span.rows == 0:
        rows[output.index] = torch.empty(0, output.channels, device=state.device) if target is None else target
        return
    made = step.compute(step, state, turn, span, rows, target)
    if target is None:
        rows[output.index] = made.clone() if state.scratch.holds(made) else made
    else:
        rows[output.index] = made if made is target else target.copy_(made)


def _fused(step: Step, state: State, turn: Turn, span: Span, rows: Rows, target: Tensor | None) -> Tensor:
    first, second, *more = step.parts
    other = step.added
    assert other is not None
    values = first.node.output, other, second.node.output
    # All have the same rows, unless they are rebuilt, each from another element on.
    apart = isinstance(turn, WarmTurn) and any(turn.span(value) is not span for value in values)
    if apart or (turn.dense and first.dense is not None and first.dense.takes(span)):
        for part in step.parts[:-1]:
            _run(part, state, turn, rows)
        made = step.parts[-1].compute(step.parts[-1], state, turn, span, rows, target)
        for part in step.parts[:-1]:
            del rows[part.node.output.index]
        return made
    operator = first.node.operator
    assert isinstance(operator, Gathering)
    assert turn.own is not None
    source, addresses = first.readings[0].source(turn, span, rows, state)
    room = source.new_empty(span.rows, step.node.output.channels) if target is None else target
    return turn.own.multiply(operator.multiplications, source, addresses, room, rows[other.index], bool(more))


def _pointwise(step: Step, state: State, turn: Turn, span: Span, rows: Rows, target: Tensor | None) -> Tensor:
    operator = step.node.operator
    assert isinstance(operator, Pointwise)
    return operator.compute([reading.rows(turn, span, rows, state) for reading in step.readings], target)


def _windowed(step: Step, state: State, turn: Turn, span: Span, rows: Rows, target: Tensor | None) -> Tensor:
    operator = step.node.operator
    if turn.dense and step.dense is not None and step.dense.takes(span):
        assert isinstance(operator, Convolvable)
        return operator.convolve(step.dense.frames(turn, span, rows, state))
    if turn.own is not None and isinstance(operator, Gathering) and (by := operator.multiplications):
        source, addresses = step.readings[0].source(turn, span, rows, state)
        room = source.new_empty(span.rows, step.node.output.channels) if target is None else target
        return turn.own.multiply(by, source, addresses, room)
    assert isinstance(operator, Windowed)
    return operator.compute(step.readings[0].windows(turn, span, rows, state), target)


def _batched(step: Step, state: State, turn: Turn, span: Span, rows: Rows, target: Tensor | None) -> Tensor:
    operator = step.node.operator
    assert isinstance(operator, Batched)
    batches = step.readings[0].batches(turn, span, operator.portions(span.rows), rows, state)
    return torch.cat([operator.compute(windows, None) for windows in batches], out=target)


def _banded(step: Step, state: State, turn: Turn, span: Span, rows: Rows, target: Tensor | None) -> Tensor:
    operator = step.node.operator
    assert isinstance(operator, Banded)
    tiles = step.readings[0].tiles(turn, span, operator, rows, state)
    made = torch.cat([operator.compute(values, first) for values, first in tiles])
    return made.flatten(0, 1).index_select(0, span.in_tiles(operator.tile))


def _expanding(step: Step, state: State, turn: Turn, span: Span, rows: Rows, target: Tensor | None) -> Tensor:
    operator = step.node.operator
    assert isinstance(operator, Expansion)
    (reading,) = step.readings
    return reading.expanded(turn, span, operator.compute(reading.packed(rows)), operator.factor)


def _recurrent(step: Step, state: State, turn: Turn, span: Span, rows: Rows, target: Tensor | None) -> Tensor:
    operator, output = step.node.operator, step.node.output
    assert isinstance(operator, Recurrence)
    if isinstance(turn, WarmTurn):
        # What a recurrence has put out cannot be recomputed; its ring is a source.
        return from_ring(state.stores[output.index], turn, span)
    hidden = state.hidden[output.index]
    made, memory = operator.advance(step.readings[0].rows(turn, span, rows, state), span, hidden.index_select(0, turn.slots))
    hidden.index_copy_(0, turn.slots, memory)
    return made


KINDS: tuple[tuple[type[Operator], Compute], ...] = (
    (Pointwise, _pointwise),
    (Batched, _batched),
    (Windowed, _windowed),
    (Banded, _banded),
    (Expansion, _expanding),
    (Recurrence, _recurrent),
)
"""How each kind of operator computes its new rows; the first that fits."""


def from_ring(store: Store, turn: Turn, span: Span) -> Tensor:
    """The span's elements, when all of them are still in the ring."""
    return store.ring.index_select(0, span.ring_rows(turn.slots, store.depth))


def retire(store: Store, turn: Turn, span: Span, fresh: Float[Tensor, "M C"], alike: tuple[int, ...] = ()) -> None:
    """Takes a value's new rows into its ring; of a chunk longer than the ring, the last ones."""
    if not span.rows:
        return
    if turn.own is not None:
        turn.own.retire(fresh, store.ring, store.depth, turn.packed(span))
        return
    if span.longest <= store.depth:
        longest = span.longest
        store.put(span.ring_rows(turn.slots, store.depth, tuple(depth for depth in alike if depth >= longest)), fresh)
    elif span.each is not None and span.each > store.depth:
        last = fresh.view(-1, span.each, store.channels)[:, span.each - store.depth :]
        store.put(span.last_ring_rows(turn.slots, store.depth), last.reshape(-1, store.channels))
    else:
        kept = span.last(store.depth)
        store.put(kept.ring_rows(turn.slots, store.depth), fresh.index_select(0, kept.within(span)))
