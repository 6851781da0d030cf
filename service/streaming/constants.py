"""Constants as long as a value: what `torch.zeros(b, c, t)` and `vector.expand(-1, -1, t)` make of a length that is not known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.axes import BATCH, TIME, Axes, factor
from service.streaming.graph import View
from service.streaming.length import Length
from service.streaming.memory import Memory
from service.streaming.operator import Pointwise
from service.streaming.symbol import KINDS, Symbol
from service.streaming.timeline import Count

if TYPE_CHECKING:
    from service.streaming.tracing import Trace

FILLED = ("zeros", "ones", "full")
REPEATED = ("expand", "broadcast_to", "repeat", "tile")


class Constant(Pointwise):
    """The same numbers in every row."""

    name = "constant"

    def __init__(self, values: Float[Tensor, "C"]) -> None:
        self.channels = len(values)
        self.values = values

    def compute(self, rows: Sequence[Float[Tensor, "M _"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        made = self.values.to(rows[0].dtype).expand(len(rows[0]), -1)
        return made.contiguous() if out is None else out.copy_(made)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.values,)


def as_long_as(trace: Trace, length: Length) -> View:
    """A value of the length: the one whose length it is, or what is left of a longer one."""
    view = length.view or trace.timed.get(length.count) or _part_of_a_longer_one(trace, length.count)
    if view is None:
        trace.refuse("a tensor of the length of no value", "Give it the length of one, y.shape[-1], or less.")
    return view


def _part_of_a_longer_one(trace: Trace, count: Count) -> View | None:
    for known, longer in trace.timed.items():
        more, less = count.exceeds(known), known.exceeds(count)
        if more is not None and more <= 0 and less is not None and count.is_monotonic:
            trace.graph.require(lambda t: t >= 0, count)
            return longer.limited(count)
    return None


def filled(trace: Trace, sizes: Sequence[Any], number: float, dtype: torch.dtype | None) -> Symbol:
    """The number in a tensor of sizes among which one is a length."""
    return _repeating(trace, torch.full([1 if isinstance(size, Length) else size for size in sizes], number, dtype=dtype), sizes)


def repeated(trace: Trace, name: str, tensor: Tensor, sizes: Sequence[Any]) -> Symbol:
    """A constant that is repeated as often as a length says, along a dimension of size 1."""
    place = next(place for place, size in enumerate(sizes) if isinstance(size, Length))
    own = place - len(sizes) + tensor.ndim
    if own >= 0 and tensor.shape[own] != 1:
        trace.refuse(f"{name} of a constant of {tensor.shape[own]} frames", "Repeat along a dimension of size 1.")
    once = [1 if isinstance(size, Length) else size for size in sizes]
    made = tensor.detach().repeat(once) if name in ("repeat", "tile") else tensor.detach().expand(once)
    symbol = _repeating(trace, made, [sizes[place] if dim == place else size for dim, size in enumerate(made.shape)])
    return symbol if name in ("repeat", "tile") else symbol.remembered(Memory(object(), overlaps=True))


def _repeating(trace: Trace, once: Tensor, sizes: Sequence[Any]) -> Symbol:
    """Row-major. The first of three dimensions or more that has size 1 is the batch."""
    values = once.to(torch.float32)
    if once.dtype not in KINDS or not torch.equal(values.to(once.dtype), once) or not once.numel():
        trace.refuse(
            f"a constant {list(once.shape)} of {once.dtype}", "Use float32, truths, or whole numbers that a float32 can hold."
        )
    time = next(place for place, size in enumerate(sizes) if isinstance(size, Length))
    batch = next((place for place, size in enumerate(sizes) if place != time and size == 1), None) if len(sizes) > 2 else None
    each, stride = [], 1
    for place in reversed(range(len(sizes))):
        each.append(TIME if place == time else BATCH if place == batch else factor(sizes[place], stride))
        stride *= 1 if place == time else sizes[place]
    view = trace.graph.add(Constant(values.reshape(-1).clone()), [as_long_as(trace, sizes[time])], trace.where())
    return Symbol(trace, view, Axes(tuple(reversed(each))), dtype=once.dtype)
