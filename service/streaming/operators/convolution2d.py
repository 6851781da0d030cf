"""Two-dimensional convolutions over time and frequencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from service.streaming.lowering import lowers
from service.streaming.numerics import Numerics
from service.streaming.operator import Pointwise, Window, Windows
from service.streaming.operators.filters import Filters
from service.streaming.operators.spectrogram import Grid, Image, image
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

PIECE = 1 << 22
"""Numbers that are laid out for one product at a time."""


class Convolution2d(Filters):
    """`F.conv2d`, zero padding included; `weight [C_out, C_group, frequencies, taps]`."""

    name = "conv2d"

    def __init__(
        self,
        weight: Float[Tensor, "C_out C_group f k"],
        bias: Float[Tensor, "C_out"] | None,
        frequencies: int,
        stride: Grid,
        below: tuple[int, int],
        around: tuple[int, int],
        dilation: Grid,
        groups: int,
        numerics: Numerics,
    ) -> None:
        super().__init__(weight, bias, groups, numerics)
        height, taps = weight.shape[2:]
        self.height = height
        self.frequencies, self.below = frequencies, below
        self.step, self.apart = stride.frequency, dilation.frequency
        self.made = (frequencies + sum(below) - (height - 1) * self.apart - 1) // self.step + 1
        self.channels = self.made * self.outward
        self.right = around[1]
        self.window = Window(stride.time, tuple(tap * dilation.time - around[0] for tap in range(taps)))

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        _, taps, width = windows.values.shape
        size = max(1, PIECE // (taps * width * self.height))
        parts = [self._piece(part) for part in torch.split(windows.values, size)]
        if out is None:
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        return torch.cat(parts, out=out)

    def _piece(self, values: Float[Tensor, "P k F*C"]) -> Float[Tensor, "P C"]:
        count, taps, _ = values.shape
        seen = values.view(count, taps, self.frequencies, -1)
        if any(self.below):
            seen = F.pad(seen, (0, 0, *self.below))
        frame, tap, row, one = seen.stride()
        shape = (count, self.made, taps, self.height, seen.shape[3])
        patches = seen.as_strided(shape, (frame, self.step * row, tap, self.apart * row, one), seen.storage_offset())
        if self.depthwise:
            result = self.start.expand(count, self.made, -1)
            for place in range(taps * self.height):
                at, below = divmod(place, self.height)
                result = torch.addcmul(result, patches[:, :, at, below], self.tap_weights[at, below])
        elif self.groups == 1:
            result = self.gemms[0](patches.reshape(count * self.made, -1))
        else:
            pieces = zip(self.gemms, torch.split(patches, self.depth, dim=4), strict=True)
            result = torch.cat([product(part.reshape(count * self.made, -1)) for product, part in pieces], 1)
        return result.reshape(count, self.channels)

    @property
    def work(self) -> int:
        return self.made * self.weight.numel()

    def describe(self) -> str:
        grid = f"{self.frequencies}, {self.below}, {self.step}, {self.apart}"
        return f"conv2d(window={self.window}, right={self.right}, {grid}, groups={self.groups})" + " relu" * self.rectified


@lowers("conv2d")
def conv2d(
    trace: Trace,
    symbol: Any,
    weight: Any,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Symbol:
    given = image(trace, symbol)
    filters = _filters(trace, given, weight, 1, groups)
    apart = given.grid(dilation)
    if isinstance(padding, str):
        spans = [(size - 1) * step if padding == "same" else 0 for size, step in zip(filters.shape[2:], _pair(apart), strict=True)]
        below, around = ((span // 2, span - span // 2) for span in spans)
    else:
        both = given.grid(padding)
        below, around = (both.frequency, both.frequency), (both.time, both.time)
    return _convolved(trace, given, filters, bias, given.grid(stride), below, around, apart, groups)


def _pair(grid: Grid) -> tuple[int, int]:
    return grid.frequency, grid.time


def _filters(trace: Trace, given: Image, weight: Any, dim: int, groups: int) -> Tensor:
    """With frequencies before taps; `dim` is where the channels that they read stand."""
    if isinstance(weight, Symbol):
        trace.refuse(f"{trace.calling} with computed weights", "Give it constant weights.")
    filters: Tensor = weight if given.place == 2 else weight.transpose(2, 3)
    taken = filters.shape[1] * groups if dim == 1 else filters.shape[0]
    if given.channels != taken:
        trace.refuse_channels(given.symbol, given.channels, taken)
    return filters


def _convolved(
    trace: Trace,
    given: Image,
    filters: Tensor,
    bias: Tensor | None,
    stride: Grid,
    below: tuple[int, int],
    around: tuple[int, int],
    dilation: Grid,
    groups: int,
) -> Symbol:
    if any(around):
        given = given.readable(trace, 0.0)
        if filters.shape[3] == 1:
            # A window of one element has no neighbours that it could pad with.
            padded = given.symbol.stored.padded(*around, 0.0)
            given, around = Image(given.symbol.storing(padded), given.place), (0, 0)
    operator = Convolution2d(filters, bias, given.frequencies, stride, below, around, dilation, groups, trace.numerics)
    if operator.made < 1:
        trace.refuse(f"{trace.calling} of {given.frequencies} frequencies", "The module itself would raise here.")
    return given.result(trace, operator, operator.made, operator.outward)


class Spread(Pointwise):
    """`step - 1` zeros between two frequencies."""

    name = "spread"

    def __init__(self, frequencies: int, channels: int, step: int) -> None:
        self.frequencies = frequencies
        self.step = step
        self.wide = (frequencies - 1) * step + 1
        self.channels = self.wide * channels

    def compute(self, rows: Sequence[Float[Tensor, "M F*C"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        (given,) = rows
        made = given.new_zeros(len(given), self.channels) if out is None else out.zero_()
        made.view(len(given), self.wide, -1)[:, :: self.step] = given.view(len(given), self.frequencies, -1)
        return made

    def describe(self) -> str:
        return f"spread({self.frequencies}, {self.step})"


@lowers("conv_transpose2d")
def conv_transpose2d(
    trace: Trace,
    symbol: Any,
    weight: Any,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Symbol:
    """Where it makes one frame of each: a convolution, with turned filters, of frequencies that are spread."""
    given = image(trace, symbol)
    filters = _filters(trace, given, weight, 0, groups)
    step, apart, gone, more = (given.grid(one) for one in (stride, dilation, padding, output_padding))
    if step.time > 1:
        trace.refuse("conv_transpose2d with a stride of time", "Make more frames with a ConvTranspose1d behind it.")
    around, below = (
        (span * (size - 1) - cut, span * (size - 1) - cut + extra)
        for span, size, cut, extra in zip(
            (apart.time, apart.frequency),
            (filters.shape[3], filters.shape[2]),
            (gone.time, gone.frequency),
            (more.time, more.frequency),
            strict=True,
        )
    )
    if min(*around, *below) < 0:
        trace.refuse("conv_transpose2d with more padding than its kernel reaches", "Crop its result.")
    # [C_in, C_out of a group, f, k] to [C_out, C_in of a group, f, k]
    turned = filters.reshape(groups, -1, *filters.shape[1:]).transpose(1, 2).flatten(0, 1).flip(2, 3)
    if step.frequency > 1:
        operator = Spread(given.frequencies, given.channels, step.frequency)
        given = Image(given.result(trace, operator, operator.wide, given.channels), given.place)
    return _convolved(trace, given, turned, bias, Grid(1, 1), below, around, apart, groups)
