"""Slices and paddings: they move no data, their readers shift indices."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from service.streaming.axes import Kind, factor
from service.streaming.edges import EdgeFrame
from service.streaming.graph import Select
from service.streaming.length import Length
from service.streaming.lowering import lowers
from service.streaming.operator import Pointwise
from service.streaming.operators.arithmetic import part
from service.streaming.operators.dimensions import factor_place, place_of
from service.streaming.operators.padding import pad_channels, pad_to_length, pad_with_edge
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

EVERYTHING = slice(None)
ENDS = (
    "Cut a fixed number of elements off the end, [..., :-b], or cut to another value's length; to repeat the first or the last "
    "one, pad with mode='replicate'."
)
BEGINNINGS = (
    "Only a fixed number of elements can be cut off the beginning, [..., a:], or as many as this value always has more than "
    "another one, [..., -y.shape[-1]:]."
)


@lowers("getitem", any_kind=True)
def getitem(trace: Trace, symbol: Symbol, key: Any) -> Symbol | EdgeFrame:
    keys = list(key) if isinstance(key, tuple) else [key]
    named = [item for item in keys if item is not None and item is not Ellipsis]
    if any(isinstance(item, Symbol) for item in named):
        trace.refuse("indexing with computed truths or numbers", "How many there are differs: use torch.where or masked_fill.")
    room = symbol.ndim - len(named)
    listed = [item for item in named if isinstance(item, list | Tensor)]
    if room < 0 or not all(isinstance(item, slice | int | list | Tensor) for item in named) or len(listed) > 1:
        trace.refuse(f"indexing with {key!r}", "Slices of channels and of time, and numbers of channels, are what streams.")
    place = next((place for place, item in enumerate(keys) if item is Ellipsis), len(keys))
    full = [*keys[:place], *[EVERYTHING] * room, *keys[place + 1 :]]
    edge = _edge(symbol, full)
    if edge is not None:
        return edge
    dim = 0
    for item in full:
        if item is None:
            symbol = symbol.seen_as(symbol.axes.inserted(dim))
        elif isinstance(item, slice):
            symbol = _sliced(trace, symbol, dim, item)
        elif isinstance(item, int):
            symbol = select(trace, symbol, dim, item)
            continue
        else:
            symbol = picked(trace, symbol, dim, item)
        dim += 1
    return symbol


def _edge(symbol: Symbol, keys: Sequence[Any]) -> EdgeFrame | None:
    """`x[..., :1]` and `x[..., -1:]`; None for all else."""
    if len(keys) != symbol.ndim or any(isinstance(item, int | list | Tensor) or item is None for item in keys):
        return None
    time = symbol.axes.time_dim
    if any(item != EVERYTHING for dim, item in enumerate(keys) if dim != time):
        return None
    bounds = (keys[time].start, keys[time].stop, keys[time].step)
    if any(isinstance(bound, Length) for bound in bounds):
        return None
    if bounds in ((None, 1, None), (0, 1, None)):
        return EdgeFrame(symbol, last=False)
    return EdgeFrame(symbol, last=True) if bounds == (-1, None, None) else None


def _sliced(trace: Trace, symbol: Symbol, dim: int, kept: slice) -> Symbol:
    if kept.start is None and kept.stop is None and kept.step in (None, 1):
        return symbol
    kind = symbol.axes.each[dim].kind
    if kind is Kind.BATCH:
        trace.refuse("a slice of the batch", "Streams are batched freely; slice channels or time.")
    return crop(trace, symbol, kept) if kind is Kind.TIME else part(trace, symbol, kept, dim)


@lowers("select", any_kind=True)
def select(trace: Trace, symbol: Symbol, dim: int, index: int) -> Symbol:
    dim = place_of(trace, symbol, dim)
    axis = symbol.axes.each[dim]
    if axis.kind is not Kind.FACTOR:
        trace.refuse(f"indexing time or batch with {index}", "It is one frame of all; slice with a fixed distance from the ends.")
    if not -axis.size <= index < axis.size:
        trace.refuse(f"indexing {axis.size} channels with {index}", "The module itself would raise here.")
    return symbol.seen_as(symbol.axes.without(dim, offset=index % axis.size * axis.stride))


@lowers("unbind", any_kind=True)
def unbind(trace: Trace, symbol: Symbol, dim: int = 0) -> tuple[Symbol, ...]:
    place = place_of(trace, symbol, dim)
    if symbol.axes.each[place].kind is Kind.TIME:
        trace.refuse("unbind over time", "Use nn.LSTM, nn.GRU, cumsum or register_streamer instead of a loop over frames.")
    place = factor_place(trace, symbol, dim)
    return tuple(select(trace, symbol, place, index) for index in range(symbol.axes.each[place].size))


@lowers("index_select", any_kind=True)
def picked(trace: Trace, symbol: Symbol, dim: int, index: Any) -> Symbol:
    """Channels by a constant list of their numbers."""
    place = factor_place(trace, symbol, dim)
    size = symbol.axes.each[place].size
    if isinstance(index, Symbol) or torch.as_tensor(index).ndim != 1:
        trace.refuse("indexing with computed numbers, or with a table", "Index one dimension of channels by a constant list.")
    numbers = torch.arange(size)[torch.as_tensor(index)]
    axes = symbol.axes.flat()
    places = torch.arange(symbol.channels).view(axes.sizes)
    factors = [axis.kind for axis in axes.each[:place]].count(Kind.FACTOR)
    kept = places.index_select(factors, numbers).reshape(-1)
    made = axes.replaced(place, factor(len(numbers), 1)).flat()
    return trace.add(Pick(kept), [symbol], axes=made, dtype=symbol.dtype)


class Pick(Pointwise):
    """Channels by their numbers."""

    name = "pick"

    def __init__(self, kept: Int64[Tensor, "C"]) -> None:
        self.channels = len(kept)
        self.kept = kept

    def compute(self, rows: Sequence[Float[Tensor, "M C_in"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        return torch.index_select(rows[0], 1, self.kept, out=out)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.kept,)


def crop(trace: Trace, symbol: Symbol, kept: slice) -> Symbol:
    """`x[..., a:-b:step]`, or cut to another value's length."""
    first, stop, step = 0 if kept.start is None else kept.start, kept.stop, kept.step or 1
    if isinstance(first, Length):
        first = first.left_out(symbol.stored.timeline.total)
        if first is None:
            trace.refuse("a slice of time that leaves out a beginning that depends on the length", BEGINNINGS)
    if not isinstance(first, int) or first < 0:
        trace.refuse(f"a slice of time that begins at {kept.start!r}", BEGINNINGS)
    if isinstance(stop, Length) and stop.count.gain == 0:
        stop = stop.asked()
    view = symbol.stored
    if isinstance(stop, Length):
        # A negative number would count from the end.
        if not stop.count.is_monotonic:
            trace.refuse("a slice of time that ends where a longer stream may end it earlier", ENDS)
        trace.graph.require(lambda t: t >= 0, stop.count)
        view = view.limited(stop.count)
    elif stop is not None and (not isinstance(stop, int) or stop >= 0):
        trace.refuse(f"a slice of time that ends at {stop!r}", ENDS)
    if first or isinstance(stop, int):
        view = view.cropped(first, -stop if isinstance(stop, int) else 0)
    symbol = symbol.storing(view)
    if step == 1:
        return symbol
    whole = symbol.in_any_order
    made = trace.graph.add(Select(whole.stored, step), [whole.stored], trace.where())
    return whole.storing(made)


@lowers("narrow", any_kind=True)
def narrow(trace: Trace, symbol: Symbol, dim: int, start: Any, length: Any) -> Symbol:
    """As a slice, but nothing beyond the end may be asked for."""
    place = place_of(trace, symbol, dim)
    axis = symbol.axes.each[place]
    if axis.kind is Kind.FACTOR:
        first = start % axis.size if isinstance(start, int) else start
        if not isinstance(first, int) or not isinstance(length, int) or first + length > axis.size:
            trace.refuse(f"narrow of {axis.size} channels to {length!r} from {start!r}", "The module itself would raise here.")
        return part(trace, symbol, slice(first, first + length), place)
    end = start + length
    if axis.kind is Kind.BATCH or not isinstance(end, Length) or not isinstance(start, int):
        trace.refuse("narrow over the batch, or to a fixed number of frames", "Slice time with [..., a:-b].")
    total = symbol.stored.timeline.total
    if end.count.gain * total.period > total.gain * end.count.period:
        trace.refuse("narrow to a length that grows faster than the value's", "The module itself would raise here.")
    trace.graph.require(operator.ge, total, end.count)
    trace.graph.require(lambda t: t >= start, end.count, reach=abs(start) + 1)
    return crop(trace, symbol, slice(start, end))


@lowers("pad", any_kind=True)
def pad(trace: Trace, symbol: Symbol, pad: Sequence[Any], mode: str = "constant", value: float | None = None) -> Symbol:
    sides = list(pad) + [0] * (2 * symbol.ndim - len(pad))
    time = 2 * (symbol.ndim - 1 - symbol.axes.time_dim)
    left, right = sides[time : time + 2]
    if not all(isinstance(side, int) for place, side in enumerate(sides) if place != time + 1):
        trace.refuse("padding on the left by an amount that depends on the length", "Pad by it on the right, at the end.")
    if isinstance(right, Length) and (mode != "constant" or left < 0 or right.may_be_negative):
        right = right.asked()
    fill = float(torch.zeros((), dtype=symbol.dtype).fill_(value or 0.0))
    for place, axis in enumerate(symbol.axes.each):
        before, behind = sides[2 * (symbol.ndim - 1 - place) :][:2]
        if place != symbol.axes.time_dim and (before, behind) != (0, 0):
            if mode != "constant" or axis.kind is not Kind.FACTOR:
                trace.refuse(f"{mode} padding of {'batch' if axis.kind is Kind.BATCH else 'channels'}", "Pad them with constants.")
            symbol = pad_channels(trace, symbol, place, (before, behind), fill)
    # What torch pads is a copy, even where there is nothing to pad.
    symbol = symbol.copied
    if mode in ("replicate", "reflect"):
        trace.require_floats([symbol])
        return pad_with_edge(trace, symbol, left, right, mode)
    if mode != "constant":
        trace.refuse(
            f"{mode} padding", "It reads the other end of the stream; pad with zeros, or run it on windows (mode: window)."
        )
    if isinstance(right, Length):
        return pad_to_length(trace, symbol, left, right, fill)
    view = symbol.stored
    if left < 0 or right < 0:
        first, last = max(0, -left), max(0, -right)
        trace.graph.require(lambda t: t >= first + last, view.timeline.total, reach=first + last + 1)
        view = view.cropped(first, last)
    left, right = max(0, left), max(0, right)
    if left or right:
        if not view.may_read(fill):
            view = trace.graph.settled(view, trace.where())
        view = view.padded(left, right, fill)
    return symbol.storing(view)
