"""Mean, maximum and minimum of the last frames.

A window of `size` frames is put together from windows a quarter as long, and those from shorter ones, so an output costs about four
elements per factor of four, not `size`. Every output is a tree of sums over its own window: nothing is ever subtracted, so no error
builds up, and an infinity is gone once the window has passed it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from service.nn.overtime import OverTime
from service.streaming.operator import Flags, Window, Windowed, Windows
from service.streaming.operators.arithmetic import Join
from service.streaming.symbol import Symbol
from service.streaming.timeline import Frames, Timeline
from service.streaming.tracing import Trace

DIRECT = 8
"""Up to this size a window is read element by element."""
BRANCHES = 4


class Taps(Windowed):
    """Some of the elements before each one, combined; what lies before the stream is `fill`."""

    right = 0

    def __init__(self, name: str, channels: int, function: Callable[..., Tensor], back: Sequence[int], fill: float) -> None:
        self.name = name
        self.channels = channels
        self.function = function
        self.window = Window(1, tuple(-distance for distance in sorted(back, reverse=True)), fill)

    def timeline(self, inputs: Sequence[Timeline]) -> Timeline:
        return inputs[0]

    def legal(self, *totals: Frames) -> Flags:
        return totals[0] >= 1

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        # One tap after the other: a reduction may take another order for another number of rows.
        first, *others = windows.values.unbind(1)
        result = first.clone() if out is None else out.copy_(first)
        for tap in others:
            self.function(result, tap, out=result)
        return result

    def describe(self) -> str:
        return f"{self.name}({self.window.offsets}, {self.window.fill})"


class Share(Windowed):
    """A sum over the number of frames summed, which is `size` but at the beginning of a stream."""

    name = "sliding_mean"
    window = Window(1, (0,))
    right = 0

    def __init__(self, channels: int, size: int) -> None:
        self.channels = channels
        self.size = size

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        sums = windows.values.squeeze(1)
        if windows.span.earliest >= self.size - 1:
            return torch.div(sums, float(self.size), out=out)
        counts = (windows.span.index + 1).clamp_(max=self.size).to(sums.dtype).unsqueeze(1)
        return torch.div(sums, counts, out=out)

    def describe(self) -> str:
        return f"sliding_mean({self.size})"


class Sliding(OverTime):
    """A function of the last `size` frames of every channel, of as many as there are at first; raises ValueError if size < 1."""

    def __init__(self, size: int, layout: str = "BCT") -> None:
        super().__init__(layout)
        if size < 1:
            raise ValueError(f"size is {size}; a window has at least one frame")
        self.size = size

    @abstractmethod
    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol: ...

    def extra_repr(self) -> str:
        return f"size={self.size}"


class SlidingMean(Sliding):
    """`y_j` is the mean of `x_{j-size+1} … x_j`; for `j < size - 1`, of the `j + 1` frames that there are."""

    def offline(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        sums = F.avg_pool2d(F.pad(x, (self.size - 1, 0)), (1, self.size), 1, divisor_override=1)
        return sums / torch.arange(1, x.shape[-1] + 1, device=x.device).clamp(max=self.size)

    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol:
        symbol = _readable(trace, symbol, 0.0)
        return trace.add(Share(symbol.channels, self.size), [self._sum(trace, symbol, self.size)])

    def _sum(self, trace: Trace, x: Symbol, size: int) -> Symbol:
        def taps(of: Symbol, back: Sequence[int]) -> Symbol:
            return trace.add(Taps("sliding_sum", x.channels, torch.add, back, 0.0), [of])

        if size <= DIRECT:
            return taps(x, range(size))
        part, rest = divmod(size, BRANCHES)
        whole = taps(self._sum(trace, x, part), [part * branch for branch in range(BRANCHES)])
        if not rest:
            return whole
        return trace.add(Join("add", x.channels, torch.add), [whole, taps(x, range(size - rest, size))])


class SlidingMax(Sliding):
    """`y_j` is the largest of `x_{j-size+1} … x_j`; for `j < size - 1`, of the `j + 1` frames that there are."""

    def offline(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        return F.max_pool1d(F.pad(x, (self.size - 1, 0), value=-torch.inf), self.size, 1)

    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol:
        return _extreme(trace, _readable(trace, symbol, -torch.inf), "sliding_max", torch.maximum, -torch.inf, self.size)


class SlidingMin(Sliding):
    """`y_j` is the smallest of `x_{j-size+1} … x_j`; for `j < size - 1`, of the `j + 1` frames that there are."""

    def offline(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        return -F.max_pool1d(F.pad(-x, (self.size - 1, 0), value=-torch.inf), self.size, 1)

    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol:
        return _extreme(trace, _readable(trace, symbol, torch.inf), "sliding_min", torch.minimum, torch.inf, self.size)


def _extreme(trace: Trace, x: Symbol, name: str, function: Callable[..., Tensor], nothing: float, size: int) -> Symbol:
    if size <= DIRECT:
        return trace.add(Taps(name, x.channels, function, range(size), nothing), [x])
    # An element that counts twice changes no maximum, so the last part may overlap the one before.
    part = -(-size // BRANCHES)
    back = [min(part * branch, size - part) for branch in range(BRANCHES)]
    return trace.add(Taps(name, x.channels, function, back, nothing), [_extreme(trace, x, name, function, nothing, part)])


def _readable(trace: Trace, symbol: Symbol, fill: float) -> Symbol:
    """The symbol, such that what lies before it may be read as `fill`."""
    return symbol if symbol.reads.may_read(fill) else symbol.reading(trace.graph.settled(symbol.reads, trace.where()))
