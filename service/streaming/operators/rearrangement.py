"""Channels in another order, repeated, or dealt out to parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from service.streaming.axes import Kind, factor
from service.streaming.lowering import lowers
from service.streaming.operators.arithmetic import parts
from service.streaming.operators.dimensions import factor_place, place_of
from service.streaming.operators.reduction import PER_WINDOW
from service.streaming.operators.shapes import flatten, numbers, reshape, transpose
from service.streaming.operators.slicing import picked
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace


def _channels(trace: Trace, symbol: Symbol, dim: int) -> int:
    """How many the dimension has; refuses others than of channels."""
    axis = symbol.axes.each[place_of(trace, symbol, dim)]
    if axis.kind is not Kind.FACTOR:
        trace.refuse(f"{trace.calling} over time or batch", PER_WINDOW)
    return axis.size


@lowers("flip", any_kind=True)
def flip(trace: Trace, symbol: Symbol, *places: Any, dims: Any = None) -> Symbol:
    for dim in numbers(places, dims):
        symbol = picked(trace, symbol, dim, list(reversed(range(_channels(trace, symbol, dim)))))
    return symbol


@lowers("roll", any_kind=True)
def roll(trace: Trace, symbol: Symbol, shifts: Any, dims: Any = None) -> Symbol:
    if dims is None:
        trace.refuse("roll over all dimensions", PER_WINDOW)
    for shift, dim in zip(numbers((shifts,)), numbers((dims,)), strict=True):
        size = _channels(trace, symbol, dim)
        symbol = picked(trace, symbol, dim, [(place - shift) % size for place in range(size)])
    return symbol


@lowers("channel_shuffle", any_kind=True)
def channel_shuffle(trace: Trace, symbol: Symbol, groups: int) -> Symbol:
    sizes = list(symbol.shape)
    apart = reshape(trace, symbol, [sizes[0], groups, -1, *sizes[2:]])
    return flatten(trace, transpose(trace, apart, 1, 2), 1, 2)


@lowers("repeat_interleave", any_kind=True)
def repeat_interleave(trace: Trace, symbol: Symbol, repeats: Any, dim: Any = None) -> Symbol:
    """Each element several times in a row; over time, that is upsampling to the nearest."""
    if dim is None or not isinstance(repeats, int) or repeats < 1:
        trace.refuse("repeat_interleave by other than a number and a dimension", "Repeat each element equally often.")
    place = place_of(trace, symbol, dim)
    if symbol.axes.each[place].kind is Kind.BATCH:
        trace.refuse("repeat_interleave over the batch", "Streams are batched freely; repeat channels or time.")
    spread = symbol.copied.seen_as(symbol.axes.inserted(place + 1, factor(repeats, 0)))
    return flatten(trace, spread, place, place + 1).copied


@lowers("tensor_split", any_kind=True)
def tensor_split(trace: Trace, symbol: Symbol, indices_or_sections: Any, dim: int = 0) -> tuple[Symbol, ...]:
    place = factor_place(trace, symbol, dim)
    size, given = symbol.axes.each[place].size, indices_or_sections
    if isinstance(given, int):
        return parts(trace, symbol, [size // given + (part < size % given) for part in range(given)], place)
    ends = [0, *(min(end % size if end < 0 else end, size) for end in _ends(trace, given)), size]
    return parts(trace, symbol, [last - first for first, last in pairwise(ends)], place)


def _ends(trace: Trace, given: Any) -> Sequence[int]:
    if not isinstance(given, Sequence) or not all(isinstance(end, int) for end in given):
        trace.refuse("tensor_split at computed places", "Name them by numbers.")
    return given
