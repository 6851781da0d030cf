"""Average and maximum over windows of time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.lowering import lowers, refuses
from service.streaming.operator import Window, Windowed, Windows
from service.streaming.operators.convolution import one
from service.streaming.symbol import Symbol
from service.streaming.timeline import Frames
from service.streaming.tracing import Trace


class Pool(Windowed):
    """The lengths that all of torch's pools share, `ceil_mode` included."""

    def __init__(
        self, name: str, channels: int, size: int, stride: int, padding: int, dilation: int, ceil_mode: bool, fill: float
    ) -> None:
        self.name = name
        self.channels = channels
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.window = Window(stride, tuple(tap * dilation - padding for tap in range(size)), fill)
        self.right = padding + (stride - 1 if ceil_mode else 0)

    @property
    def pads(self) -> bool:
        """Whether a window may reach beyond the input."""
        return self.padding > 0 or self.right > 0

    def length(self, total: Frames) -> Frames:
        windows = self._complete(total + self.right)
        if self.ceil_mode:
            # A window may begin in the input or its left padding, never beyond.
            windows = np.where((windows - 1) * self.window.stride >= total + self.padding, windows - 1, windows)
        return np.maximum(0, windows)

    def describe(self) -> str:
        return f"{self.name}({self.window}, {self.padding}, {self.ceil_mode})"


class MaxPool(Pool):
    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        return windows.values.amax(1) if out is None else torch.amax(windows.values, 1, out=out)


class AvgPool(Pool):
    """The sum of a window over its number of elements, with or without padding."""

    def __init__(self, channels: int, size: int, stride: int, padding: int, ceil_mode: bool, count_include_pad: bool) -> None:
        super().__init__("avg_pool1d", channels, size, stride, padding, 1, ceil_mode, 0.0)
        self.count_include_pad = count_include_pad

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        # One tap after the other: a reduction may take another order for another number of rows.
        result = windows.values[:, 0]
        for tap in range(1, len(self.window.offsets)):
            result = result + windows.values[:, tap]
        return torch.div(result, self._sizes(windows), out=out)

    def _sizes(self, windows: Windows) -> Float[Tensor, "M 1"] | float:
        size = len(self.window.offsets)
        if self.count_include_pad and windows.totals is None:
            return float(size)
        first = windows.span.index * self.window.stride - self.padding
        stop = first + size
        if windows.totals is not None:
            limit = windows.totals
            # Streams that go on have no limit, and adding to it would overflow.
            stop = torch.minimum(stop, torch.where(limit > stop, stop, limit + (self.padding if self.count_include_pad else 0)))
        if not self.count_include_pad:
            first = first.clamp(min=0)
        return (stop - first).to(windows.values.dtype).unsqueeze(1)

    def describe(self) -> str:
        return f"{super().describe()} count_include_pad={self.count_include_pad}"


@lowers("avg_pool1d")
def avg_pool1d(
    trace: Trace,
    symbol: Symbol,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Symbol:
    size = one(kernel_size)
    pool = AvgPool(symbol.channels, size, one(stride or size), one(padding), ceil_mode, count_include_pad)
    return _add(trace, pool, symbol)


@lowers("max_pool1d")
def max_pool1d(
    trace: Trace,
    symbol: Symbol,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Symbol:
    if return_indices:
        trace.refuse("max_pool1d with indices", "Return the values only.")
    size = one(kernel_size)
    pool = MaxPool("max_pool1d", symbol.channels, size, one(stride or size), one(padding), one(dilation), ceil_mode, -float("inf"))
    return _add(trace, pool, symbol)


@lowers("lp_pool1d")
def lp_pool1d(
    trace: Trace,
    symbol: Symbol,
    norm_type: float,
    kernel_size: int,
    stride: int | Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> Symbol:
    """As torch computes it: windows that `ceil_mode` cuts off count as full ones."""
    if norm_type in (float("inf"), -float("inf")):
        sign = 1 if norm_type > 0 else -1
        largest: Symbol = max_pool1d(trace, symbol.abs() * sign, kernel_size, stride, ceil_mode=ceil_mode) * sign
        return largest
    mean = avg_pool1d(trace, symbol.pow(norm_type), kernel_size, stride, 0, ceil_mode)
    made: Symbol = (mean * one(kernel_size)).pow(1.0 / norm_type)
    return made


def _add(trace: Trace, pool: Pool, symbol: Symbol) -> Symbol:
    if symbol.ndim > 3 or symbol.axes.time_dim != symbol.ndim - 1:
        trace.refuse("a pool over another dimension than time", "Give it [B, C, T].")
    symbol = symbol.in_any_order
    if pool.pads and not symbol.stored.may_read(pool.window.fill):
        symbol = symbol.storing(trace.graph.settled(symbol.stored, trace.where()))
    return trace.add_each(pool, symbol)


GLOBAL = (
    "It needs the whole stream before its first output. Take the mean or the maximum of the last frames (service.nn.SlidingMean, "
    "SlidingMax), or run it on windows (mode: window)."
)
refuses(GLOBAL, "adaptive_avg_pool1d", "adaptive_max_pool1d")
