"""A value's first frame, `x[..., :1]`, and its last one, `x[..., -1:]`: what code repeats at the ends of a value, to pad it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from service.streaming.memory import Memory
from service.streaming.standin import StandIn, found_in
from service.streaming.symbol import Symbol

REMEDY = (
    "All that streams of one frame is to repeat the first or the last one at its own value's ends: "
    "torch.cat([x[..., :1].expand(-1, -1, k), x], -1), or F.pad with mode='replicate'. A network that makes one output of a whole "
    "signal runs on windows (mode: window)."
)
TAKEN = ("cat", "concat", "concatenate", "diff")
"""Functions that take them, beside their own value."""


class EdgeFrame(StandIn):
    """The first frame of `symbol`, or its last one, `count` times; where it is `expanded`, the module raises for a value without
    frames, else none are repeated."""

    def __init__(self, symbol: Symbol, last: bool, count: int = 1, expanded: bool = False) -> None:
        self.symbol = symbol
        self.last = last
        self.count = count
        self.expanded = expanded

    @property
    def dtype(self) -> torch.dtype:
        return self.symbol.dtype

    @property
    def shape(self) -> tuple[Any, ...]:
        time = self.symbol.axes.time_dim
        return tuple(self.count if dim == time else size for dim, size in enumerate(self.symbol.shape))

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    @property
    def ndim(self) -> int:
        return self.symbol.ndim

    def dim(self) -> int:
        return self.ndim

    def is_of(self, symbol: Symbol) -> bool:
        """Whether it is a frame of that value as it is now."""
        return self.symbol.stored == symbol.stored and self.symbol.axes == symbol.axes

    def call(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if name in TAKEN:
            return self.symbol.tracing.call(name, args, kwargs)
        if not args or args[0] is not self:
            self.refuse(name)
        if name == "clone":
            return self._copied()
        if name == "contiguous":
            return self._in(self.symbol.memory.perhaps())
        if name == "detach":
            return self
        if name in ("repeat", "tile", "expand", "broadcast_to"):
            return self._repeated(name, args[1:], kwargs)
        if name == "repeat_interleave":
            return self._interleaved(*args[1:], **kwargs)
        return self.refuse(name)

    def refuse(self, name: str) -> NoReturn:
        self.symbol.tracing.refuse(f"{name} of a value's first or last frame", REMEDY)

    def _repeated(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> EdgeFrame:
        given = list(args) or list(kwargs.values())
        sizes = list(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else given
        time = self.symbol.axes.time_dim
        copies = name in ("repeat", "tile")
        if len(sizes) != self.ndim or not isinstance(sizes[time], int):
            self.refuse(f"{name} to {sizes}")
        for dim, (size, own) in enumerate(zip(sizes, self.shape, strict=True)):
            if dim != time and size not in ((1,) if copies else (-1, own)):
                self.refuse(f"{name} to {sizes}")
        if copies:
            return self._copied(sizes[time])
        if sizes[time] == -1:
            return self
        if self.count not in (1, sizes[time]):
            self.refuse(f"{name} to {sizes}")
        return EdgeFrame(self.symbol, self.last, sizes[time], expanded=True)

    def _interleaved(self, repeats: Any, dim: int | None = None, output_size: int | None = None) -> EdgeFrame:
        if not isinstance(repeats, int) or dim is None or dim % self.ndim != self.symbol.axes.time_dim:
            self.refuse("repeat_interleave")
        return self._copied(repeats)

    def _copied(self, times: int = 1) -> EdgeFrame:
        """What the value is now, whatever is written into it later."""
        return self._in(Memory.anew(), times)

    def _in(self, memory: Memory, times: int = 1) -> EdgeFrame:
        return EdgeFrame(self.symbol.remembered(memory), self.last, self.count * times, self.expanded)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        frame = next(found_in([*args, *(kwargs or {}).values()], EdgeFrame))
        return frame.call(function.__name__, args, kwargs or {})
