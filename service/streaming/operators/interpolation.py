"""Upsampling by a whole factor: nearest and linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from service.streaming.length import Length
from service.streaming.lowering import lowers
from service.streaming.operator import Edge, Flags, Window, Windowed, Windows
from service.streaming.operators.expansion import Repeat
from service.streaming.symbol import Symbol
from service.streaming.timeline import Frames
from service.streaming.tracing import Trace

ROUNDED = 1 << 22
"""Up to this output torch's float32 positions are followed; beyond it they lose whole frames, and exact ones are taken."""


class Interpolation(Windowed):
    """`F.interpolate(mode="linear")`: output `j` lies at input `(j + 0.5) / factor - 0.5`, between two frames.

    Torch rounds the position to float32 and takes its fraction for the weight, so a weight depends on `j`, not on its phase alone;
    a position that is a whole number may be rounded to one before it.
    """

    name = "interpolate"

    def __init__(self, factor: int, channels: int) -> None:
        self.factor = factor
        self.channels = channels
        self.scale = float(np.float32(1.0 / factor))
        self.window = Window(1, (-1, 0, 1), edge=Edge.REPLICATE, per=factor)
        self.right = 1

    def _complete(self, available: Frames) -> Frames:
        # Before the first frame's place the second one enters with weight 0.
        return np.where(available >= 2, ((2 * available - 1) * self.factor) // 2, 0)

    def length(self, total: Frames) -> Frames:
        return total * self.factor

    def legal(self, *totals: Frames) -> Flags:
        return totals[0] >= 1

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        rows, taps, _ = windows.values.shape
        place, weight = self.position(windows.span.index)
        tap = place - torch.div(windows.span.index, self.factor, rounding_mode="floor") - self.window.offsets[0]
        first = torch.arange(rows, device=tap.device) * taps + tap
        flat = windows.values.flatten(0, 1)
        # Products and sum apart: one operation for both rounds otherwise for some numbers of rows.
        earlier = flat.index_select(0, first).mul_((1.0 - weight).unsqueeze(1))
        later = flat.index_select(0, first + 1).mul_(weight.unsqueeze(1))
        return torch.add(earlier, later, out=out)

    def position(self, index: Int64[Tensor, "M"]) -> tuple[Int64[Tensor, "M"], Float[Tensor, "M"]]:
        """The frame before each output, and the weight of the one after it."""
        turns = 2 * index + 1 - self.factor
        place = torch.div(turns, 2 * self.factor, rounding_mode="floor")
        exact = (turns - place * (2 * self.factor)).to(torch.float32) / (2 * self.factor)
        rounded = (index.to(torch.float32) + 0.5) * self.scale - 0.5 - place.to(torch.float32)
        weight = torch.where(index < ROUNDED, rounded, exact)
        below = weight < 0
        place, weight = place - below.long(), weight + below.float()
        before = turns < 0
        return place.masked_fill(before, 0), weight.masked_fill(before, 0.0)

    def describe(self) -> str:
        return f"interpolate({self.factor})"


@lowers("interpolate", "upsample")
def interpolate(
    trace: Trace,
    symbol: Symbol,
    size: Any = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Symbol:
    if mode not in ("nearest", "nearest-exact", "linear") or antialias:
        trace.refuse(f"interpolation with mode {mode!r}", "Use mode='linear', mode='nearest' or a ConvTranspose1d.")
    if symbol.ndim != 3 or symbol.axes.time_dim != 2:
        trace.refuse("interpolation of another dimension than time", "Give it [B, C, T].")
    factor = _factor(trace, symbol, size, scale_factor)
    trace.graph.require(lambda t: t >= 1, symbol.stored.timeline.total, reach=1)
    if factor == 1:
        return symbol.copied
    if mode == "linear" and align_corners:
        trace.refuse(
            "interpolation with align_corners=True",
            "It stretches the stream from its first frame to its last, which is not known: use align_corners=False.",
        )
    if mode == "nearest" and _misses(factor):
        trace.refuse(
            f"nearest interpolation by {factor}",
            "Torch's rounded positions repeat some frames once too often: use mode='nearest-exact'.",
        )
    symbol = symbol.in_any_order
    whole = symbol.storing(trace.graph.settled(symbol.stored, trace.where()))
    make = Interpolation if mode == "linear" else Repeat
    return trace.add_each(make(factor, symbol.channels), whole)


def _factor(trace: Trace, symbol: Symbol, size: Any, scale_factor: Any) -> int:
    """How many times as long as the symbol the result is."""
    size, factor = (given[0] if isinstance(given, Sequence) else given for given in (size, scale_factor))
    if isinstance(size, Length):
        times = size.times(Length(trace, symbol.stored.timeline.total))
        if times is None:
            trace.refuse(
                "interpolation to a length that is not a multiple of the value's own at every length",
                "Interpolate by a whole scale_factor, and cut both to the shorter length: x[..., : y.shape[-1]].",
            )
        return times
    if size is not None:
        trace.refuse(f"interpolation to size {size}", "Use a whole scale_factor.")
    if factor is None or factor != int(factor) or factor < 1:
        trace.refuse(f"interpolation by {factor}", "Use a whole scale_factor, or service.nn.Resample.")
    return int(factor)


def _misses(factor: int) -> bool:
    """Whether a multiple of `factor`, times the float32 nearest to `1 / factor`, is rounded to less than the whole number it is."""
    whole = np.arange(1 << 12, dtype=np.float32)
    return bool(np.any(np.floor(whole * np.float32(factor) * np.float32(1.0 / factor)) != whole))
