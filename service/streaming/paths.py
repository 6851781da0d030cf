"""Branches on a length: a module is traced once for every way through them, and the ways are put together again.

`if x.shape[-1] != y.shape[-1]: pad` goes another way at odd lengths than at even ones, and which one it is, is known when the
stream ends. So all ways must compute the same elements from the same ones, and may differ only in how many there are in the end:
where a value is cut, and how far it is padded behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from service.errors import NotStreamable
from service.streaming.graph import Graph, View
from service.streaming.operator import Edge, Operator, Recurrence, Windowed
from service.streaming.timeline import Count, Frames, Timeline

MOST_PATHS = 64


@dataclass(frozen=True)
class Way:
    """One run of the module: its graph, and how the questions about lengths were answered that have no answer for all of them.

    `refused` is what the module itself raised at the lengths that go this way; it has no output then.
    """

    graph: Graph
    output: View | None
    answers: tuple[bool, ...]
    asked: tuple[str, ...]
    refused: Exception | None = None

    def following(self) -> tuple[bool, ...] | None:
        """How the next run answers; None after the last one."""
        answers = list(self.answers)
        while answers and not answers[-1]:
            answers.pop()
        return (*answers[:-1], False) if answers else None


def merged(paths: Sequence[Way]) -> Graph:
    """One graph for all paths that have an output, finished. Raises NotStreamable where they compute different things."""
    first = paths[0]
    graph, output = first.graph, first.output
    assert output is not None
    if len(paths) > 1:
        where = first.asked[0]
        if len(paths) > MOST_PATHS:
            raise NotStreamable(f"{where}: branches on the length of a value have more than {MOST_PATHS} ways through. {REMEDY}")
        if not all(_alike(graph, path.graph) for path in paths[1:]):
            raise NotStreamable(f"{where}: a branch on the length of a value cannot be streamed exactly. {REMEDY}")
        if not any(_accepts_any(path.graph.accepts()) for path in paths):
            raise NotStreamable(f"{where}: the module raises at every length, whatever way it goes.")
        output = _Merging([path.graph.accepts() for path in paths]).applied(paths, where)
    graph.finish(output, "the network")
    return graph


def _accepts_any(accepts: Count) -> bool:
    return bool(accepts.numpy(np.arange(1, accepts.settled + accepts.period + 1, dtype=np.int64)).any())


REMEDY = (
    "How long a stream will be is not known while it runs, so both ways must compute the same and may differ in a padding or a cut "
    "at the end only. Write the network so that its result at a frame does not depend on the length."
)


class _Merging:
    """Counts of several paths, of which one applies at each length."""

    def __init__(self, accepted: Sequence[Count]) -> None:
        self._accepted = accepted

    def applied(self, paths: Sequence[Way], where: str) -> View:
        """Changes the first path's graph so that it stands for all, and returns its output."""
        graphs = [path.graph for path in paths]
        graph = graphs[0]
        for values in zip(*(each.values for each in graphs), strict=True):
            values[0].timeline = self.timeline([value.timeline for value in values])
        for nodes in zip(*(each.nodes for each in graphs), strict=True):
            views = zip(*(node.inputs for node in nodes), strict=True)
            nodes[0].inputs = tuple(self.view(reads, where) for reads in views)
        output = self.view([path.output for path in paths if path.output is not None], where)
        graph.guards = [Count.derive(lambda *flags: np.maximum.reduce(flags), *self._accepted, empty=1)]
        return output

    def timeline(self, timelines: Sequence[Timeline]) -> Timeline:
        """What is ready is so whatever way the stream will have gone."""
        ready = _one([timeline.ready for timeline in timelines])
        if ready is None:
            ready = Count.derive(lambda *counts: np.minimum.reduce(counts), *(timeline.ready for timeline in timelines))
        return Timeline(ready, self.chosen([timeline.total for timeline in timelines]))

    def view(self, views: Sequence[View], where: str) -> View:
        fills = {view.fill for view in views} - {None}
        if len({(view.value.index, view.shift, view.low) for view in views}) > 1 or len(fills) > 1:
            raise NotStreamable(f"{where}: a branch on the length of a value cannot be streamed exactly. {REMEDY}")
        high = None
        if any(view.high is not None for view in views):
            high = self.chosen([view.high or _end(view) for view in views])
        return replace(
            views[0],
            timeline=self.timeline([view.timeline for view in views]),
            high=high,
            fill=fills.pop() if fills else None,
        )

    def chosen(self, counts: Sequence[Count]) -> Count:
        """The count of the path that accepts a length; of the first one where none does."""
        same = _one(counts)
        if same is not None:
            return same

        def rule(*given: Frames) -> Frames:
            flags, values = given[: len(counts)], given[len(counts) :]
            return np.select([flag != 0 for flag in flags], list(values), values[0])

        return Count.derive(rule, *self._accepted, *counts, empty=None)


def _end(view: View) -> Count:
    """Behind which element of the value a view ends that ends where its value does."""
    return Count.derive(lambda t: np.maximum(0, t + view.shift), view.timeline.total, reach=abs(view.shift) + 1)


def _one(counts: Sequence[Count]) -> Count | None:
    return counts[0] if all(count is counts[0] for count in counts) else None


def _alike(a: Graph, b: Graph) -> bool:
    """Whether both compute the same, paddings at the end and cuts aside."""
    if len(a.nodes) != len(b.nodes) or len(a.values) != len(b.values):
        return False
    return all(
        one.output.index == other.output.index and len(one.inputs) == len(other.inputs) and _same(one.operator, other.operator)
        for one, other in zip(a.nodes, b.nodes, strict=True)
    )


def _same(a: Operator, b: Operator) -> bool:
    if type(a) is not type(b) or a.describe() != b.describe() or len(a.weights()) != len(b.weights()):
        return False
    if isinstance(a, Windowed) and isinstance(b, Windowed):
        mirrored = a.window.edge is Edge.REFLECT
        if a.window != b.window or (mirrored and a.right != b.right):
            return False
    begin = [each.initial.view(torch.int32) for each in (a, b) if isinstance(each, Recurrence)]
    if begin and not torch.equal(*begin):  # as bits: the halves of a float64 may be NaN as float32
        return False
    return all(torch.equal(one, other) for one, other in zip(a.weights(), b.weights(), strict=True))
