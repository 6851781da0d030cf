"""Padding with the signal's own edge: replicated or reflected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from service.streaming.operator import Edge, Flags, Window, Windowed, Windows
from service.streaming.symbol import Symbol
from service.streaming.timeline import Count, Frames, Timeline
from service.streaming.tracing import Trace


class EdgePadding(Windowed):
    """`F.pad(x, (left, right), mode)` with mode replicate or reflect."""

    def __init__(self, edge: Edge, channels: int, left: int, right: int) -> None:
        self.name = f"{edge.value}_pad"
        self.edge = edge
        self.channels = channels
        self.left = left
        self.right = right
        self.window = Window(1, (-left,), edge=edge)

    def timeline(self, inputs: Sequence[Timeline]) -> Timeline:
        (timeline,) = inputs
        # A reflected beginning is known once the element that its first one mirrors is there.
        least = self.left + 1 if self.edge is Edge.REFLECT else 1
        ready = Count.derive(lambda r: np.where(r >= least, r + self.left, 0), timeline.ready, reach=self.reach)
        return Timeline(ready, Count.derive(lambda t: t + self.left + self.right, timeline.total))

    def legal(self, *totals: Frames) -> Flags:
        furthest = max(self.left, self.right) if self.edge is Edge.REFLECT else 0
        return np.asarray(totals[0] > furthest)

    def needs(self, first: Frames) -> Frames:
        # The end, whenever it comes, looks back from the last element by as much as it pads.
        back = self.right if self.edge is Edge.REFLECT else 0
        return first - self.left - back - 1

    @property
    def reach(self) -> int:
        return 2 * (self.left + self.right) + 2

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        rows = windows.values.squeeze(1)
        return rows if out is None else out.copy_(rows)


def pad_with_edge(trace: Trace, symbol: Symbol, left: int, right: int, mode: str) -> Symbol:
    """The symbol, padded on both sides of time with its own edge."""
    if min(left, right) < 0:
        trace.refuse(f"{mode} padding by a negative amount", "Crop with a slice.")
    whole = symbol.reading(trace.graph.settled(symbol.reads, trace.where()))
    return trace.add(EdgePadding(Edge(mode), symbol.channels, left, right), [whole])
