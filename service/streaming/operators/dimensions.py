"""Dimensions of traced tensors, counted and matched as torch does."""

from __future__ import annotations

from collections.abc import Sequence

from service.streaming.axes import BATCH, ONE, TIME, Axes, Axis, Kind, factor
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace


def place_of(trace: Trace, symbol: Symbol, dim: int, more: int = 0) -> int:
    """Where dimension `dim` stands, counted from the front; `more` places than there are dimensions may be named."""
    room = symbol.ndim + more
    if not isinstance(dim, int) or not -room <= dim < room:
        trace.refuse(f"{trace.calling} over dimension {dim!r} of {symbol.axes}", "The module itself would raise here.")
    return dim % room


def factor_place(trace: Trace, symbol: Symbol, dim: int) -> int:
    """Where a dimension of channels stands."""
    place = place_of(trace, symbol, dim)
    if symbol.axes.each[place].kind is not Kind.FACTOR:
        trace.refuse(
            f"{trace.calling} over time or batch", "It takes a dimension of channels; run it on windows (mode: window) otherwise."
        )
    return place


def ordered(trace: Trace, symbol: Symbol, order: Sequence[int]) -> Symbol:
    """The same dimensions, over rows that hold the factors in another order, `order[-1]` innermost."""
    view = trace.flattened(symbol.stored, symbol.axes.permuted(order))
    return Symbol(trace, view, symbol.axes.over(order), symbol.memory, symbol.dtype)


def innermost(trace: Trace, symbol: Symbol, dim: int) -> Symbol:
    """The same dimensions, over rows in which neighbours along the factor `dim` are neighbours."""
    return ordered(trace, symbol, [*(place for place in factors_of(symbol.axes) if place != dim), dim])


def outermost(trace: Trace, symbol: Symbol, dim: int) -> Symbol:
    """The same dimensions, over rows that are cut into pieces by the factor `dim`."""
    return ordered(trace, symbol, [dim, *(place for place in factors_of(symbol.axes) if place != dim)])


def factors_of(axes: Axes) -> list[int]:
    return [place for place, axis in enumerate(axes.each) if axis.kind is Kind.FACTOR]


def broadcast(trace: Trace, name: str, symbols: Sequence[Symbol]) -> list[Symbol]:
    """The symbols with equal dimensions, as torch would broadcast them; what is repeated is not copied here."""
    ndim = max(symbol.ndim for symbol in symbols)
    aligned = [[ONE] * (ndim - symbol.ndim) + list(symbol.axes.each) for symbol in symbols]
    together = [_common(trace, name, symbols, column) for column in zip(*aligned, strict=True)]
    made = []
    for symbol, axes in zip(symbols, aligned, strict=True):
        each = [wanted if axis.size != wanted.size else axis for axis, wanted in zip(axes, together, strict=True)]
        each = [wanted if wanted == BATCH else axis for axis, wanted in zip(each, together, strict=True)]
        made.append(symbol.seen_as(Axes(tuple(each), symbol.axes.offset)))
    return made


def _common(trace: Trace, name: str, symbols: Sequence[Symbol], column: Sequence[Axis]) -> Axis:
    sizes = {axis.size for axis in column} - {1}
    timed = [axis == TIME for axis in column]
    if len(sizes) > 1 or (any(timed) and not all(timed)) or (sizes and BATCH in column):
        trace.refuse(f"{name} of {' and '.join(str(symbol.axes) for symbol in symbols)}", "Make them alike.")
    if timed[0]:
        return TIME
    if sizes:
        return factor(sizes.pop(), 0)
    return BATCH if BATCH in column else ONE
