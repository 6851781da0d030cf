"""Padding with the signal's own edge, replicated or reflected; padding of channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from service.streaming.axes import Kind, factor
from service.streaming.length import Length
from service.streaming.operator import Edge, Flags, Pointwise, Window, Windowed, Windows
from service.streaming.operators.arithmetic import part
from service.streaming.operators.dimensions import factors_of
from service.streaming.symbol import Symbol
from service.streaming.timeline import Count, Frames, Timeline
from service.streaming.tracing import Trace


class EdgePadding(Windowed):
    """`F.pad(x, (left, right), mode)` with mode replicate or reflect.

    With `empty` a value without frames has no edge either, and stays as it is; else the module raises.
    """

    end_varies = True

    def __init__(self, edge: Edge, channels: int, left: int, right: int, empty: bool = False) -> None:
        self.name = f"{edge.value}_pad"
        self.empty = empty
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
        sides = self.left + self.right
        total = Count.derive(lambda t: np.where((t > 0) | (not self.empty), t + sides, 0), timeline.total, reach=1)
        return Timeline(ready, total)

    def legal(self, *totals: Frames) -> Flags:
        furthest = max(self.left, self.right) if self.edge is Edge.REFLECT else 0
        return np.asarray((totals[0] > furthest) | self.empty)

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

    def describe(self) -> str:
        return f"{self.name}({self.left})" + " or nothing" * self.empty


class Border(Pointwise):
    """A dimension of channels with `sides` more of them before and behind it."""

    name = "border"

    def __init__(self, outer: int, size: int, inner: int, sides: tuple[int, int], fill: float) -> None:
        self.shape = (outer, size, inner)
        self.sides = sides
        self.fill = fill
        self.channels = outer * (size + sum(sides)) * inner

    def compute(self, rows: Sequence[Float[Tensor, "M C_in"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        made = F.pad(rows[0].reshape(len(rows[0]), *self.shape), (0, 0, *self.sides), value=self.fill).flatten(1)
        return made if out is None else out.copy_(made)

    def describe(self) -> str:
        return f"border({self.shape}, {self.sides}, {self.fill})"


def pad_channels(trace: Trace, symbol: Symbol, place: int, sides: tuple[int, int], fill: float) -> Symbol:
    """The symbol with more steps of a dimension of channels, or fewer where `sides` are negative."""
    size = symbol.axes.each[place].size
    first, last = (max(0, -side) for side in sides)
    if first + last >= size:
        trace.refuse(f"padding of {size} channels by {sides}", "Keep one at least.")
    symbol = part(trace, symbol, slice(first, size - last), place)
    more = (max(0, sides[0]), max(0, sides[1]))
    if not any(more):
        return symbol
    sizes = [axis.size for axis in symbol.axes.each if axis.kind is Kind.FACTOR]
    at = factors_of(symbol.axes).index(place)
    operator = Border(prod(sizes[:at]), sizes[at], prod(sizes[at + 1 :]), more, fill)
    axes = symbol.axes.replaced(place, factor(sizes[at] + sum(more), 1)).flat()
    return trace.add(operator, [symbol], axes=axes, dtype=symbol.dtype)


def pad_with_edge(trace: Trace, symbol: Symbol, left: int, right: int, mode: str, empty: bool = False) -> Symbol:
    """The symbol, padded on both sides of time with its own edge."""
    if min(left, right) < 0:
        trace.refuse(f"{mode} padding by a negative amount", "Crop with a slice.")
    whole = symbol.reading(trace.graph.settled(symbol.reads, trace.where()))
    return trace.add(EdgePadding(Edge(mode), symbol.channels, left, right, empty), [whole])


def pad_to_length(trace: Trace, symbol: Symbol, left: int, right: Length, fill: float) -> Symbol:
    """Padded at the end by as much as the length says, such as up to a multiple, or to another value's length."""
    view = symbol.stored
    if not Count.derive(np.add, view.timeline.total, right.count, empty=None).is_monotonic:
        trace.refuse("a padding that makes longer streams shorter", "Pad up to a multiple, or to another value's length.")
    if not view.may_read(fill):
        view = trace.graph.settled(view, trace.where())
    return symbol.storing(view.padded(left, right.count, fill))
