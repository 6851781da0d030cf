"""Several elements of time from each: upsampling by repetition, blocks of channels laid out in time."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from service.streaming.operator import Expansion


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

    def describe(self) -> str:
        return f"interleave({self.factor})"
