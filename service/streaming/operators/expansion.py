"""Several elements of time from each: upsampling by repetition, blocks of channels laid out in time."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from service.streaming.lowering import lowers
from service.streaming.operator import Expansion
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace


class Repeat(Expansion):
    """Each element `factor` times: `F.interpolate(mode="nearest")`.

    Torch finds the element by a float32 product, which is right up to output 2**24 (4.6 hours at 1 kHz) and skips or repeats some
    beyond it; this does not.
    """

    name = "repeat"

    def __init__(self, factor: int, channels: int) -> None:
        self.factor = factor
        self.channels = channels

    def compute(self, rows: Float[Tensor, "M C"]) -> Float[Tensor, "M*factor C"]:
        return rows.unsqueeze(1).expand(-1, self.factor, -1).reshape(-1, self.channels)

    def describe(self) -> str:
        return f"repeat({self.factor})"


class Interleave(Expansion):
    """A block of `factor` elements side by side becomes `factor` elements one after the other."""

    name = "interleave"

    def __init__(self, factor: int, channels: int) -> None:
        self.factor = factor
        self.channels = channels

    def compute(self, rows: Float[Tensor, "M factor*C"]) -> Float[Tensor, "M*factor C"]:
        return rows.reshape(-1, self.channels)


@lowers("interpolate", "upsample")
def interpolate(
    trace: Trace,
    symbol: Symbol,
    size: object = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Symbol:
    if mode != "nearest" or antialias or recompute_scale_factor:
        trace.refuse(f"interpolation with mode {mode!r}", "Use mode='nearest' or a ConvTranspose1d.")
    factor = scale_factor[0] if isinstance(scale_factor, Sequence) else scale_factor
    if size is not None or factor is None or factor != int(factor) or factor < 1:
        trace.refuse(f"interpolation to size {size} or by {factor}", "Use a whole scale_factor.")
    if symbol.ndim != 3 or symbol.axes.time_dim != 2:
        trace.refuse("interpolation of another dimension than time", "Give it [B, C, T].")
    symbol = symbol.in_any_order
    whole = symbol.storing(trace.graph.settled(symbol.stored, trace.where()))
    return trace.add_each(Repeat(int(factor), symbol.channels), whole)
