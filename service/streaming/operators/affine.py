"""Linear maps of the channels of a frame, and normalisations over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from service.streaming.lowering import lowers, refuses
from service.streaming.numerics import Gemm, Numerics
from service.streaming.operator import Operator, Pointwise
from service.streaming.symbol import Layout, Symbol
from service.streaming.tracing import Trace

Rows = Float[Tensor, "M C"]


class Linear(Pointwise):
    """`F.linear` per frame."""

    name = "linear"

    def __init__(self, weight: Float[Tensor, "C_out C_in"], bias: Float[Tensor, "C_out"] | None, numerics: Numerics) -> None:
        self.channels = weight.shape[0]
        self.product = Gemm(weight.detach().t(), bias, numerics)

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        return self.product(rows[0], out)

    def absorbs(self, follower: Operator) -> bool:
        if follower.name != "relu" or self.product.rectified:
            return False
        self.product.rectified = True
        return True

    def weights(self) -> tuple[Tensor, ...]:
        return self.product.tensors

    def describe(self) -> str:
        return "linear" + " relu" * self.product.rectified


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
    """`F.layer_norm` over the channels of a frame."""

    name = "layer_norm"

    def __init__(self, channels: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        self.channels = channels
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        result = F.layer_norm(rows[0], (self.channels,), self.weight, self.bias, self.eps)
        return result if out is None else out.copy_(result)

    def weights(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in (self.weight, self.bias) if tensor is not None)

    def describe(self) -> str:
        return f"layer_norm({self.eps})"


class RmsNorm(Pointwise):
    """`F.rms_norm` over the channels of a frame."""

    name = "rms_norm"

    def __init__(self, channels: int, weight: Tensor | None, eps: float | None) -> None:
        self.channels = channels
        self.weight = weight
        self.eps = eps

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        result = F.rms_norm(rows[0], (self.channels,), self.weight, self.eps)
        return result if out is None else out.copy_(result)

    def weights(self) -> tuple[Tensor, ...]:
        return () if self.weight is None else (self.weight,)

    def describe(self) -> str:
        return f"rms_norm({self.eps})"


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
    """Softmax over the channels of a frame."""

    def __init__(self, name: str, channels: int) -> None:
        self.name = name
        self.channels = channels

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        result = rows[0].softmax(1) if self.name == "softmax" else rows[0].log_softmax(1)
        return result if out is None else out.copy_(result)


@lowers("linear")
def linear(trace: Trace, symbol: Symbol, weight: Tensor, bias: Tensor | None = None) -> Symbol:
    if symbol.dims.channel_dim != 2:
        trace.refuse("Linear over time", "Transpose to [B, T, C] first, or use a Conv1d.")
    if symbol.channels != weight.shape[1]:
        trace.refuse(
            f"linear of {symbol.channels} channels with a weight {list(weight.shape)}", "The module itself would raise here."
        )
    return trace.add(Linear(weight, bias, trace.numerics), [symbol])


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
    if symbol.dims is not Layout.BCT:
        trace.refuse("BatchNorm over another dimension than channels", "Give it [B, C, T].")
    scale = 1.0 / torch.sqrt(running_var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -running_mean * scale
    if bias is not None:
        shift = shift + bias
    return trace.add(ScaleShift(scale.detach(), shift.detach()), [symbol])


@lowers("layer_norm")
def layer_norm(
    trace: Trace,
    symbol: Symbol,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Symbol:
    if symbol.dims.channel_dim != 2 or tuple(normalized_shape) != (symbol.channels,):
        trace.refuse("LayerNorm over time", "Normalise the channels of a frame: transpose to [B, T, C] first.")
    weight, bias = (None if tensor is None else tensor.detach().clone() for tensor in (weight, bias))
    return trace.add(LayerNorm(symbol.channels, weight, bias, eps), [symbol])


@lowers("rms_norm")
def rms_norm(
    trace: Trace, symbol: Symbol, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Symbol:
    if symbol.dims.channel_dim != 2 or tuple(normalized_shape) != (symbol.channels,):
        trace.refuse("RMSNorm over time", "Normalise the channels of a frame: transpose to [B, T, C] first.")
    return trace.add(RmsNorm(symbol.channels, None if weight is None else weight.detach().clone(), eps), [symbol])


@lowers("prelu")
def prelu(trace: Trace, symbol: Symbol, weight: Tensor) -> Symbol:
    if weight.numel() > 1 and symbol.dims.channel_dim != 1:
        trace.refuse("PReLU with slopes over another dimension than channels", "Give it [B, C, T].")
    return trace.add(PRelu(symbol.channels, weight.detach().clone()), [symbol])


def _lower_softmax(name: str) -> None:
    @lowers(name)
    def lowering(trace: Trace, symbol: Symbol, dim: int | None = None, *args: object, **kwargs: object) -> Symbol:
        if dim is None or dim % 3 != symbol.dims.channel_dim:
            trace.refuse(f"{name} over time or batch", "Take it over channels, or run it on windows outside penstock.")
        return trace.add(Softmax(name, symbol.channels), [symbol])


_lower_softmax("softmax")
_lower_softmax("log_softmax")

OVER_TIME = "Its statistics run over all time. Use BatchNorm or LayerNorm over channels, or run it on windows outside penstock."
refuses(OVER_TIME, "group_norm", "instance_norm", "normalize")
