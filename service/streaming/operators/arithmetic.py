"""Sums, differences, products and quotients of values with each other and with constants; parts of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import BuiltinFunctionType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.axes import Axes, Kind, factor
from service.streaming.lowering import lowers
from service.streaming.operator import Pointwise
from service.streaming.operators.casting import kind_of
from service.streaming.operators.dimensions import broadcast, place_of
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

Rows = Float[Tensor, "M C"]
Constant = float | Float[Tensor, "C"]


class Join(Pointwise):
    """Two values combined element by element, matched by absolute index."""

    def __init__(self, name: str, channels: int, function: Callable[..., Tensor]) -> None:
        self.name = name
        self.channels = channels
        self.function = function
        self.writes = isinstance(function, BuiltinFunctionType)
        """Whether it takes an `out`, as torch's own do."""

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        if out is not None and self.writes:
            return self.function(*rows, out=out)
        result = self.function(*rows)
        return result if out is None else out.copy_(result)


class WithConstant(Pointwise):
    """A value combined with a number, or with one number per channel."""

    def __init__(self, name: str, channels: int, function: Callable[..., Tensor], constant: Constant, reflected: bool) -> None:
        self.name = name
        self.channels = channels
        self.function = function
        self.constant = constant
        self.reflected = reflected

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        plain = not self.reflected and self.name in ("add", "sub", "mul", "div", "maximum", "minimum")
        constant = self.constant if plain else torch.as_tensor(self.constant, dtype=rows[0].dtype)
        pair = (constant, rows[0]) if self.reflected else (rows[0], constant)
        result = self.function(*pair)
        return result if out is None else out.copy_(result)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.constant,) if isinstance(self.constant, Tensor) else ()

    def describe(self) -> str:
        constant = "" if isinstance(self.constant, Tensor) else self.constant
        return f"{self.name}({constant}, reflected={self.reflected})"


def maximum(a: Tensor, b: Tensor | float) -> Tensor:
    """`torch.maximum`, and the second of two that are equal: of 0 and -0 torch's vector and scalar code give different ones."""
    if isinstance(b, float):
        return torch.clamp_min(a, b)
    return torch.where(a == b, b, torch.maximum(a, b))


def minimum(a: Tensor, b: Tensor | float) -> Tensor:
    """`torch.minimum`, as `maximum`."""
    if isinstance(b, float):
        return torch.clamp_max(a, b)
    return torch.where(a == b, b, torch.minimum(a, b))


Combining = Callable[[Trace, Any, Any], Symbol]


def lower_binary(name: str, function: Callable[..., Tensor], *aliases: str, whole: bool = False) -> Combining:
    """Lowers a function of two numbers, under its name and with its operands the other way round under `r` and its name; returns
    the lowering. With `whole` its result of whole numbers is the same in float32."""

    @lowers(name, *aliases, any_kind=True)
    def combine(trace: Trace, a: Any, b: Any) -> Symbol:
        kind = kind_of(trace, name, a, b)
        if not kind.is_floating_point and not whole:
            trace.refuse(f"{name} to {kind}", "Compute in float32: convert with .float() before.")
        if isinstance(a, Symbol) and isinstance(b, Symbol):
            return join(trace, name, function, a, b, kind)
        symbol, constant = (a, b) if isinstance(a, Symbol) else (b, a)
        symbol, value, axes = with_constant(trace, symbol, constant)
        operator = WithConstant(name, axes.channels, function, value, reflected=constant is a)
        if axes == symbol.axes and axes.is_permutation(symbol.stored.channels):
            return trace.add_each(operator, symbol, dtype=kind)
        return trace.add(operator, [symbol], axes=axes.flat(), dtype=kind)

    @lowers(f"r{name}", *(f"r{alias}" for alias in aliases), any_kind=True)
    def reflected(trace: Trace, a: Any, b: Any) -> Symbol:
        return combine(trace, b, a)

    return combine


_add = lower_binary("add", torch.add)
_sub = lower_binary("sub", torch.sub, "subtract")
_div = lower_binary("div", torch.div, "truediv", "divide", "true_divide")
lower_binary("mul", torch.mul, "multiply")
lower_binary("maximum", maximum, whole=True)
lower_binary("minimum", minimum, whole=True)


def _lower_scaled(combine: Combining, *names: str) -> None:
    """With an `alpha` that the second operand is multiplied by."""

    @lowers(*names, any_kind=True)
    def lowering(trace: Trace, a: Any, b: Any, *, alpha: float = 1) -> Symbol:
        return combine(trace, a, b if alpha == 1 else b * alpha)


_lower_scaled(_add, "add")
_lower_scaled(_sub, "sub", "subtract")


@lowers("rsub", any_kind=True)
def rsub(trace: Trace, a: Any, b: Any, *, alpha: float = 1) -> Symbol:
    return _sub(trace, b, a if alpha == 1 else a * alpha)


@lowers("div", "divide", any_kind=True)
def div(trace: Trace, a: Any, b: Any, *, rounding_mode: str | None = None) -> Symbol:
    if rounding_mode is None:
        return _div(trace, a, b)
    made: Symbol = trace.call("floor_divide", (a, b), {}) if rounding_mode == "floor" else _div(trace, a, b).trunc()
    return made


def join(
    trace: Trace, name: str, function: Callable[..., Tensor], a: Symbol, b: Symbol, dtype: torch.dtype = torch.float32
) -> Symbol:
    """Two values of shapes that torch would broadcast, combined element by element."""
    check_rates(trace, name, [a, b])
    whole, other = broadcast(trace, name, [a, b])
    if whole.axes == other.axes and whole.stored.channels == other.stored.channels:
        return trace.add_each(Join(name, whole.channels, function), whole, other, dtype=dtype)
    # Where one has a single channel, its rows are broadcast as they are.
    pair = [given if given.channels == 1 else spread for given, spread in ((a, whole), (b, other))]
    return trace.add(Join(name, whole.channels, function), pair, axes=whole.axes.flat(), dtype=dtype)


def check_rates(trace: Trace, name: str, symbols: Sequence[Symbol]) -> None:
    """Joined values advance alike, and agree in length for some streams at least."""
    totals = [symbol.stored.timeline.total for symbol in symbols]
    first = totals[0]
    for other in totals[1:]:
        if first.gain * other.period != other.gain * first.period:
            trace.refuse(f"{name} of values of different rates", "Give both branches the same strides.")
        low, high = first.exceeds(other), other.exceeds(first)
        # On one way of several through branches on the length, it may raise; the guards say at which lengths.
        if low is None or high is None or ((low < 0 or high < 0) and not trace.has_branched):
            trace.refuse(f"{name} of values whose lengths never agree", "The module itself raises here; crop or pad one of them.")


def with_constant(trace: Trace, symbol: Symbol, constant: Any) -> tuple[Symbol, Constant, Axes]:
    """The symbol, a constant as torch would broadcast it against the rows that the symbol stands for, and the result's dimensions.

    Where these differ from the symbol's, rows are in the order of the dimensions, else as they are stored.
    """
    if isinstance(constant, int | float):
        return symbol, float(constant), symbol.axes
    if not isinstance(constant, Tensor) or (constant.dtype.is_floating_point and constant.dtype != torch.float32 and constant.ndim):
        trace.refuse(f"arithmetic with a {getattr(constant, 'dtype', type(constant).__name__)}", "Use numbers or float32 tensors.")
    if constant.ndim > symbol.ndim:
        trace.refuse(f"arithmetic of {symbol.axes} with a constant {list(constant.shape)}", "Give both as many dimensions.")
    if constant.numel() == 1:
        return symbol, float(constant), symbol.axes
    shape = [1] * (symbol.ndim - constant.ndim) + list(constant.shape)
    each = []
    for axis, size in zip(symbol.axes.each, shape, strict=True):
        if size not in (1, axis.size) and (axis.size != 1 or axis.kind is not Kind.FACTOR):
            trace.refuse(
                f"arithmetic of {symbol.axes} with a constant {list(constant.shape)}",
                "A constant may vary over channels only, such as [C, 1].",
            )
        each.append(factor(size, 0) if axis.size < size else axis)
    axes = Axes(tuple(each), symbol.axes.offset)
    factors = [size for axis, size in zip(axes.each, shape, strict=True) if axis.kind is Kind.FACTOR]
    values = constant.detach().to(torch.float32).reshape(factors).expand(axes.sizes).reshape(-1).clone()
    if axes != symbol.axes:
        return symbol if symbol.channels == 1 else symbol.seen_as(axes), values, axes
    if not axes.is_permutation(symbol.stored.channels):
        return symbol, values, axes
    places = torch.arange(axes.channels).as_strided(axes.sizes, axes.strides).reshape(-1)
    return symbol, torch.empty_like(values).index_copy_(0, places, values), axes


def part(trace: Trace, symbol: Symbol, kept: slice, dim: int | None = None) -> Symbol:
    """Some channels of a value, or of one dimension of them."""
    dim = symbol.dims.channel_dim if dim is None else dim
    axis = symbol.axes.each[dim]
    if axis.kind is not Kind.FACTOR:
        trace.refuse(f"{trace.calling} over time or batch", "Split channels.")
    if kept.step is not None and kept.step < 1:
        trace.refuse(f"{trace.calling} with a step of {kept.step}", "The module itself would raise here.")
    chosen = range(*kept.indices(axis.size))
    if not chosen:
        trace.refuse(f"{trace.calling} of no channels", "Keep one at least.")
    return symbol.seen_as(symbol.axes.replaced(dim, factor(len(chosen), axis.stride * chosen.step), chosen.start * axis.stride))


@lowers("split", "split_with_sizes", any_kind=True)
def split(trace: Trace, symbol: Symbol, sizes: int | Sequence[int], dim: int = 0) -> tuple[Symbol, ...]:
    return parts(trace, symbol, sizes, place_of(trace, symbol, dim))


@lowers("chunk", any_kind=True)
def chunk(trace: Trace, symbol: Symbol, chunks: int, dim: int = 0) -> tuple[Symbol, ...]:
    dim = place_of(trace, symbol, dim)
    return parts(trace, symbol, -(-symbol.axes.each[dim].size // chunks), dim)


def parts(trace: Trace, symbol: Symbol, sizes: int | Sequence[int], dim: int) -> tuple[Symbol, ...]:
    """A value cut into pieces of `sizes` channels."""
    axis = symbol.axes.each[dim]
    if axis.kind is not Kind.FACTOR:
        trace.refuse("split over time or batch", "Split channels.")
    if isinstance(sizes, int):
        sizes = [min(sizes, axis.size - first) for first in range(0, axis.size, sizes)]
    if sum(sizes) != axis.size:
        trace.refuse(f"{trace.calling} of {axis.size} channels into {list(sizes)}", "The module itself would raise here.")
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return tuple(part(trace, symbol, slice(end - size, end), dim) for size, end in zip(sizes, ends, strict=True))


@lowers("glu")
def glu(trace: Trace, symbol: Symbol, dim: int = -1) -> Symbol:
    dim = place_of(trace, symbol, dim)
    size = symbol.axes.each[dim].size
    if symbol.axes.each[dim].kind is Kind.FACTOR and size % 2:
        trace.refuse(f"glu of {size} channels", "The module itself would raise here.")
    value, gate = parts(trace, symbol, size // 2, dim)
    gated: Symbol = trace.call("mul", (value, trace.call("sigmoid", (gate,), {})), {})
    return gated
