"""Resampling by a rational factor with a windowed sinc."""

from __future__ import annotations

from math import ceil, gcd

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from service.nn.overtime import OverTime
from service.streaming.numerics import Gemm, Numerics
from service.streaming.operator import Flags, Window, Windowed, Windows
from service.streaming.operators.transposed import Interleave
from service.streaming.symbol import Symbol
from service.streaming.timeline import Count, Frames
from service.streaming.tracing import Trace

KAISER_BETA = 14.769656459379492
"""Torchaudio's default shape of the Kaiser window."""


class Resample(OverTime):
    """From `original` to `new` samples per unit of time, in lowest terms `p : q`; `T` frames become `ceil(q * T / p)`.

    Output `j` is the low-passed signal at the time of input `j * p / q`; outside the stream the signal is zero. The formula is that
    of `torchaudio.functional.resample` (after J. O. Smith, Digital Audio Resampling), with its defaults: `sinc(f * t) * window(t)`
    over the times `t` of the frames around an output, where `f = min(p, q) * rolloff` and the window, "hann" or "kaiser" (of shape
    `beta`), ends at the sinc's zero number `lowpass_filter_width`. The filter is computed in float64 and kept in float32.
    Raises ValueError for rates that are not positive, or a filter that does not exist.
    """

    kernel: Tensor

    def __init__(
        self,
        original: int,
        new: int,
        lowpass_filter_width: int = 6,
        rolloff: float = 0.99,
        window: str = "hann",
        beta: float = KAISER_BETA,
        layout: str = "BCT",
    ) -> None:
        super().__init__(layout)
        if original != int(original) or new != int(new) or original < 1 or new < 1:
            raise ValueError(f"original is {original} and new {new}; rates are positive whole numbers")
        if lowpass_filter_width < 1 or not 0 < rolloff <= 1:
            raise ValueError(f"lowpass_filter_width is {lowpass_filter_width} and rolloff {rolloff}; at least 1, and in (0, 1]")
        if window not in ("hann", "kaiser"):
            raise ValueError(f"window is {window!r}; it is 'hann' or 'kaiser'")
        common = gcd(int(original), int(new))
        self.original, self.new = int(original) // common, int(new) // common
        self.width, kernel = _kernel(self.original, self.new, lowpass_filter_width, rolloff, window, beta)
        self.register_buffer("kernel", torch.from_numpy(kernel).float(), persistent=False)

    def offline(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T_out"]:
        if self.original == self.new:
            return x
        batch, channels, length = x.shape
        padded = F.pad(x.reshape(batch * channels, 1, length), (self.width, self.width + self.original))
        made = F.conv1d(padded, self.kernel.unsqueeze(1), stride=self.original)
        return made.transpose(1, 2).reshape(batch, channels, -1)[..., : -(-self.new * length // self.original)]

    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol:
        if self.original == self.new:
            return symbol
        if not symbol.reads.may_read(0.0):
            symbol = symbol.reading(trace.graph.settled(symbol.reads, trace.where()))
        blocks = trace.add(Blocks(self.kernel, self.width, self.original, symbol.channels, trace.numerics), [symbol])
        made = trace.add(Interleave(self.new, symbol.channels), [blocks])
        length = Count.derive(lambda t: -(-self.new * t // self.original), symbol.reads.timeline.total, stride=self.original)
        return made.reading(made.reads.limited(length))

    def extra_repr(self) -> str:
        return f"original={self.original}, new={self.new}"


class Blocks(Windowed):
    """All `q` outputs of `p` input frames side by side: one product of every channel's window with the filters of all phases."""

    name = "resample"

    def __init__(self, kernel: Float[Tensor, "q k"], width: int, original: int, channels: int, numerics: Numerics) -> None:
        self.new = len(kernel)
        self.original = original
        # The last phase ends before the window does.
        taps = int(kernel.abs().sum(0).nonzero().max()) + 1
        self.window = Window(original, tuple(range(-width, taps - width)))
        self.right = max(0, self.window.offsets[-1] + 1)
        self.channels = self.new * channels
        self.kernel = kernel.detach().clone()
        self.product = Gemm(kernel[:, :taps].t(), None, numerics)

    def length(self, total: Frames) -> Frames:
        return total // self.original + 1

    def legal(self, *totals: Frames) -> Flags:
        return totals[0] >= 1

    def compute(self, windows: Windows, out: Float[Tensor, "M q*C"] | None) -> Float[Tensor, "M q*C"]:
        rows, taps, channels = windows.values.shape
        made = self.product(windows.values.transpose(1, 2).reshape(rows * channels, taps))
        blocks = made.view(rows, channels, self.new).transpose(1, 2)
        return blocks.reshape(rows, -1) if out is None else out.copy_(blocks.reshape(rows, -1))

    def weights(self) -> tuple[Tensor, ...]:
        return (self.kernel,)

    def describe(self) -> str:
        return f"resample({self.original}, {self.new}, {self.window.offsets[0]}, {self.window.offsets[-1]})"


def _kernel(original: int, new: int, zeros: int, rolloff: float, window: str, beta: float) -> tuple[int, np.ndarray]:
    """How many frames before a block its first filter begins, and the filters `[new, taps]` of all phases."""
    cutoff = min(original, new) * rolloff
    width = ceil(zeros * original / cutoff)
    frames = np.arange(-width, width + original)
    phases = np.arange(new)[:, None]
    times = (frames / original - phases / new) * cutoff
    inside = np.abs(times) < zeros
    if window == "hann":
        shape = np.cos(np.pi * times / zeros / 2) ** 2
    else:
        shape = np.i0(beta * np.sqrt(np.clip(1 - (times / zeros) ** 2, 0, None))) / np.i0(beta)
    return width, np.where(inside, np.sinc(times) * shape * cutoff / original, 0.0)
