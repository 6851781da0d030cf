"""ConvTranspose1d, polyphase: each input index makes one block of `stride` outputs from the last few inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from service.streaming.lowering import lowers
from service.streaming.numerics import Gemm, Numerics
from service.streaming.operator import Flags, Window, Windowed, Windows
from service.streaming.operators.convolution import one
from service.streaming.operators.expansion import Interleave
from service.streaming.symbol import Layout, Symbol
from service.streaming.timeline import Frames
from service.streaming.tracing import Trace


@dataclass(frozen=True)
class Phases:
    """Outputs of a block that read the same inputs of the same group: one product for all of them."""

    phases: slice
    taps: Int64[Tensor, "t"]
    group: int
    product: Gemm


class TransposedBlocks(Windowed):
    """Block `q` holds the uncropped outputs `q * stride … q * stride + stride - 1`, side by side.

    Output `i` is the sum of `x[q] * weight[t]` over `q * stride + t * dilation = i`. Each phase multiplies exactly its own inputs,
    so that a zero weight never meets an infinite sample.
    """

    name = "conv_transpose1d"

    def __init__(
        self,
        weight: Float[Tensor, "C_in C_group k"],
        bias: Float[Tensor, "C_out"] | None,
        stride: int,
        dilation: int,
        groups: int,
        uncropped: int,
        numerics: Numerics,
    ) -> None:
        depth, width, taps = weight.shape
        self.stride = stride
        self.groups = groups
        self.width = width * groups
        self.depth = depth // groups
        self.channels = stride * self.width
        self.more = -(-uncropped // stride)
        self.right = max(0, self.more)
        # Blocks beyond the input's end read padding, so the window is never a single element then.
        reach = max((taps - 1) * dilation // stride, min(1, self.right))
        self.window = Window(1, tuple(range(-reach, 1)))
        self.weight = weight.detach().clone()
        self.bias = weight.new_zeros(self.width) if bias is None else bias.detach().clone()
        sources: dict[tuple[int, ...], list[int]] = defaultdict(list)
        read: dict[int, list[int]] = {}
        for phase in range(stride):
            read[phase] = [tap for tap in range(taps) if tap * dilation % stride == phase]
            sources[tuple(reach - tap * dilation // stride for tap in read[phase])].append(phase)
        self.parts = [
            Phases(_evenly(phases), torch.tensor(places), group, self._product(phases, read, group, numerics))
            for places, phases in sources.items()
            if places
            for group in range(groups)
        ]

    def _product(self, phases: list[int], read: dict[int, list[int]], group: int, numerics: Numerics) -> Gemm:
        weight = self.weight[group * self.depth : (group + 1) * self.depth]
        matrix = torch.cat([weight[:, :, read[phase]].permute(2, 0, 1).flatten(0, 1) for phase in phases], 1)
        bias = self.bias.chunk(self.groups)[group].repeat(len(phases))
        return Gemm(matrix, bias, numerics)

    def length(self, total: Frames) -> Frames:
        return np.maximum(0, total + self.more)

    def legal(self, *totals: Frames) -> Flags:
        return np.asarray(totals[0] >= 1)

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        values = windows.values
        result = torch.empty(len(values), self.channels, dtype=values.dtype, device=values.device) if out is None else out
        blocks = result.view(len(values), self.stride, self.width)
        blocks.copy_(self.bias)
        wide = self.width // self.groups
        for part in self.parts:
            inputs = values[:, :, part.group * self.depth : (part.group + 1) * self.depth].index_select(1, part.taps).flatten(1)
            made = part.product(inputs).view(len(values), -1, wide)
            blocks[:, part.phases, part.group * wide : (part.group + 1) * wide] = made
        return result

    def products(self) -> tuple[Gemm, ...]:
        return tuple(part.product for part in self.parts)

    def weights(self) -> tuple[Tensor, ...]:
        return self.weight, self.bias

    def describe(self) -> str:
        return f"conv_transpose1d(stride={self.stride}, window={self.window}, more={self.more}, groups={self.groups})"


def _evenly(phases: list[int]) -> slice:
    """As a slice, which copies ten times as fast as a list. Taps whose inputs are the same follow one another, so their phases are
    `dilation` apart.
    """
    apart = phases[1] - phases[0] if len(phases) > 1 else 1
    assert phases == list(range(phases[0], phases[-1] + 1, apart))
    return slice(phases[0], phases[-1] + 1, apart)


@lowers("conv_transpose1d")
def conv_transpose1d(
    trace: Trace,
    symbol: Symbol,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Symbol:
    stride, padding, output_padding, dilation = one(stride), one(padding), one(output_padding), one(dilation)
    if symbol.dims is not Layout.BCT:
        trace.refuse("conv_transpose1d over another dimension than time", f"Give it [B, {weight.shape[0]}, T].")
    if symbol.channels != weight.shape[0]:
        trace.refuse_channels(symbol, symbol.channels, weight.shape[0])
    if not symbol.reads.may_read(0.0):
        symbol = symbol.reading(trace.graph.settled(symbol.reads, trace.where()))
    # Without crops an input of length t gives stride * t + uncropped outputs.
    uncropped = (weight.shape[2] - 1) * dilation + 1 + output_padding - stride
    operator = TransposedBlocks(weight, bias, stride, dilation, groups, uncropped, trace.numerics)
    blocks = trace.add(operator, [symbol])
    made = trace.add(Interleave(stride, operator.width), [blocks])
    surplus = stride * operator.more - uncropped
    total = made.reads.timeline.total
    trace.graph.require(lambda t: t - surplus - 2 * padding >= 1, total, reach=surplus + 2 * padding + 1)
    return made.reading(made.reads.cropped(padding, padding + surplus))
