"""Conv1d: one matrix product, of windows that are read where they lie or gathered first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from service.streaming.kernels import Native, OneDnn
from service.streaming.lowering import lowers
from service.streaming.native import Multiplication
from service.streaming.numerics import Numerics
from service.streaming.operator import Convolvable, Gathering, Operator, Window, Windows
from service.streaming.operators.affine import ScaleShift
from service.streaming.operators.filters import Filters
from service.streaming.symbol import Layout, Symbol
from service.streaming.tracing import Trace

MOST_PACKED = 16
"""Shapes of dense convolutions for which arranged filters are kept."""


class Convolution(Filters, Convolvable, Gathering):
    """`torch.nn.functional.conv1d` with zero padding (left, right)."""

    name = "conv1d"

    def __init__(
        self,
        weight: Float[Tensor, "C_out C_group k"],
        bias: Float[Tensor, "C_out"] | None,
        stride: int,
        padding: tuple[int, int],
        dilation: int,
        groups: int,
        numerics: Numerics,
    ) -> None:
        super().__init__(weight, bias, groups, numerics)
        self.channels = self.outward
        self.right = padding[1]
        self.window = Window(stride, tuple(tap * dilation - padding[0] for tap in range(weight.shape[2])))

    def take(self, weight: Float[Tensor, "C_out C_group k"], bias: Float[Tensor, "C_out"] | None) -> None:
        super().take(weight, bias)
        self.filters = self.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        self._packed: dict[torch.Size, Tensor] = {}

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        values = windows.values
        if self.depthwise:
            result = self.start.expand(len(values), -1)
            for tap, weight in enumerate(self.tap_weights):
                result = torch.addcmul(result, values[:, tap], weight)
            result = result.relu_() if self.rectified else result
            return result if out is None else out.copy_(result)
        if self.groups == 1:
            return self.gemms[0](values.flatten(1), out)
        parts = torch.split(values, self.depth, dim=2)
        results = [product(part.flatten(1), None) for product, part in zip(self.gemms, parts, strict=True)]
        return torch.cat(results, 1) if out is None else torch.cat(results, 1, out=out)

    @property
    def multiplications(self) -> tuple[Multiplication, ...]:
        if self.depthwise:
            own = self.weight.device.type == "cpu" and Native.for_type(self.weight.dtype) is not None
            return (Multiplication(self.tap_weights, self.start, True, self.rectified),) if own else ()
        found = tuple(by for product in self.gemms if (by := product.multiplication) is not None)
        return found if len(found) == self.groups else ()

    def absorbs(self, follower: Operator) -> bool:
        if isinstance(follower, ScaleShift) and not self.rectified:
            return self._scale(follower.scale.double(), follower.shift.double())
        if self.depthwise and self.multiplications and follower.name == "relu" and not self.rectified:
            self.rectified = True
            return True
        return super().absorbs(follower)

    def _scale(self, scale: Float64[Tensor, "C_out"], shift: Float64[Tensor, "C_out"]) -> bool:
        """Takes in a normalisation; not one that no float32 could hold then."""
        weight = (self.weight * scale.view(-1, 1, 1)).to(self.weight.dtype)
        bias = (shift if self.bias is None else self.bias * scale + shift).to(self.weight.dtype)
        if not (weight.isfinite().all() and bias.isfinite().all()):
            return False
        self.take(weight, bias)
        return True

    def convolve(self, frames: Float[Tensor, "B L C_in"]) -> Float[Tensor, "M C"]:
        images = frames.transpose(1, 2).unsqueeze(2)
        dilation = self.window.offsets[1] - self.window.offsets[0]
        strides, dilations = [1, self.window.stride], [1, dilation]
        if OneDnn.exists():
            # The filters in the layout that its kernel for this shape wants, rather than arranged anew in every call.
            packed = self._packed.get(images.shape)
            if packed is None:
                if len(self._packed) >= MOST_PACKED:
                    self._packed.clear()
                packed = torch.ops.mkldnn._reorder_convolution_weight(
                    self.filters, [0, 0], strides, dilations, self.groups, list(images.shape)
                )
                self._packed[images.shape] = packed
            made: Tensor = torch.ops.mkldnn._convolution_pointwise(
                images, packed, self.bias, [0, 0], strides, dilations, self.groups, "none", [], ""
            )
        else:
            made = F.conv2d(images, self.filters, self.bias, strides, 0, dilations, self.groups)
        made = made.permute(0, 2, 3, 1).reshape(-1, self.channels)
        return made.relu_() if self.rectified else made

    def describe(self) -> str:
        return f"conv1d(window={self.window}, right={self.right}, groups={self.groups})" + " relu" * self.rectified


@lowers("conv1d")
def conv1d(
    trace: Trace,
    symbol: Any,
    weight: Any,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Symbol:
    if not isinstance(symbol, Symbol) or isinstance(weight, Symbol) or symbol.dims is not Layout.BCT:
        trace.refuse("conv1d over another dimension than time, or with computed weights", "Give it [B, C, T] and constant weights.")
    if symbol.channels != weight.shape[1] * groups:
        trace.refuse_channels(symbol, symbol.channels, weight.shape[1] * groups)
    stride, dilation = one(stride), one(dilation)
    if isinstance(padding, str):
        both = dilation * (weight.shape[2] - 1) if padding == "same" else 0
        sides = (both // 2, both - both // 2)
    else:
        sides = (one(padding), one(padding))
    if any(sides) and not symbol.reads.may_read(0.0):
        symbol = symbol.reading(trace.graph.settled(symbol.reads, trace.where()))
    return trace.add(Convolution(weight, bias, stride, sides, dilation, groups, trace.numerics), [symbol])


def one(size: int | Sequence[int]) -> int:
    """The single number in a 1-D hyperparameter."""
    return size if isinstance(size, int) else size[0]
