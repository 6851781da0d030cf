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
from service.streaming.symbol import Symbol
from service.streaming.timeline import Frames
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

    filters: Tensor

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
        filters = _filters(self.original, self.new, lowpass_filter_width, rolloff, window, beta)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    def offline(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T_out"]:
        if self.original == self.new:
            return x
        batch, channels, length = x.shape
        before = self.filters.shape[1] // 2
        padded = F.pad(x.reshape(batch * channels, 1, length), (before, before + self.original))
        # All outputs of `original` frames at once: each filter at its own place in one long kernel.
        kernel = self.filters.new_zeros(self.new, 1, self.original + 2 * before)
        for phase, taps in enumerate(self.filters):
            first = phase * self.original // self.new
            kernel[phase, 0, first : first + len(taps)] = taps
        made = F.conv1d(padded, kernel, stride=self.original)
        return made.transpose(1, 2).reshape(batch, channels, -1)[..., : -(-self.new * length // self.original)]

    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol:
        if self.original == self.new:
            return symbol
        if not symbol.reads.may_read(0.0):
            symbol = symbol.reading(trace.graph.settled(symbol.reads, trace.where()))
        return trace.add(Resampling(self.filters, self.original, symbol.channels, trace.numerics), [symbol])

    def extra_repr(self) -> str:
        return f"original={self.original}, new={self.new}"


class Resampling(Windowed):
    """Output `j` reads the frames around frame `j * original // new`, weighted by the filter of its phase `j % new`."""

    name = "resample"

    def __init__(self, filters: Float[Tensor, "q k"], original: int, channels: int, numerics: Numerics) -> None:
        self.original = original
        self.new, taps = filters.shape
        used = filters.abs().sum(0).nonzero().flatten()
        first, last = (int(used[0]), int(used[-1])) if len(used) else (taps // 2, taps // 2)
        self.window = Window(original, tuple(range(first - taps // 2, last + 1 - taps // 2)), per=self.new)
        self.right = self.window.offsets[-1]
        self.channels = channels
        self.filters = filters.detach()[:, first : last + 1].contiguous()
        self.product = Gemm(self.filters.t(), None, numerics) if self.new == 1 else None

    def length(self, total: Frames) -> Frames:
        return -(-self.new * total // self.original)

    def legal(self, *totals: Frames) -> Flags:
        return totals[0] >= 1

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        rows, taps, channels = windows.values.shape
        if self.product is not None:
            made = self.product(windows.values.transpose(1, 2).reshape(rows * channels, taps)).view(rows, channels)
            return made if out is None else out.copy_(made)
        # Product and sum apart, tap after tap: one operation for both rounds otherwise for some numbers of rows.
        weights = self.filters.index_select(0, windows.span.index % self.new).unsqueeze(2)
        result = torch.mul(windows.values[:, 0], weights[:, 0], out=out)
        for tap in range(1, taps):
            result.add_(windows.values[:, tap] * weights[:, tap])
        return result

    def weights(self) -> tuple[Tensor, ...]:
        return (self.filters,)

    @property
    def work(self) -> int:
        return self.filters.shape[1] * self.channels

    def describe(self) -> str:
        return f"resample({self.window.stride}, {self.window.per}, {self.window.offsets[0]}, {self.window.offsets[-1]})"


def _filters(original: int, new: int, zeros: int, rolloff: float, window: str, beta: float) -> np.ndarray:
    """Per phase, the weights of the frames from `width` before to `width` after the last one at or before the output's time."""
    cutoff = min(original, new) * rolloff
    width = ceil(zeros * original / cutoff)
    late = np.arange(new) * original % new / new
    times = (np.arange(-width, width + 1) - late[:, None]) / original * cutoff
    inside = np.abs(times) < zeros
    if window == "hann":
        shape = np.cos(np.pi * times / zeros / 2) ** 2
    else:
        shape = np.i0(beta * np.sqrt(np.clip(1 - (times / zeros) ** 2, 0, None))) / np.i0(beta)
    return np.where(inside, np.sinc(times) * shape * cutoff / original, 0.0)
