"""Sums, differences, products and quotients of values with each other and with constants; concatenation and parts of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.lowering import lowers
from service.streaming.operator import Pointwise
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

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        return self.function(*rows) if out is None else self.function(*rows, out=out)


class WithConstant(Pointwise):
    """A value combined with a number, or with one number per channel."""

    def __init__(self, name: str, channels: int, function: Callable[..., Tensor], constant: Constant, reflected: bool) -> None:
        self.name = name
        self.channels = channels
        self.function = function
        self.constant = constant
        self.reflected = reflected

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        constant = torch.as_tensor(self.constant, dtype=rows[0].dtype) if self.reflected else self.constant
        pair = (constant, rows[0]) if self.reflected else (rows[0], constant)
        result = self.function(*pair)
        return result if out is None else out.copy_(result)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.constant,) if isinstance(self.constant, Tensor) else ()

    def describe(self) -> str:
        constant = "" if isinstance(self.constant, Tensor) else self.constant
        return f"{self.name}({constant}, reflected={self.reflected})"


class Concatenation(Pointwise):
    """`torch.cat` on channels."""

    name = "cat"

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        return torch.cat(list(rows), 1) if out is None else torch.cat(list(rows), 1, out=out)


class Channels(Pointwise):
    """Some of the channels."""

    name = "channels"

    def __init__(self, kept: slice, of: int) -> None:
        self.kept = kept
        self.channels = len(range(*kept.indices(of)))

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        part = rows[0][:, self.kept]
        return part.contiguous() if out is None else out.copy_(part)

    def describe(self) -> str:
        return f"channels({self.kept})"


def _lower_binary(name: str, function: Callable[..., Tensor], *aliases: str) -> None:
    def combine(trace: Trace, a: Any, b: Any, reflected: bool) -> Symbol:
        if reflected:
            a, b = b, a
        if isinstance(a, Symbol) and isinstance(b, Symbol):
            channels = joined_channels(trace, name, a, b)
            check_rates(trace, name, [a, b])
            return trace.add(Join(name, channels, function), [a, b])
        symbol, constant = (a, b) if isinstance(a, Symbol) else (b, a)
        value = per_channel(trace, symbol, constant)
        channels = max(symbol.channels, value.numel()) if isinstance(value, Tensor) else symbol.channels
        return trace.add(WithConstant(name, channels, function, value, symbol is b), [symbol])

    @lowers(name, *aliases)
    def lowering(trace: Trace, a: Any, b: Any, *, alpha: float = 1) -> Symbol:
        if alpha != 1:
            trace.refuse(f"{name} with alpha", "Multiply by it before.")
        return combine(trace, a, b, reflected=False)

    @lowers(f"r{name}", *(f"r{alias}" for alias in aliases))
    def reflected_lowering(trace: Trace, a: Any, b: Any) -> Symbol:
        return combine(trace, a, b, reflected=True)


_lower_binary("add", torch.add)
_lower_binary("sub", torch.sub, "subtract")
_lower_binary("mul", torch.mul, "multiply")
_lower_binary("div", torch.div, "truediv", "divide", "true_divide")
_lower_binary("maximum", torch.maximum)
_lower_binary("minimum", torch.minimum)


def joined_channels(trace: Trace, name: str, a: Symbol, b: Symbol) -> int:
    if a.dims is not b.dims or (a.channels != b.channels and 1 not in (a.channels, b.channels)):
        trace.refuse(f"{name} of {a.channels} and {b.channels} channels in {a.dims.value} and {b.dims.value}", "Make them alike.")
    return max(a.channels, b.channels)


def check_rates(trace: Trace, name: str, symbols: Sequence[Symbol]) -> None:
    """Joined values advance alike, and agree in length for some streams at least."""
    totals = [symbol.reads.timeline.total for symbol in symbols]
    first = totals[0]
    for other in totals[1:]:
        if first.gain * other.period != other.gain * first.period:
            trace.refuse(f"{name} of values of different rates", "Give both branches the same strides.")
        low, high = first.exceeds(other), other.exceeds(first)
        if low is None or high is None or low < 0 or high < 0:
            trace.refuse(f"{name} of values whose lengths never agree", "The module itself raises here; crop or pad one of them.")


def per_channel(trace: Trace, symbol: Symbol, constant: Any) -> Constant:
    """A constant as torch would broadcast it against the symbol: a number, or one per channel."""
    if isinstance(constant, int | float):
        return float(constant)
    if not isinstance(constant, Tensor) or (constant.dtype != symbol.dtype and constant.ndim):
        trace.refuse(f"arithmetic with a {getattr(constant, 'dtype', type(constant).__name__)}", "Use numbers or float32 tensors.")
    if constant.numel() == 1:
        return float(constant)
    shape = [1] * (3 - constant.ndim) + list(constant.shape)
    channel = symbol.dims.channel_dim
    others = [size for dim, size in enumerate(shape) if dim != channel]
    if len(shape) != 3 or any(size != 1 for size in others) or (symbol.channels not in (1, shape[channel])):
        trace.refuse(f"arithmetic with a constant {list(constant.shape)}", "A constant may vary over channels only, [C, 1].")
    return constant.detach().reshape(-1).clone()


@lowers("cat", "concat", "concatenate")
def cat(trace: Trace, tensors: Sequence[Any], dim: int = 0) -> Symbol:
    symbols = [tensor for tensor in tensors if isinstance(tensor, Symbol)]
    first = symbols[0]
    if dim % 3 == first.dims.time_dim and len(symbols) == 1:
        return _padded_by_constants(trace, tensors, first)
    if len(symbols) != len(tensors) or len({symbol.dims for symbol in symbols}) != 1:
        trace.refuse("cat with constants or of mixed layouts", "Concatenate values of one layout; pad with F.pad.")
    if dim % 3 != first.dims.channel_dim:
        trace.refuse("cat over time or batch", "Concatenate channels; to pad, use F.pad.")
    check_rates(trace, "cat", symbols)
    return trace.add(Concatenation(sum(symbol.channels for symbol in symbols)), symbols)


def _padded_by_constants(trace: Trace, tensors: Sequence[Any], symbol: Symbol) -> Symbol:
    """`torch.cat([zeros, x], -1)`: another way to write a padding."""
    place = next(place for place, tensor in enumerate(tensors) if tensor is symbol)
    constants = [tensor for tensor in tensors if tensor is not symbol and tensor.numel()]
    values = torch.unique(torch.cat([constant.flatten() for constant in constants])) if constants else torch.zeros(1)
    shape = [1, symbol.channels, symbol.channels]
    for constant in constants:
        shape[symbol.dims.time_dim] = constant.shape[symbol.dims.time_dim] if constant.ndim == 3 else 0
        if list(constant.shape) != shape or constant.dtype != symbol.dtype or len(values) != 1:
            trace.refuse("cat over time with other constants than one repeated number", "Pad with F.pad.")
    sides = [sum(tensor.shape[symbol.dims.time_dim] for tensor in part) for part in (tensors[:place], tensors[place + 1 :])]
    padding = [0] * 6
    padding[2 * (2 - symbol.dims.time_dim) : 2 * (2 - symbol.dims.time_dim) + 2] = sides
    padded: Symbol = trace.call("pad", (symbol, padding), {"value": float(values[0])})
    return padded


def part(trace: Trace, symbol: Symbol, kept: slice) -> Symbol:
    """Some channels of a value."""
    return trace.add(Channels(kept, symbol.channels), [symbol], shares_memory=True)


@lowers("split", "split_with_sizes")
def split(trace: Trace, symbol: Symbol, sizes: int | Sequence[int], dim: int = 0) -> tuple[Symbol, ...]:
    return parts(trace, symbol, sizes, dim)


@lowers("chunk")
def chunk(trace: Trace, symbol: Symbol, chunks: int, dim: int = 0) -> tuple[Symbol, ...]:
    return parts(trace, symbol, -(-symbol.channels // chunks), dim)


def parts(trace: Trace, symbol: Symbol, sizes: int | Sequence[int], dim: int) -> tuple[Symbol, ...]:
    """A value cut into pieces of `sizes` channels."""
    if dim % 3 != symbol.dims.channel_dim:
        trace.refuse("split over time or batch", "Split channels.")
    if isinstance(sizes, int):
        sizes = [min(sizes, symbol.channels - first) for first in range(0, symbol.channels, sizes)]
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return tuple(part(trace, symbol, slice(end - size, end)) for size, end in zip(sizes, ends, strict=True))


@lowers("glu")
def glu(trace: Trace, symbol: Symbol, dim: int = -1) -> Symbol:
    if symbol.channels % 2:
        trace.refuse(f"glu of {symbol.channels} channels", "The module itself would raise here.")
    value, gate = parts(trace, symbol, symbol.channels // 2, dim)
    gated: Symbol = trace.call("mul", (value, trace.call("sigmoid", (gate,), {})), {})
    return gated
