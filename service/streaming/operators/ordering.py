"""Extremes, orders and ranks of the channels of a frame, and where they stand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from service.streaming.lowering import lowers
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
