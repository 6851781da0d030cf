"""Extremes, orders and ranks of the channels of a frame, and where they stand; where numbers stand among constant boundaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.lowering import lowers
from service.streaming.operator import Pointwise
from service.streaming.operators.reduction import along, reduced
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

Ranking = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A function of the last dimension of rows that gives values and indices."""


class WithIndices(NamedTuple):
    """What torch returns of extremes, orders and ranks."""

    values: Symbol
    indices: Any


def both(trace: Trace, make: Callable[..., Symbol], symbol: Symbol, name: str, function: Ranking) -> WithIndices:
    """Values, and where they stand, as two nodes; the one that nobody reads is left out of the program.

    `make(trace, symbol, name, function)` is one of the ways to apply a function to channels.
    """
    values = make(trace, symbol, name, lambda rows: function(rows)[0])
    places = make(trace, symbol, f"arg{name}", lambda rows: function(rows)[1].to(rows.dtype))
    return WithIndices(values, Symbol(trace, places.stored, places.axes, dtype=torch.int64))


def _lower_extreme(name: str, values: Callable[..., Tensor], places: Callable[..., Tensor], between: str) -> None:
    def function(rows: Tensor) -> tuple[Tensor, Tensor]:
        return values(rows, 1), places(rows, 1)

    def found(trace: Trace, symbol: Symbol, dim: Any, keepdim: bool) -> WithIndices:
        return both(trace, partial(reduced, dim=dim, keepdim=keepdim), symbol, name, function)

    @lowers(name)
    def extreme(trace: Trace, symbol: Symbol, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        other = dim if isinstance(dim, Symbol | Tensor) else other
        return found(trace, symbol, dim, keepdim) if other is None else trace.call(between, (symbol, other), {})

    @lowers(f"arg{name}")
    def place(trace: Trace, symbol: Symbol, dim: Any = None, keepdim: bool = False) -> Any:
        return found(trace, symbol, dim, keepdim).indices


_lower_extreme("max", torch.amax, torch.argmax, "maximum")
_lower_extreme("min", torch.amin, torch.argmin, "minimum")


def _lower_middle(name: str) -> None:
    @lowers(name)
    def lowering(trace: Trace, symbol: Symbol, dim: Any = None, keepdim: bool = False) -> WithIndices:
        return both(trace, partial(reduced, dim=dim, keepdim=keepdim), symbol, name, partial(getattr(torch, name), dim=1))


_lower_middle("median")
_lower_middle("nanmedian")


@lowers("kthvalue")
def kthvalue(trace: Trace, symbol: Symbol, k: int, dim: int = -1, keepdim: bool = False) -> WithIndices:
    make = partial(reduced, dim=dim, keepdim=keepdim, parameters=k)
    return both(trace, make, symbol, "kthvalue", partial(torch.kthvalue, k=k, dim=1))


@lowers("quantile", "nanquantile")
def quantile(
    trace: Trace, symbol: Symbol, q: float, dim: Any = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Symbol:
    if not isinstance(q, int | float):
        trace.refuse(f"{trace.calling} of several ranks, or of computed ones", "Take one number at a time.")
    function = partial(getattr(torch, trace.calling), q=float(q), dim=1, interpolation=interpolation)
    return reduced(trace, symbol, trace.calling, function, dim, keepdim, (q, interpolation))


@lowers("sort")
def sort(trace: Trace, symbol: Symbol, dim: int = -1, descending: bool = False, *, stable: bool = False) -> WithIndices:
    # Without `stable` ties of 17 elements and more stand in an order of torch's own, which the number of rows does not change.
    function = partial(torch.sort, dim=1, descending=descending, stable=stable)
    return both(trace, partial(along, dim=dim, parameters=(descending, stable)), symbol, "sort", function)


@lowers("argsort")
def argsort(trace: Trace, symbol: Symbol, dim: int = -1, descending: bool = False, *, stable: bool = False) -> Any:
    return sort(trace, symbol, dim, descending, stable=stable).indices


@lowers("topk")
def topk(trace: Trace, symbol: Symbol, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> WithIndices:
    function = partial(torch.topk, k=k, dim=1, largest=largest, sorted=sorted)
    return both(trace, partial(along, dim=dim, size=k, parameters=largest), symbol, "topk", function)


class Buckets(Pointwise):
    """How many of the boundaries, in ascending order, are below a number, or with `right` not above it."""

    name = "bucketize"

    def __init__(self, channels: int, boundaries: Float[Tensor, "n"], right: bool) -> None:
        self.channels = channels
        self.boundaries = boundaries
        self.right = right

    def compute(self, rows: Sequence[Float[Tensor, "M C"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        found = torch.bucketize(rows[0], self.boundaries, right=self.right)
        return found.to(rows[0].dtype) if out is None else out.copy_(found)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.boundaries,)

    def describe(self) -> str:
        return f"bucketize(right={self.right})"


@lowers("bucketize")
def bucketize(trace: Trace, symbol: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Symbol:
    if not isinstance(symbol, Symbol) or getattr(boundaries, "dtype", None) is not torch.float32 or boundaries.ndim != 1:
        trace.refuse(f"{trace.calling} among computed boundaries, or of another kind", "Give them as a float32 tensor [n].")
    operator = Buckets(symbol.channels, boundaries.detach().contiguous(), right)
    return trace.add_each(operator, symbol, dtype=torch.int32 if out_int32 else torch.int64)


@lowers("searchsorted")
def searchsorted(
    trace: Trace, sorted_sequence: Any, symbol: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None
) -> Symbol:
    return bucketize(trace, symbol, sorted_sequence, out_int32=out_int32, right=right or side == "right")
