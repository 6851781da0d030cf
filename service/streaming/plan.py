"""From graph to plan: what each ring must remember, what a snapshot must hold, and how every node reads its inputs.

Low-water marks are counts as well. `low` is the lowest element of a value that a later step reads; `warm` is the lowest one that is
needed to rebuild every ring downstream by recomputation. Recomputation starts at the *sources*: the program's input and the
outputs of recurrences, which cannot be recomputed from a tail.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from service.errors import NotStreamable
from service.streaming.graph import Graph, Node, Value, View
from service.streaming.operator import Banded, Expansion, Recurrence, Windowed
from service.streaming.timeline import Count, Frames


@dataclass(frozen=True)
class Plan:
    """What the program needs to know about a graph's memory.

    `depth` is the ring length of each stored value (0: staging only), `warm` the count from which each value is recomputed when
    rings are rebuilt, `tails` the most rows that each source's tail can have, `last_reader` the node after which a value's new rows
    may go into its ring.
    """

    graph: Graph
    depth: dict[int, int]
    warm: dict[int, Count]
    tails: dict[int, int]
    last_reader: dict[int, int]
    fills: tuple[float, ...]

    @property
    def sources(self) -> list[Value]:
        return [value for value in self.graph.values if value.index in self.tails]


def plan(graph: Graph) -> Plan:
    """Raises NotStreamable when a value's lag behind another grows with the stream."""
    output = graph.output
    assert output is not None
    readers = _readers(graph)
    warm = _warm_marks(graph, readers)
    kept: dict[int, int] = {}
    last_reader: dict[int, int] = {}
    for position, node in enumerate(graph.nodes):
        for view in node.inputs:
            last_reader[view.value.index] = position
    for value in [graph.input, *(node.output for node in graph.nodes)]:
        if any(not reads_fresh_rows(node, view) for node, view in readers[value.index]):
            kept[value.index] = max((_history(node, view) for node, view in readers[value.index]), default=0)
    tails = {}
    for value in [graph.input, *(node.output for node in graph.nodes if isinstance(node.operator, Recurrence))]:
        tail = value.timeline.ready.exceeds(warm[value.index])
        tails[value.index] = max(0, tail or 0)
        kept[value.index] = max(kept.get(value.index, 0), tails[value.index])
    depth = {index: 1 << (rows - 1).bit_length() if rows else 0 for index, rows in kept.items()}
    fills = {0.0} | {view.fill for node in graph.nodes for view in node.inputs if view.fill is not None}
    fills |= {node.operator.window.fill for node in graph.nodes if isinstance(node.operator, Windowed)}
    return Plan(graph, depth, warm, tails, last_reader, tuple(sorted(fills)))


def _readers(graph: Graph) -> dict[int, list[tuple[Node, View]]]:
    readers: dict[int, list[tuple[Node, View]]] = defaultdict(list)
    for node in graph.nodes:
        for view in node.inputs:
            readers[view.value.index].append((node, view))
    return readers


def reads_fresh_rows(node: Node, view: View) -> bool:
    """Whether the node takes exactly the rows that the value has just got."""
    if isinstance(node.operator, Expansion):
        return view.is_whole
    if isinstance(node.operator, Banded):
        return False
    same_index = not isinstance(node.operator, Windowed) or node.operator.window.is_same_index
    return same_index and view.shift == 0 and view.fill is None and node.output.timeline.ready == view.value.timeline.ready


def _low(node: Node, view: View, done: Count) -> Count:
    """The lowest element of the view's value that is read for outputs from `done` on."""

    def rule(first: Frames) -> Frames:
        return np.maximum(0, node.operator.needs(first) + view.shift)

    # Regular from the first output on whose window begins inside; with a large stride that is far earlier than `reach` elements.
    few = np.arange(node.operator.reach + abs(view.shift) + 1, dtype=np.int64)
    inside = int(np.searchsorted(node.operator.needs(few) + view.shift, 0))
    return Count.derive(rule, done, stride=node.operator.pattern, reach=inside, empty=None)


def _history(node: Node, view: View) -> int:
    lag = view.value.timeline.ready.exceeds(_low(node, view, node.output.timeline.ready))
    if lag is None:
        raise NotStreamable(
            f"{node.where}: {node.operator.name} would have to remember ever more of its input as the stream goes on, because its "
            "inputs advance at different rates. Join values of one rate only, for instance by the same strides on both branches."
        )
    return max(0, lag)


def _warm_marks(graph: Graph, readers: dict[int, list[tuple[Node, View]]]) -> dict[int, Count]:
    warm: dict[int, Count] = {}
    for value in reversed([graph.input, *(node.output for node in graph.nodes)]):
        mark = value.timeline.ready
        for node, view in readers[value.index]:
            done = node.output.timeline.ready if isinstance(node.operator, Recurrence) else warm[node.output.index]
            low = _low(node, view, done)
            mark = Count.derive(np.minimum, mark, low, empty=None)
        warm[value.index] = mark
    return warm
