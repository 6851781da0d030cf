"""Linear maps of the channels of a frame, and normalisations over them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from service.streaming.axes import Kind, factor
from service.streaming.lowering import lowers, refuses
from service.streaming.numerics import Gemm, Numerics
from service.streaming.operator import Operator, Pointwise
from service.streaming.operators.arithmetic import with_constant
from service.streaming.operators.dimensions import innermost, place_of
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

Rows = Float[Tensor, "M C"]


class Linear(Pointwise):
    """`F.linear` per frame, of `times` pieces of it one after the other."""

    name = "linear"

    def __init__(self, weight: Float[Tensor, "N K"], bias: Float[Tensor, "N"] | None, numerics: Numerics, times: int = 1) -> None:
        self.channels = times * weight.shape[0]
        self.times = times
        self.product = Gemm(weight.detach().t(), bias, numerics)

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        if self.times == 1:
            return self.product(rows[0], out)
        width = self.channels // self.times
        pieces = rows[0].reshape(len(rows[0]) * self.times, -1)
        made = self.product(pieces, None if out is None else out.view(-1, width))
        return made.view(len(rows[0]), self.channels) if out is None else out

    def products(self) -> tuple[Gemm, ...]:
        return (self.product,)

    def absorbs(self, follower: Operator) -> bool:
        if follower.name != "relu" or self.product.rectified:
            return False
        self.product.rectified = True
        return True

    def weights(self) -> tuple[Tensor, ...]:
        return self.product.tensors

    def describe(self) -> str:
        return "linear" + f" {self.times} times" * (self.times > 1) + " relu" * self.product.rectified


class ScaleShift(Pointwise):
    """`x * scale + shift` per channel: what BatchNorm is in eval."""

    name = "batch_norm"

    def __init__(self, scale: Float[Tensor, "C"], shift: Float[Tensor, "C"]) -> None:
        self.channels = len(scale)
        self.scale = scale
        self.shift = shift

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        return (
            torch.addcmul(self.shift, rows[0], self.scale)
            if out is None
            else torch.addcmul(self.shift, rows[0], self.scale, out=out)
        )

    def weights(self) -> tuple[Tensor, ...]:
        return self.scale, self.shift


class LayerNorm(Pointwise):
    """`F.layer_norm` over the channels of a frame, `size` at a time."""

    name = "layer_norm"

    def __init__(self, channels: int, size: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        self.channels = channels
        self.size = size
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        result = F.layer_norm(rows[0].reshape(-1, self.size), (self.size,), self.weight, self.bias, self.eps).view_as(rows[0])
        return result if out is None else out.copy_(result)

    def weights(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in (self.weight, self.bias) if tensor is not None)

    def describe(self) -> str:
        return f"layer_norm({self.size}, {self.eps})"


class RmsNorm(Pointwise):
    """`F.rms_norm` over the channels of a frame, `size` at a time."""

    name = "rms_norm"

    def __init__(self, channels: int, size: int, weight: Tensor | None, eps: float | None) -> None:
        self.channels = channels
        self.size = size
        self.weight = weight
        self.eps = eps

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        result = F.rms_norm(rows[0].reshape(-1, self.size), (self.size,), self.weight, self.eps).view_as(rows[0])
        return result if out is None else out.copy_(result)

    def weights(self) -> tuple[Tensor, ...]:
        return () if self.weight is None else (self.weight,)

    def describe(self) -> str:
        return f"rms_norm({self.size}, {self.eps})"


class PRelu(Pointwise):
    """`F.prelu`, one slope or one per channel."""

    name = "prelu"

    def __init__(self, channels: int, slopes: Float[Tensor, "C"]) -> None:
        self.channels = channels
        self.slopes = slopes

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        result = torch.where(rows[0] > 0, rows[0], rows[0] * self.slopes)
        return result if out is None else out.copy_(result)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.slopes,)


class Softmax(Pointwise):
    """Softmax over the channels of a frame, `size` at a time."""

    def __init__(self, name: str, channels: int, size: int) -> None:
        self.name = name
        self.channels = channels
        self.size = size

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        pieces = rows[0].reshape(-1, self.size)
        result = (pieces.softmax(1) if self.name == "softmax" else pieces.log_softmax(1)).view_as(rows[0])
        return result if out is None else out.copy_(result)

    def describe(self) -> str:
        return f"{self.name}({self.size})"


@lowers("linear")
def linear(trace: Trace, symbol: Symbol, weight: Tensor, bias: Tensor | None = None) -> Symbol:
    last = symbol.axes.each[-1]
    if last.kind is not Kind.FACTOR:
        trace.refuse("Linear over time", "Transpose to [B, T, C] first, or use a Conv1d.")
    if last.size != weight.shape[1]:
        trace.refuse_channels(symbol, last.size, weight.shape[1])
    axes = symbol.axes.replaced(symbol.ndim - 1, factor(weight.shape[0], 1)).flat()
    return trace.add(Linear(weight, bias, trace.numerics, symbol.channels // last.size), [symbol], axes=axes)


@lowers("batch_norm")
def batch_norm(
    trace: Trace,
    symbol: Symbol,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Symbol:
    if training or running_mean is None or running_var is None:
        trace.refuse("BatchNorm with the statistics of the batch", "Use track_running_stats=True and eval mode.")
    if symbol.ndim < 2 or symbol.axes.each[1].kind is not Kind.FACTOR:
        trace.refuse("BatchNorm over another dimension than channels", "Give it [B, C, T], or frames [B * T, C].")
    if len(running_mean) != symbol.axes.each[1].size:
        trace.refuse_channels(symbol, symbol.axes.each[1].size, len(running_mean))
    scale = 1.0 / torch.sqrt(running_var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -running_mean * scale
    if bias is not None:
        shift = shift + bias
    return trace.add_each(ScaleShift(_over_channels(trace, symbol, scale), _over_channels(trace, symbol, shift)), symbol)


def _over_channels(trace: Trace, symbol: Symbol, values: Float[Tensor, "_"]) -> Float[Tensor, "C"]:
    """One number for each step of dimension 1 as one for each channel of the rows that the symbol stands for."""
    shaped = values.detach().reshape(-1, *[1] * (symbol.ndim - 2))
    _, spread, _ = with_constant(trace, symbol, shaped)
    return spread.clone() if isinstance(spread, Tensor) else torch.full((symbol.channels,), spread)


def _normalised(trace: Trace, name: str, symbol: Symbol, shape: Sequence[int]) -> int:
    """How many numbers the last dimensions, which a norm takes together, have."""
    last = symbol.axes.each[symbol.ndim - len(shape) :]
    if any(axis.kind is not Kind.FACTOR for axis in last):
        trace.refuse(f"{name} over time", "Normalise the channels of a frame: transpose to [B, T, C] first.")
    if [axis.size for axis in last] != list(shape):
        trace.refuse_channels(symbol, prod(axis.size for axis in last), prod(shape))
    return prod(shape)


@lowers("layer_norm")
def layer_norm(
    trace: Trace,
    symbol: Symbol,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Symbol:
    size = _normalised(trace, "LayerNorm", symbol, normalized_shape)
    weight, bias = (None if tensor is None else tensor.detach().flatten().clone() for tensor in (weight, bias))
    return trace.add(LayerNorm(symbol.channels, size, weight, bias, eps), [symbol])


@lowers("rms_norm")
def rms_norm(
    trace: Trace, symbol: Symbol, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Symbol:
    size = _normalised(trace, "RMSNorm", symbol, normalized_shape)
    weight = None if weight is None else weight.detach().flatten().clone()
    return trace.add(RmsNorm(symbol.channels, size, weight, eps), [symbol])


@lowers("prelu")
def prelu(trace: Trace, symbol: Symbol, weight: Tensor) -> Symbol:
    if weight.numel() == 1:
        return trace.add_each(PRelu(symbol.channels, weight.detach().clone()), symbol)
    if symbol.ndim < 2 or symbol.axes.each[1].kind is not Kind.FACTOR:
        trace.refuse("PReLU with slopes over another dimension than channels", "Give it [B, C, T].")
    if len(weight) != symbol.axes.each[1].size:
        trace.refuse_channels(symbol, symbol.axes.each[1].size, len(weight))
    return trace.add_each(PRelu(symbol.channels, _over_channels(trace, symbol, weight)), symbol)


def _lower_softmax(name: str) -> None:
    @lowers(name)
    def lowering(trace: Trace, symbol: Symbol, dim: int | None = None, *args: object, **kwargs: object) -> Symbol:
        if dim is None or symbol.axes.each[place_of(trace, symbol, dim)].kind is not Kind.FACTOR:
            trace.refuse(f"{name} over time or batch", "Take it over channels, or run it on windows (mode: window).")
        place = place_of(trace, symbol, dim)
        return trace.add_each(Softmax(name, symbol.channels, symbol.axes.each[place].size), innermost(trace, symbol, place))


_lower_softmax("softmax")
_lower_softmax("log_softmax")

OVER_TIME = "Its statistics run over all time. Use BatchNorm or LayerNorm over channels, or run it on windows (mode: window)."
refuses(OVER_TIME, "group_norm", "instance_norm")
