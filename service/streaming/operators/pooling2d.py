"""Averages and maxima over windows of time and frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from service.streaming.lowering import lowers
from service.streaming.operator import Pointwise
from service.streaming.operators.pooling import AvgPool, MaxPool, Pool
from service.streaming.operators.spectrogram import Image, image
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace


class FrequencyPool(Pointwise):
    """The mean or the maximum of neighbouring frequencies, as torch's pools take them."""

    def __init__(self, pool: Pool, frequencies: int, channels: int, mean: bool, include_pad: bool) -> None:
        self.name = pool.name.replace("1d", "2d") + " of frequencies"
        self.pool = pool
        self.frequencies = frequencies
        self.mean = mean
        self.include_pad = include_pad
        step, offsets, before = pool.window.stride, pool.window.offsets, pool.padding
        self.made = int(pool.length(np.array([frequencies]))[0])
        self.channels = self.made * channels
        self.starts = [offset + before for offset in offsets]
        self.until = (self.made - 1) * step + 1
        self.sides = before, self.starts[-1] + self.until - frequencies - before
        first = torch.arange(self.made) * step - before
        last = (first + len(offsets)).clamp(max=frequencies + before)
        sizes = last - first if include_pad else last.clamp(max=frequencies) - first.clamp(min=0)
        self.sizes: Float[Tensor, "F 1"] = sizes.to(torch.float32).unsqueeze(1)

    def compute(self, rows: Sequence[Float[Tensor, "M F*C"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        count = len(rows[0])
        padded = F.pad(rows[0].view(count, self.frequencies, -1), (0, 0, *self.sides), value=self.pool.window.fill)
        result, *others = (padded[:, start : start + self.until : self.pool.window.stride] for start in self.starts)
        for other in others:
            result = result + other if self.mean else torch.maximum(result, other)
        result = (result / self.sizes if self.mean else result).reshape(count, self.channels)
        return result.contiguous() if out is None else out.copy_(result)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.sizes,)

    def describe(self) -> str:
        return f"{self.name}({self.pool.describe()}, {self.frequencies}, {self.include_pad})"


def _pooled(trace: Trace, given: Image, time: Pool, frequency: Pool, mean: bool, include_pad: bool = True) -> Symbol:
    """Over time, then over frequencies: a window's sum and its maximum are those of its rows."""
    symbol = given.symbol
    if not time.window.is_same_index:
        given = given.readable(trace, time.window.fill) if time.pads else given
        symbol = given.result(trace, time, given.frequencies, given.channels)
    if frequency.window.is_same_index:
        return symbol.copied
    operator = FrequencyPool(frequency, given.frequencies, given.channels, mean, include_pad)
    if operator.made < 1:
        trace.refuse(f"{trace.calling} of {given.frequencies} frequencies", "The module itself would raise here.")
    return Image(symbol, given.place).result(trace, operator, operator.made, given.channels)


@lowers("avg_pool2d")
def avg_pool2d(
    trace: Trace,
    symbol: Symbol,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Symbol:
    if divisor_override is not None:
        trace.refuse("avg_pool2d with divisor_override", "Multiply its result.")
    given = image(trace, symbol)
    size, step, pad = given.grid(kernel_size), given.grid(stride or kernel_size), given.grid(padding)
    time = AvgPool(symbol.channels, size.time, step.time, pad.time, ceil_mode, count_include_pad)
    frequency = AvgPool(symbol.channels, size.frequency, step.frequency, pad.frequency, ceil_mode, count_include_pad)
    return _pooled(trace, given, time, frequency, mean=True, include_pad=count_include_pad)


@lowers("max_pool2d")
def max_pool2d(
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
        trace.refuse("max_pool2d with indices", "Return the values only.")
    given = image(trace, symbol)
    size, step, pad, apart = (given.grid(one) for one in (kernel_size, stride or kernel_size, padding, dilation))
    lowest = -float("inf")
    time, frequency = (
        MaxPool("max_pool1d", symbol.channels, *numbers, ceil_mode, lowest)
        for numbers in (
            (size.time, step.time, pad.time, apart.time),
            (size.frequency, step.frequency, pad.frequency, apart.frequency),
        )
    )
    return _pooled(trace, given, time, frequency, mean=False)


def _lower_adaptive(name: str, mean: bool) -> None:
    @lowers(name)
    def lowering(trace: Trace, symbol: Symbol, output_size: Any, return_indices: bool = False) -> Symbol:
        given = image(trace, symbol)
        sizes = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
        frequencies, time = sizes if given.place == 2 else reversed(sizes)
        if time is not None or return_indices:
            trace.refuse(f"{name} over time", "Pool frequencies only, such as (1, None), or run it on windows (mode: window).")
        if frequencies is None:
            return symbol.copied
        if given.frequencies % frequencies:
            trace.refuse(f"{name} of {given.frequencies} frequencies to {frequencies}", "Pool to a number that divides them.")
        size = given.frequencies // frequencies
        unmoved = MaxPool("max_pool1d", symbol.channels, 1, 1, 0, 1, False, 0.0)
        if mean:
            return _pooled(trace, given, unmoved, AvgPool(symbol.channels, size, size, 0, False, True), mean=True)
        pool = MaxPool("max_pool1d", symbol.channels, size, size, 0, 1, False, -float("inf"))
        return _pooled(trace, given, unmoved, pool, mean=False)


_lower_adaptive("adaptive_avg_pool2d", mean=True)
_lower_adaptive("adaptive_max_pool2d", mean=False)
