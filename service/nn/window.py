"""Any module at all on a sliding window: what cannot be streamed exactly is exact on windows by definition.

The windows of all streams that are complete go through the module together, in batches of a few fixed sizes, since libraries pick
kernels by the size of a batch. Which sizes give a window the same bits is looked for at conversion (`company.py`).
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from service.errors import NotStreamable
from service.nn.company import fit
from service.nn.overtime import OverTime
from service.streaming.axes import Axes
from service.streaming.copying import Opaque
from service.streaming.numerics import Numerics
from service.streaming.operator import Batched, Flags, Window, Windows
from service.streaming.operators.expansion import Interleave
from service.streaming.symbol import Layout, Symbol
from service.streaming.timeline import Frames
from service.streaming.tracing import Trace

BATCHES = (1, 4, 16, 64)
"""The sizes of batches that are tried. Of more than 64 windows, what a module makes no longer fits the cache."""


class SlidingWindow(Opaque, OverTime):
    """`module` on frames `j * hop … j * hop + size - 1`, for every whole window of a stream; windows may overlap or leave gaps.

    `module` maps `[N, C, size]` to `[N]`, `[N, K]` or `[N, K, P]`, with `layout="BTC"` `[N, size, C]` to `[N, P, K]`: window `j`
    gives frame `j` of the output, with `K` channels, or frames `j * P … j * P + P - 1`, as float32. It runs in eval mode, never
    traced, so it may be TorchScript or an exported program. A window's result must be its own, whatever else is in the batch. With
    `batch`, every call gets exactly so many windows, for modules that take no other number. Raises ValueError for a size, hop or
    batch below 1.
    """

    def __init__(self, module: nn.Module, size: int, hop: int, layout: str = "BCT", batch: int | None = None) -> None:
        super().__init__(layout)
        if size < 1 or hop < 1 or (batch is not None and batch < 1):
            raise ValueError(f"size is {size}, hop {hop} and batch {batch}; they are at least 1")
        self.module = module
        self.size = size
        self.hop = hop
        self.batch = batch

    def offline(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B K T_out"]:
        batch, channels, length = x.shape
        count = max(0, (length - self.size) // self.hop + 1)
        if not count:
            with torch.no_grad():
                like = self.frames(x.new_zeros(1, self.size, channels), self.batch or 2)
            return x.new_zeros(batch, like.shape[2], 0)
        windows = x.unfold(2, self.size, self.hop)
        # Exported programs often take any number of windows but one.
        made = [
            self.frames(windows[some // count, :, some % count].transpose(1, 2), self.batch or 2)
            for some in torch.split(torch.arange(batch * count, device=x.device), self.batch or BATCHES[-1])
        ]
        whole = torch.cat(made)
        return whole.reshape(batch, -1, whole.shape[2]).transpose(1, 2)

    def frames(self, windows: Float[Tensor, "N size C"], least: int = 1) -> Float[Tensor, "N P K"]:
        """What the module makes of each window; a call has `least` windows at least, filled up by copies of the last one.

        Raises NotStreamable where that is no tensor of real numbers, one row per window.
        """
        count = len(windows)
        time_first = self.layout is Layout.BTC
        given = windows if time_first else windows.transpose(1, 2)
        # Memory of its own, always alike, which the module may change.
        batch = given.new_empty(max(count, least), *given.shape[1:])
        batch[:count] = given
        batch[count:] = given[-1]
        # The interpreter that is there from the first call on; the optimising one rewrites a script after some calls.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            made: Tensor = self.module(batch)
        if not _is_rows(made, len(batch)):
            found = f"{made.dtype} {list(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
            rows = "[N, P, K]" if time_first else "[N, K, P]"
            raise NotStreamable(
                f"the module gives {found} for {len(batch)} windows; one tensor of real numbers [N], [N, K] or {rows} is expected. "
                "Wrap it in a module that returns that."
            )
        made = made[:count].to(torch.float32)
        if made.ndim < 3:
            return made.reshape(count, 1, -1)
        return made if time_first else made.transpose(1, 2)

    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol:
        operator = trace.prepared.get(self)
        if not isinstance(operator, OnWindows):
            try:
                operator = trace.prepared[self] = OnWindows(self, symbol.channels, trace.numerics)
            except NotStreamable as refusal:
                raise NotStreamable(f"{trace.where()}: {refusal}") from refusal
        symbol = symbol.reading(trace.graph.settled(symbol.reads, trace.where()))
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

    def train(self, mode: bool = True) -> Self:
        self.training = mode
        with suppress(NotImplementedError):  # exported programs have no modes, and refuse to be asked
            self.module.train(mode)
        return self

    def extra_repr(self) -> str:
        return f"size={self.size}, hop={self.hop}" + (f", batch={self.batch}" if self.batch else "")


def _is_rows(made: object, count: int) -> bool:
    return isinstance(made, Tensor) and made.ndim in (1, 2, 3) and len(made) == count and made.numel() > 0 and not made.is_complex()


class OnWindows(Batched):
    """A module, run on windows gathered from the ring; the output frames of one window stand side by side."""

    name = "module on windows"
    right = 0

    def __init__(self, sliding: SlidingWindow, channels: int, numerics: Numerics) -> None:
        self.sliding = sliding
        self.depth = channels
        self.window = Window(sliding.hop, tuple(range(sliding.size)))
        sizes = BATCHES if sliding.batch is None else (sliding.batch,)
        generator = torch.Generator().manual_seed(0)
        windows = torch.randn(sizes[-1], sliding.size, channels, generator=generator)
        # Logarithms and roots say nothing of negative numbers.
        windows[1::2].abs_()
        found = fit(sliding.frames, windows, sizes, numerics is Numerics.EXACT)
        self.batches = found.sizes
        self.results = found.results.contiguous()
        _, self.per_window, self.each = self.results.shape
        self.channels = self.per_window * self.each

    def legal(self, *totals: Frames) -> Flags:
        return np.asarray(totals[0] >= 0)

    def portions(self, count: int) -> Iterator[int]:
        while count:
            # A batch that would be less than half full costs more than smaller ones do.
            size = next((size for size in reversed(self.batches) if 2 * count > size), self.batches[0])
            yield min(count, size)
            count -= min(count, size)

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        count = len(windows.values)
        made = self.sliding.frames(windows.values, next(size for size in self.batches if size >= count))
        if made.shape[1:] != (self.per_window, self.each):
            raise NotStreamable(
                f"the module gave {list(made.shape[1:])} for a window, frames first, and {[self.per_window, self.each]} when the "
                "program was converted. The shape of its result must not depend on the data."
            )
        rows = made.flatten(1)
        return rows if out is None else out.copy_(rows)

    def weights(self) -> tuple[Tensor, ...]:
        # Its code is like its weights: what is remembered of a stream does not depend on it. Code elsewhere shows in the results.
        code = torch.tensor([*self.batches, *bytes.fromhex(self.sliding.identity())])
        return (code, self.results, *self.sliding.module.parameters(), *self.sliding.module.buffers())

    @property
    def sizes_of_batches(self) -> str:
        """For people: such as "4, 16 or 32"."""
        *others, last = map(str, self.batches)
        return f"{', '.join(others)} or {last}" if others else last

    @property
    def work(self) -> int:
        """As torch counts them: matrix products and convolutions; none in TorchScript."""
        from torch.utils.flop_counter import FlopCounterMode  # it imports a compiler, which takes seconds

        like = torch.zeros(1, self.sliding.size, self.depth)
        with FlopCounterMode(display=False) as counter:
            self.sliding.frames(like, self.batches[0])
        return int(counter.get_total_flops()) // (2 * self.batches[0]) or len(self.window.offsets) * self.depth

    def describe(self) -> str:
        return f"window({self.sliding.size}, {self.sliding.hop}, {self.channels}, {self.per_window})"
