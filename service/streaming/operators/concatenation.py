"""Concatenation: of channels, and over time of a value with what pads it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.axes import BATCH, ONE, Kind, factor
from service.streaming.edges import EdgeFrame
from service.streaming.lowering import lowers
from service.streaming.operator import Pointwise
from service.streaming.operators.arithmetic import check_rates
from service.streaming.operators.dimensions import outermost, place_of
from service.streaming.operators.padding import pad_with_edge
from service.streaming.standin import found_in
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

Rows = Float[Tensor, "M C"]


class Concatenation(Pointwise):
    """`torch.cat` on channels."""

    name = "cat"

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        return torch.cat(list(rows), 1) if out is None else torch.cat(list(rows), 1, out=out)


@lowers("cat", "concat", "concatenate", any_kind=True)
def cat(trace: Trace, tensors: Sequence[Any], dim: int = 0) -> Symbol:
    edge = next(found_in(tensors, EdgeFrame), None)
    if edge is not None:
        return _padded_by_edges(trace, tensors, edge, dim)
    symbols = _of_one_batch([tensor for tensor in tensors if isinstance(tensor, Symbol)])
    first = symbols[0]
    dim = place_of(trace, first, dim)
    if dim == first.axes.time_dim and len(symbols) == 1:
        return _padded_by_constants(trace, tensors, first)
    if len(symbols) != len(tensors) or len({symbol.axes.letters for symbol in symbols}) != 1:
        trace.refuse("cat with constants or of mixed layouts", "Concatenate values of one layout; pad with F.pad.")
    if first.axes.each[dim].kind is not Kind.FACTOR:
        trace.refuse("cat over time or batch", "Concatenate channels; to pad, use F.pad.")
    if len({symbol.axes.without(dim).sizes for symbol in symbols}) != 1:
        trace.refuse(f"cat of {' and '.join(str(symbol.axes) for symbol in symbols)}", "The module itself would raise here.")
    check_rates(trace, "cat", symbols)
    whole = [outermost(trace, symbol, dim) for symbol in symbols]
    width = sum(symbol.axes.each[dim].size for symbol in symbols)
    axes = whole[0].axes.replaced(dim, factor(width, first.channels // first.axes.each[dim].size))
    dtype = reduce(torch.promote_types, (symbol.dtype for symbol in symbols))
    return trace.add_each(Concatenation(axes.channels), *whole, axes=axes, dtype=dtype)


def _of_one_batch(symbols: Sequence[Symbol]) -> list[Symbol]:
    """A dimension of size 1 where others have the batch is the batch."""
    places = {place for symbol in symbols for place, axis in enumerate(symbol.axes.each) if axis == BATCH}
    if len(places) != 1 or len({symbol.ndim for symbol in symbols}) != 1:
        return list(symbols)
    (place,) = places
    return [symbol.seen_as(symbol.axes.replaced(place, BATCH)) if symbol.axes.each[place] == ONE else symbol for symbol in symbols]


def _padded_by_constants(trace: Trace, tensors: Sequence[Any], symbol: Symbol) -> Symbol:
    """`torch.cat([zeros, x], -1)`: another way to write a padding."""
    place = next(place for place, tensor in enumerate(tensors) if tensor is symbol)
    constants = [tensor for tensor in tensors if tensor is not symbol and tensor.numel()]
    values = torch.unique(torch.cat([constant.flatten() for constant in constants])) if constants else torch.zeros(1)
    time = symbol.axes.time_dim
    shape = [axis.size for axis in symbol.axes.each]
    for constant in constants:
        shape[time] = constant.shape[time] if constant.ndim == symbol.ndim else 0
        if list(constant.shape) != shape or constant.dtype != symbol.dtype or len(values) != 1:
            trace.refuse("cat over time with other constants than one repeated number", "Pad with F.pad.")
    sides = [sum(tensor.shape[time] for tensor in part) for part in (tensors[:place], tensors[place + 1 :])]
    padding = [0, 0] * (symbol.ndim - 1 - time) + sides
    padded: Symbol = trace.call("pad", (symbol, padding), {"value": float(values[0])})
    return padded


def _padded_by_edges(trace: Trace, tensors: Sequence[Any], edge: EdgeFrame, dim: int) -> Symbol:
    """`torch.cat([x[..., :1], x, x[..., -1:]], -1)`: another way to write a padding."""
    at = [place for place, tensor in enumerate(tensors) if isinstance(tensor, Symbol)]
    if len(at) != 1 or any(not isinstance(tensor, Symbol | EdgeFrame) for tensor in tensors):
        edge.refuse("cat with other values or constants")
    symbol = tensors[at[0]]
    before, behind = tensors[: at[0]], tensors[at[0] + 1 :]
    own = all(frame.is_of(symbol) for frame in (*before, *behind))
    if not own or any(frame.last for frame in before) or not all(frame.last for frame in behind):
        edge.refuse("cat with another value, or at the other end,")
    if place_of(trace, symbol, dim) != symbol.axes.time_dim:
        edge.refuse("cat over channels")
    trace.require_floats([symbol])
    left, right = (sum(frame.count for frame in part) for part in (before, behind))
    raises = any(frame.expanded for frame in (*before, *behind))
    return pad_with_edge(trace, symbol.copied, left, right, "replicate", empty=not raises)


@lowers("hstack", any_kind=True)
def hstack(trace: Trace, tensors: Sequence[Any]) -> Symbol:
    made: Symbol = trace.call("cat", (tensors, 1), {})
    return made
