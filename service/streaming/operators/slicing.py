"""Crops, paddings and transposes: they move no data, their readers shift indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.streaming.graph import Select
from service.streaming.length import Length
from service.streaming.lowering import lowers
from service.streaming.operators.arithmetic import part
from service.streaming.operators.padding import pad_with_edge
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

EVERYTHING = slice(None)


@lowers("getitem")
def getitem(trace: Trace, symbol: Symbol, key: Any) -> Symbol:
    keys = list(key) if isinstance(key, tuple) else [key]
    if not all(item is Ellipsis or isinstance(item, slice) for item in keys) or len(keys) - (Ellipsis in keys) > 3:
        trace.refuse(f"indexing with {key!r}", "Slices of channels and of time are what streams; keep all three dimensions.")
    place = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
    rest = [item for item in keys if item is not Ellipsis]
    keys = rest[:place] + [EVERYTHING] * (3 - len(rest)) + rest[place:]
    if not _is_everything(keys[symbol.dims.batch_dim]):
        trace.refuse("a slice of the batch", "Streams are batched freely; slice channels or time.")
    channels, time = keys[symbol.dims.channel_dim], keys[symbol.dims.time_dim]
    if not _is_everything(channels):
        symbol = part(trace, symbol, channels)
    return symbol if _is_everything(time) else crop(trace, symbol, time)


def _is_everything(kept: slice) -> bool:
    return kept.start is None and kept.stop is None and kept.step in (None, 1)


def crop(trace: Trace, symbol: Symbol, kept: slice) -> Symbol:
    """`x[..., a:-b:step]`, or cut to another value's length."""
    first, stop, step = kept.start or 0, kept.stop, kept.step or 1
    if not isinstance(first, int) or first < 0:
        trace.refuse(
            f"a slice of time that begins at {kept.start!r}", "Only a fixed number of elements can be cut off the beginning."
        )
    view = symbol.reads
    if isinstance(stop, Length):
        # A negative number would count from the end.
        trace.graph.require(lambda t: t >= 0, stop.count)
        view = view.limited(stop.count)
    elif stop is not None and (not isinstance(stop, int) or stop >= 0):
        trace.refuse(f"a slice of time that ends at {stop!r}", "Cut a fixed number of elements off the end, [..., :-b].")
    if first or isinstance(stop, int):
        view = view.cropped(first, -stop if isinstance(stop, int) else 0)
    symbol = symbol.reading(view)
    return symbol if step == 1 else trace.add(Select(view, step), [symbol], shares_memory=True)


@lowers("narrow")
def narrow(trace: Trace, symbol: Symbol, dim: int, start: int, length: int) -> Symbol:
    if dim % 3 != symbol.dims.channel_dim:
        trace.refuse("narrow over time or batch", "Slice time with [..., a:-b].")
    return part(trace, symbol, slice(start, start + length))


@lowers("pad")
def pad(trace: Trace, symbol: Symbol, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Symbol:
    sides = list(pad) + [0] * (6 - len(pad))
    time = 2 * (2 - symbol.dims.time_dim)
    if not all(isinstance(side, int) for side in sides):
        trace.refuse("padding by an amount that depends on the length", "Pad by fixed amounts.")
    left, right = sides[time : time + 2]
    if any(side for place, side in enumerate(sides) if place not in (time, time + 1)):
        trace.refuse("padding of channels or batch", "Pad time only.")
    if mode in ("replicate", "reflect"):
        return pad_with_edge(trace, symbol, left, right, mode)
    if mode != "constant":
        trace.refuse(
            f"{mode} padding", "It reads the other end of the stream; pad with zeros, or run it on windows outside penstock."
        )
    fill = float(value or 0.0)
    view = symbol.reads
    if left < 0 or right < 0:
        first, last = max(0, -left), max(0, -right)
        trace.graph.require(lambda t: t >= first + last, view.timeline.total, reach=first + last + 1)
        view = view.cropped(first, last)
    left, right = max(0, left), max(0, right)
    if left or right:
        if not view.may_read(fill):
            view = trace.graph.settled(view, trace.where())
        view = view.padded(left, right, fill)
    return symbol.reading(view)


@lowers("transpose", "swapaxes", "swapdims")
def transpose(trace: Trace, symbol: Symbol, first: int, second: int) -> Symbol:
    order = [0, 1, 2]
    order[first], order[second] = order[second], order[first]
    return Symbol(trace, symbol.reads, symbol.dims.permuted(order), symbol.root)


@lowers("permute")
def permute(trace: Trace, symbol: Symbol, *dims: Any) -> Symbol:
    order = dims[0] if len(dims) == 1 else dims
    return Symbol(trace, symbol.reads, symbol.dims.permuted(order), symbol.root)


@lowers("mT")
def matrix_transpose(trace: Trace, symbol: Symbol) -> Symbol:
    return transpose(trace, symbol, 1, 2)
