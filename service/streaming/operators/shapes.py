"""Other dimensions of the same numbers: permutations and reshapes, of channels among themselves and between channels and time."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any

from jaxtyping import Float
from torch import Tensor

from service.streaming.axes import BATCH, TIME, Axes, Kind, batch_place, factor, regrouped
from service.streaming.length import Length
from service.streaming.lowering import lowers
from service.streaming.operator import Window, Windowed, Windows
from service.streaming.operators.dimensions import factor_place, outermost, place_of
from service.streaming.operators.expansion import Interleave
from service.streaming.symbol import Symbol
from service.streaming.timeline import Count
from service.streaming.tracing import Trace

VIEWS = ("view", "view_as", "unflatten")
"""What torch refuses to do by a copy."""
WHOLE = "Time stays a dimension of its own: merge or split channels, or channels that stand right behind it."


@lowers("transpose", "swapaxes", "swapdims", any_kind=True)
def transpose(trace: Trace, symbol: Symbol, dim0: int, dim1: int) -> Symbol:
    first, second = place_of(trace, symbol, dim0), place_of(trace, symbol, dim1)
    order = list(range(symbol.ndim))
    order[first], order[second] = order[second], order[first]
    return symbol.seen_as(symbol.axes.permuted(order))


@lowers("permute", any_kind=True)
def permute(trace: Trace, symbol: Symbol, *places: Any, dims: Any = None) -> Symbol:
    order = [place_of(trace, symbol, dim) for dim in numbers(places, dims)]
    if sorted(order) != list(range(symbol.ndim)):
        trace.refuse(f"permute of {symbol.axes} to {order}", "The module itself would raise here.")
    return symbol.seen_as(symbol.axes.permuted(order))


@lowers("movedim", "moveaxis", any_kind=True)
def movedim(trace: Trace, symbol: Symbol, source: int | Sequence[int], destination: int | Sequence[int]) -> Symbol:
    come = [place_of(trace, symbol, dim) for dim in numbers((source,))]
    go = [place_of(trace, symbol, dim) for dim in numbers((destination,))]
    order = [dim for dim in range(symbol.ndim) if dim not in come]
    for place, dim in sorted(zip(go, come, strict=True)):
        order.insert(place, dim)
    return symbol.seen_as(symbol.axes.permuted(order))


@lowers("mT", any_kind=True)
def matrix_transpose(trace: Trace, symbol: Symbol) -> Symbol:
    return transpose(trace, symbol, -1, -2)


@lowers("t", "T", any_kind=True)
def turned(trace: Trace, symbol: Symbol) -> Symbol:
    if symbol.ndim != 2:
        trace.refuse(f"{trace.calling} of {symbol.axes}", "Name the dimensions: transpose(1, 2).")
    return transpose(trace, symbol, 0, 1)


@lowers("unsqueeze", any_kind=True)
def unsqueeze(trace: Trace, symbol: Symbol, dim: int) -> Symbol:
    return symbol.seen_as(symbol.axes.inserted(place_of(trace, symbol, dim, more=1)))


@lowers("squeeze", any_kind=True)
def squeeze(trace: Trace, symbol: Symbol, *places: Any, dim: Any = None) -> Symbol:
    if not places and dim is None:
        trace.refuse("squeeze of all dimensions of size 1", "It drops the batch of a single stream too; name the dimension.")
    for place in sorted((place_of(trace, symbol, one) for one in numbers(places, dim)), reverse=True):
        axis = symbol.axes.each[place]
        if axis.kind is not Kind.FACTOR:
            trace.refuse("squeeze of time or batch", "It drops them for a single frame or stream only; squeeze channels.")
        if axis.size == 1:
            symbol = symbol.seen_as(symbol.axes.without(place))
    return symbol


@lowers("expand", any_kind=True)
def expand(trace: Trace, symbol: Symbol, *sizes: Any, size: Any = None) -> Symbol:
    wanted = numbers(sizes, size)
    if len(wanted) < symbol.ndim:
        trace.refuse(f"expand of {symbol.axes} to {len(wanted)} dimensions", "The module itself would raise here.")
    axes = symbol.axes
    for _ in range(len(wanted) - symbol.ndim):
        axes = axes.inserted(0)
    for dim, count in enumerate(wanted):
        axis = axes.each[dim]
        if axis.kind is Kind.TIME:
            fits = count == -1 if isinstance(count, int) else count.count is symbol.stored.timeline.total
        else:
            fits = isinstance(count, int) and (count in (-1, axis.size) or axis.size == 1)
        if not fits:
            trace.refuse(f"expand of {symbol.axes} to {_written(wanted)}", "Repeat channels only.")
        if axis.kind is not Kind.TIME and count > axis.size:
            axes = axes.replaced(dim, factor(count, 0))
    made = symbol.seen_as(axes)
    return made.remembered(symbol.memory.perhaps(overlaps=True)) if axes.channels > symbol.channels else made


@lowers("expand_as", "view_as", "reshape_as", any_kind=True)
def alike(trace: Trace, symbol: Any, other: Symbol) -> Any:
    if not isinstance(symbol, Symbol):
        if trace.calling != "expand_as" or symbol.ndim > other.ndim:
            trace.refuse(f"{trace.calling} of a constant", "Write its sizes as numbers.")
        # What reads it broadcasts it.
        return symbol
    change = expand if trace.calling == "expand_as" else reshape
    return change(trace, symbol, other.shape)


@lowers("repeat", "tile", any_kind=True)
def repeat(trace: Trace, symbol: Symbol, *counts: Any, repeats: Any = None, dims: Any = None) -> Symbol:
    times = numbers(counts, dims if repeats is None else repeats)
    symbol = symbol.copied
    for _ in range(len(times) - symbol.ndim):
        symbol = symbol.seen_as(symbol.axes.inserted(0))
    for dim, count in zip(reversed(range(symbol.ndim)), reversed(times), strict=False):
        if count == 1:
            continue
        place = factor_place(trace, symbol, dim)
        sizes = list(symbol.shape)
        symbol = symbol.seen_as(symbol.axes.inserted(place, factor(count, 0)))
        symbol = reshape(trace, symbol, [*sizes[:place], count * sizes[place], *sizes[place + 1 :]])
    return symbol.copied


@lowers("flatten", any_kind=True)
def flatten(trace: Trace, symbol: Symbol, start_dim: int = 0, end_dim: int = -1) -> Symbol:
    first, last = place_of(trace, symbol, start_dim), place_of(trace, symbol, end_dim)
    sizes = list(symbol.shape)
    merged = sizes[first : last + 1]
    times = [size for size in merged if isinstance(size, Length)]
    count = prod(size for size in merged if isinstance(size, int))
    return reshape(trace, symbol, [*sizes[:first], times[0] * count if times else count, *sizes[last + 1 :]])


@lowers("unflatten", any_kind=True)
def unflatten(trace: Trace, symbol: Symbol, dim: int, sizes: Sequence[Any]) -> Symbol:
    place = place_of(trace, symbol, dim)
    shape = list(symbol.shape)
    if isinstance(shape[place], int) and -1 in sizes:
        rest = -prod(sizes)
        if shape[place] % rest:
            trace.refuse(f"unflatten of {shape[place]} channels into {list(sizes)}", "The module itself would raise here.")
        sizes = [shape[place] // rest if size == -1 else size for size in sizes]
    return reshape(trace, symbol, [*shape[:place], *sizes, *shape[place + 1 :]])


@lowers("reshape", "view", any_kind=True)
def reshape(trace: Trace, symbol: Symbol, *sizes: Any, shape: Any = None) -> Symbol:
    """Row-major, as torch: what stands before time is regrouped among itself, and so is what stands behind it.

    Factors right behind time may be merged into it, or split off: `[T, r] <-> [T * r]`.
    """
    made = _reshaped(trace, symbol, numbers(sizes, shape))
    return made if trace.calling in VIEWS else made.remembered(made.memory.perhaps())


def _reshaped(trace: Trace, symbol: Symbol, wanted: Sequence[Any]) -> Symbol:
    place, rate = _time_of(trace, symbol, wanted)
    time = symbol.axes.time_dim
    known = [size if isinstance(size, int) else 1 for size in wanted]
    if -1 in known:
        known[known.index(-1)] = int(symbol.channels / rate) // -prod(size for size in known)
    before, behind = known[:place], known[place + 1 :]
    if prod(before) != prod(axis.size for axis in symbol.axes.each[:time]):
        trace.refuse(f"{trace.calling} of {symbol.axes}, which would mix time with the channels before it,", WHOLE)
    if rate > 1:
        return _interleaved(trace, _factored(symbol, time, before, [rate.numerator, *behind]), place)
    if rate < 1:
        symbol = _blocks(trace, symbol, rate.denominator)
    return _factored(symbol, time, before, behind)


def _factored(symbol: Symbol, time: int, before: Sequence[int], behind: Sequence[int]) -> Symbol:
    """The dimensions before time in sizes `before`, those behind it in sizes `behind`."""
    each = symbol.axes.each
    left, right = regrouped(each[:time], before), regrouped(each[time + 1 :], behind)
    if left is None or right is None:
        whole = symbol.reading(symbol.reads)
        return _factored(whole, time, before, behind)
    made = [*left, TIME, *right]
    place = None if BATCH in each[time:] else batch_place(each[:time], before)
    if place is not None:
        made[place] = BATCH
    elif BATCH not in each[:time]:
        place = batch_place(each[time + 1 :], behind)
        if place is not None:
            made[time + 1 - len(each[:time]) + len(left) + place] = BATCH
    return symbol.seen_as(Axes(tuple(made), symbol.axes.offset))


def _time_of(trace: Trace, symbol: Symbol, sizes: Sequence[Any]) -> tuple[int, Fraction]:
    """Which of the new dimensions is time, and its new length over its old one."""
    lengths = [place for place, size in enumerate(sizes) if isinstance(size, Length)]
    free = [place for place, size in enumerate(sizes) if isinstance(size, int) and size == -1]
    others = prod(size for size in sizes if isinstance(size, int) and size != -1)
    total = symbol.stored.timeline.total
    if len(lengths) > 1 or len(free) > 1 or (not lengths and not free) or others < 1:
        trace.refuse(
            f"{trace.calling} of {symbol.axes} to {_written(sizes)}", "Name time by the length of a value, or leave it -1."
        )
    if lengths:
        place = lengths[0]
        count = sizes[place].count
        rate = Fraction(count.gain * total.period, count.period * total.gain) if total.gain else Fraction(0)
        complete = symbol.channels == others * rate if not free else symbol.channels % (others * rate) == 0
    else:
        place = free[0]
        rate = Fraction(symbol.channels, others)
        count, complete = _scaled(total, rate), True
    if rate == 0 or 1 not in (rate.numerator, rate.denominator) or not complete or count is not _scaled(total, rate):
        trace.refuse(f"{trace.calling} of {symbol.axes} to {_written(sizes)}", "The numbers of elements differ; " + WHOLE)
    return place, rate


def _scaled(total: Count, rate: Fraction) -> Count:
    up, down = rate.numerator, rate.denominator
    return Count.derive(lambda t: t * up // down, total, stride=down, empty=None)


def _written(sizes: Sequence[Any]) -> str:
    return f"[{', '.join('T' if isinstance(size, Length) else str(size) for size in sizes)}]"


class Blocks(Windowed):
    """`size` elements side by side as one, every `step` elements."""

    name = "blocks"
    right = 0

    def __init__(self, size: int, channels: int, step: int) -> None:
        self.channels = size * channels
        self.window = Window(step, tuple(range(size)))

    def compute(self, windows: Windows, out: Float[Tensor, "M size*C"] | None) -> Float[Tensor, "M size*C"]:
        rows = windows.values.flatten(1)
        return rows if out is None else out.copy_(rows)

    def describe(self) -> str:
        return f"blocks({self.window.stride}, {len(self.window.offsets)})"


def _blocks(trace: Trace, symbol: Symbol, size: int) -> Symbol:
    """`[…, T, …]` as `[…, T / size, size, …]`; streams may end only where T can be divided."""
    total = symbol.stored.timeline.total
    rest = Count.derive(lambda t: t % size, total, stride=size, empty=None)
    trace.graph.require(lambda remainder: remainder == 0, rest)
    symbol = symbol.in_any_order
    channels = symbol.stored.channels
    view = trace.graph.add(Blocks(size, channels, size), [symbol.stored], trace.where())
    axes = symbol.axes.inserted(symbol.axes.time_dim + 1, factor(size, channels))
    return Symbol(trace, view, axes, symbol.memory, symbol.dtype)


@lowers("unfold", any_kind=True)
def unfold(trace: Trace, symbol: Symbol, dimension: int, size: int, step: int) -> Symbol:
    """Windows of time, or of a dimension of channels, in a new last dimension."""
    place = place_of(trace, symbol, dimension)
    axis = symbol.axes.each[place]
    if axis.kind is Kind.BATCH or not size >= 1 or step < 1:
        trace.refuse(f"unfold of {symbol.axes}", "Take windows of time or of channels.")
    if axis.kind is Kind.FACTOR:
        if size > axis.size:
            trace.refuse(f"unfold of {axis.size} channels into {size}", "The module itself would raise here.")
        count = (axis.size - size) // step + 1
        axes = symbol.axes.replaced(place, factor(count, axis.stride * step))
        made = symbol.seen_as(axes.inserted(symbol.ndim, factor(size, axis.stride)))
        return made.remembered(symbol.memory.perhaps(overlaps=True)) if step < size else made
    memory = symbol.memory.perhaps(overlaps=step < size)
    symbol = symbol.in_any_order
    channels = symbol.stored.channels
    view = trace.graph.add(Blocks(size, channels, step), [symbol.stored], trace.where())
    return Symbol(trace, view, symbol.axes.inserted(symbol.ndim, factor(size, channels)), memory, symbol.dtype)


def _interleaved(trace: Trace, symbol: Symbol, time: int) -> Symbol:
    """`[…, T, size, …]` as `[…, T * size, …]`."""
    size = symbol.axes.each[time + 1].size
    whole = trace.graph.settled(outermost(trace, symbol, time + 1).stored, trace.where())
    made = trace.graph.add(Interleave(size, symbol.channels // size), [whole], trace.where())
    return Symbol(trace, made, symbol.axes.without(time + 1).flat(), symbol.memory, symbol.dtype)


def numbers(given: Sequence[Any], named: Any = None) -> list[Any]:
    """What torch takes as several arguments, as one sequence of them, or by name."""
    given = given or (named,)
    return list(given[0]) if len(given) == 1 and isinstance(given[0], Sequence) else list(given)


@lowers("stack", any_kind=True)
def stack(trace: Trace, tensors: Sequence[Symbol], dim: int = 0) -> Symbol:
    first = next(tensor for tensor in tensors if isinstance(tensor, Symbol))
    if not all(isinstance(tensor, Symbol) for tensor in tensors):
        trace.refuse("stack with constants", "Stack values only.")
    place = place_of(trace, first, dim, more=1)
    made: Symbol = trace.call("cat", ([unsqueeze(trace, tensor, place) for tensor in tensors], place), {})
    return made
