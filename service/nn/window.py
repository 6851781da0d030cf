"""Any module at all on a sliding window: what cannot be streamed exactly is exact on windows by definition.

The windows of all streams that are complete go through the module together, in batches of a few fixed sizes, since libraries pick
kernels by the size of a batch. Which sizes give a window the same bits is looked for at conversion.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from service.errors import NotStreamable
from service.nn.overtime import OverTime
from service.streaming.axes import Axes
from service.streaming.copying import Opaque
from service.streaming.numerics import Numerics
from service.streaming.operator import Flags, Window, Windowed, Windows
from service.streaming.operators.expansion import Interleave
from service.streaming.symbol import Layout, Symbol
from service.streaming.timeline import Frames
from service.streaming.tracing import Trace

BATCHES = (1, 4, 16, 64)
CLOSE = 1e-3
"""A window's result may differ so much in other company, relative to the largest one, before the module is said to mix windows."""


class SlidingWindow(Opaque, OverTime):
    """`module` on frames `j * hop … j * hop + size - 1`, for every whole window of a stream; windows may overlap or leave gaps.

    `module` maps `[N, C, size]` to `[N]`, `[N, K]` or `[N, K, P]`, with `layout="BTC"` `[N, size, C]` to `[N, P, K]`: window `j`
    gives frame `j` of the output, with `K` channels, or frames `j * P … j * P + P - 1`. It runs in eval mode, never traced, so
    it may be TorchScript or an exported program. A window's result must be its own, whatever else is in the batch. Raises
    ValueError for a size or hop below 1.
    """

    def __init__(self, module: nn.Module, size: int, hop: int, layout: str = "BCT") -> None:
        super().__init__(layout)
        if size < 1 or hop < 1:
            raise ValueError(f"size is {size} and hop {hop}; both are at least 1")
        self.module = module
        self.size = size
        self.hop = hop

    def offline(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B K T_out"]:
        batch, channels, length = x.shape
        count = max(0, (length - self.size) // self.hop + 1)
        if not count:
            with torch.no_grad():
                like = self.frames(x.new_zeros(1, self.size, channels))
            return x.new_zeros(batch, like.shape[2], 0)
        windows = x.unfold(2, self.size, self.hop).permute(0, 2, 3, 1).reshape(batch * count, self.size, channels)
        made = torch.cat([self.frames(part) for part in torch.split(windows, BATCHES[-1])])
        return made.reshape(batch, -1, made.shape[2]).transpose(1, 2)

    def frames(self, windows: Float[Tensor, "N size C"]) -> Float[Tensor, "N P K"]:
        """What the module makes of each window. Raises TypeError where that is no tensor of float32, one row per window."""
        time_first = self.layout is Layout.BTC
        made = self.module(windows.contiguous() if time_first else windows.transpose(1, 2).contiguous())
        if not isinstance(made, Tensor) or made.dtype != torch.float32 or made.ndim not in (1, 2, 3) or len(made) != len(windows):
            found = f"{made.dtype} {list(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            rows = "[N, P, K]" if time_first else "[N, K, P]"
            raise TypeError(
                f"the module gives {found} for {len(windows)} windows; one float32 tensor [N], [N, K] or {rows} is expected. "
                "Wrap it in a module that returns that."
            )
        if made.ndim < 3:
            return made.reshape(len(made), 1, -1)
        return made if time_first else made.transpose(1, 2)

    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol:
        operator = OnWindows(self, symbol.channels, trace.numerics)
        made = trace.add(operator, [symbol])
        if operator.per_window == 1:
            return made
        whole = trace.graph.settled(made.stored, trace.where())
        channels = operator.channels // operator.per_window
        view = trace.graph.add(Interleave(operator.per_window, channels), [whole], trace.where())
        return Symbol(trace, view, Axes.of(symbol.dims.value, channels))

    def identity(self) -> str:
        """Tells modules apart, weights aside, by their structure and the code of their forwards."""
        seen = [repr(self.module)]
        for part in self.module.modules():
            with suppress(OSError, TypeError, RuntimeError):  # code that has no source here
                code = getattr(part, "code", None)
                seen.append(code if isinstance(code, str) else inspect.getsource(type(part).forward))
        return hashlib.sha256("\n".join(seen).encode()).hexdigest()[:16]

    def extra_repr(self) -> str:
        return f"size={self.size}, hop={self.hop}"


class OnWindows(Windowed):
    """A module, run on windows gathered from the ring; the output frames of one window stand side by side."""

    name = "module on windows"
    right = 0

    def __init__(self, sliding: SlidingWindow, channels: int, numerics: Numerics) -> None:
        self.sliding = sliding
        self.depth = channels
        self.window = Window(sliding.hop, tuple(range(sliding.size)))
        self.batches, self.per_window, each = _probed(sliding, channels, numerics)
        self.channels = self.per_window * each

    def legal(self, *totals: Frames) -> Flags:
        return np.asarray(totals[0] >= 0)

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        made = [
            self.sliding.frames(_padded(windows.values[first : first + count], size))[:count].flatten(1)
            for first, count, size in _pieces(len(windows.values), self.batches)
        ]
        return torch.cat(made) if out is None else torch.cat(made, out=out)

    def weights(self) -> tuple[Tensor, ...]:
        # Its code is like its weights: what is remembered of a stream does not depend on it.
        code = torch.tensor([*self.batches, *bytes.fromhex(self.sliding.identity())])
        return (code, *self.sliding.module.parameters(), *self.sliding.module.buffers())

    @property
    def work(self) -> int:
        """As torch counts them: matrix products and convolutions; none in TorchScript."""
        like = torch.zeros(1, self.sliding.size, self.depth)
        with FlopCounterMode(display=False) as counter:
            self.sliding.frames(_padded(like, self.batches[0]))
        return int(counter.get_total_flops()) // (2 * self.batches[0]) or len(self.window.offsets) * self.depth

    def describe(self) -> str:
        return f"window({self.sliding.size}, {self.sliding.hop}, {self.channels}, {self.per_window})"


def _pieces(count: int, batches: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """The first window of each batch, how many windows it has, and its size."""
    for first in range(0, count, batches[-1]):
        left = min(count - first, batches[-1])
        yield first, left, next(size for size in batches if size >= left)


def _padded(windows: Float[Tensor, "N size C"], size: int) -> Float[Tensor, "size size C"]:
    if len(windows) == size:
        return windows
    batch = windows.new_zeros(size, *windows.shape[1:])
    batch[: len(windows)] = windows
    return batch


def _probed(sliding: SlidingWindow, channels: int, numerics: Numerics) -> tuple[tuple[int, ...], int, int]:
    """The sizes of batches to use, the output frames per window and their channels. Raises NotStreamable."""
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(2 * BATCHES[-1], sliding.size, channels, generator=generator)
    able: list[int] = []
    reference: Tensor | None = None
    problem: Exception | None = None
    for size in reversed(BATCHES):
        try:
            made, steady = _in_company(sliding, windows, size)
        except NotStreamable:
            raise
        except Exception as error:  # whatever the user's module does with a batch of this size
            problem = problem or error
            continue
        if not steady and size > 1 and numerics is Numerics.EXACT:
            continue
        if reference is None:
            reference = made
        if numerics is Numerics.FAST or torch.equal(_in_batches(sliding, windows, size, len(reference)), reference):
            able.insert(0, size)
    if reference is None:
        raise NotStreamable(
            f"the module does not take {list(windows[:1].shape)} windows, [N, size, C] in its layout, in batches of {BATCHES}: "
            f"{type(problem).__name__}: {problem}"
        ) from problem
    return tuple(able), reference.shape[1], reference.shape[2]


def _in_batches(sliding: SlidingWindow, windows: Float[Tensor, "2*N size C"], size: int, count: int) -> Float[Tensor, "count P K"]:
    """The first `count` windows, `size` at a time: a few alone could have the same bits by chance."""
    return torch.cat([sliding.frames(batch) for batch in torch.split(windows[: -(-count // size) * size], size)])[:count]


def _in_company(sliding: SlidingWindow, windows: Float[Tensor, "2*N size C"], size: int) -> tuple[Float[Tensor, "N P K"], bool]:
    """What batches of `size` make of the first few windows, and whether that is the same bits in other company and places."""
    made = sliding.frames(windows[:size])
    if not torch.equal(made, sliding.frames(windows[:size])):
        raise NotStreamable("the module gives other results for the same windows: it draws random numbers, or remembers calls")
    steady = True
    scale = float(made.abs().nan_to_num(0.0, 0.0, 0.0).max()) if made.numel() else 0.0
    turned = windows[:size].roll(1, 0)
    others = windows[size : 2 * size].clone()
    others[:1] = windows[:1]
    empty = torch.zeros_like(others)
    empty[:1] = windows[:1]
    broken = torch.full_like(others, torch.nan)
    broken[:1] = windows[:1]
    for batch, shift, count in ((turned, 1, size), (others, 0, 1), (empty, 0, 1), (broken, 0, 1)):
        again = sliding.frames(batch).roll(-shift, 0)[:count]
        if not bool(((again - made[:count]).abs() <= CLOSE * scale).logical_or(again == made[:count]).all()):
            raise NotStreamable(
                "the module mixes the windows of a batch: a window's result depends on the others. Normalise and attend within "
                "each window."
            )
        steady = steady and torch.equal(again, made[:count])
    return made, steady
