"""Sums, means, extremes, variances and norms over the channels of a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from service.streaming.axes import ONE, Kind, factor
from service.streaming.lowering import lowers, refuses
from service.streaming.operator import Pointwise
from service.streaming.operators.dimensions import factors_of, innermost, ordered, place_of
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

Rows = Float[Tensor, "M C"]
Function = Callable[[Float[Tensor, "P n"]], Float[Tensor, "P m"] | Float[Tensor, "P"]]
PER_WINDOW = "It needs the whole stream before its first output; run it on windows outside penstock."
OVER_CHANNELS = "Over channels alone it streams: name their dimension."


class Reduction(Pointwise):
    """`function` of `size` neighbouring channels at a time, which makes one number of them or several; `parameters` are what it
    closes over."""

    def __init__(self, name: str, channels: int, size: int, function: Function, parameters: object) -> None:
        self.name = name
        self.channels = channels
        self.size = size
        self.function = function
        self.parameters = parameters

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        # Contiguous pieces, reduced along their rows: so a piece's bits do not depend on how many there are.
        result = self.function(rows[0].reshape(-1, self.size)).reshape(-1, self.channels)
        return result if out is None else out.copy_(result)

    def describe(self) -> str:
        return f"{self.name}({self.size}, {self.parameters})"


def reduced(
    trace: Trace, symbol: Symbol, name: str, function: Function, dim: Any, keepdim: bool, parameters: object = ()
) -> Symbol:
    """The symbol without some of its dimensions of channels, or with 1 in their place."""
    dims = [dim] if isinstance(dim, int) else list(dim) if isinstance(dim, Sequence) else []
    places = sorted({place_of(trace, symbol, one) for one in dims})
    if not places or any(symbol.axes.each[place].kind is not Kind.FACTOR for place in places):
        over = "all dimensions" if not places else "time or batch"
        trace.refuse(f"{trace.calling} over {over}", f"{PER_WINDOW} {OVER_CHANNELS}")
    kept = [place for place in factors_of(symbol.axes) if place not in places]
    whole = ordered(trace, symbol, [*kept, *places])
    axes = whole.axes
    for place in reversed(places):
        axes = axes.replaced(place, ONE) if keepdim else axes.without(place)
    axes = axes.flat()
    size = symbol.channels // axes.channels
    return trace.add_each(Reduction(name, axes.channels, size, function, parameters), whole, axes=axes)


def along(
    trace: Trace, symbol: Symbol, name: str, function: Function, dim: int, size: int | None = None, parameters: object = ()
) -> Symbol:
    """`function` of one dimension of channels, which has `size` of them afterwards, else as many as before."""
    place = place_of(trace, symbol, dim)
    axis = symbol.axes.each[place]
    if axis.kind is not Kind.FACTOR:
        trace.refuse(f"{trace.calling} over time or batch", f"{PER_WINDOW} {OVER_CHANNELS}")
    whole = innermost(trace, symbol, place)
    others = [other for other in factors_of(symbol.axes) if other != place]
    axes = whole.axes.replaced(place, factor(axis.size if size is None else size, 1)).over([*others, place])
    operator = Reduction(name, axes.channels, axis.size, function, (axis.size if size is None else size, parameters))
    return trace.add_each(operator, whole, axes=axes)


def _lower_reduction(name: str, function: Callable[..., Tensor]) -> None:
    @lowers(name)
    def lowering(trace: Trace, symbol: Symbol, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Symbol:
        if dtype not in (None, torch.float32):
            trace.refuse(f"{name} to {dtype}", "Programs run in float32.")
        return reduced(trace, symbol, name, partial(function, dim=1), dim, keepdim)


for _name in ("mean", "prod", "amax", "amin", "logsumexp"):
    _lower_reduction(_name, getattr(torch, _name))


@lowers("sum", any_kind=True)
def total(trace: Trace, symbol: Symbol, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Symbol:
    """Of truths it is how many there are."""
    counted = symbol.dtype is torch.bool and dtype in (None, torch.int64)
    if dtype not in (None, torch.float32) and not counted:
        trace.refuse(f"sum to {dtype}", "Programs run in float32.")
    if not counted:
        trace.require_floats([symbol] if dtype is None else [])
    made = reduced(trace, symbol, "sum", partial(torch.sum, dim=1), dim, keepdim)
    return Symbol(trace, made.stored, made.axes, dtype=torch.int64) if counted else made


def _spread(rows: Float[Tensor, "P n"], correction: float) -> Float64[Tensor, "P"]:
    """The variance. Composed, since torch takes another way when all that it is given is one row; in float64 as torch has it, so
    that equal numbers are exactly their mean and squares are in range."""
    wide = rows.double()
    apart = wide.sub_(wide.mean(1, keepdim=True))
    return apart.square_().sum(1) / max(0.0, rows.shape[1] - correction)


def variance(rows: Float[Tensor, "P n"], correction: float) -> Float[Tensor, "P"]:
    return _spread(rows, correction).to(rows.dtype)


def deviation(rows: Float[Tensor, "P n"], correction: float) -> Float[Tensor, "P"]:
    return _spread(rows, correction).sqrt_().to(rows.dtype)


def _lower_spread(name: str, function: Callable[..., Tensor]) -> None:
    """Alone, and with the mean behind it."""

    @lowers(name, f"{name}_mean")
    def lowering(
        trace: Trace,
        symbol: Symbol,
        dim: Any = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: float | None = None,
    ) -> Any:
        degrees = float(unbiased) if correction is None else float(correction)
        made = reduced(trace, symbol, name, partial(function, correction=degrees), dim, keepdim, degrees)
        return (made, symbol.mean(dim, keepdim)) if trace.calling.endswith("_mean") else made


_lower_spread("var", variance)
_lower_spread("std", deviation)


@lowers("norm", "linalg_vector_norm")
def norm(
    trace: Trace, symbol: Symbol, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, *, ord: Any = None
) -> Symbol:
    power = p if ord is None else ord
    power = 2 if power in (None, "fro") else power
    if not isinstance(power, int | float):
        trace.refuse(f"norm with p={power!r}", "Give p as a number.")
    if dtype not in (None, torch.float32):
        trace.refuse(f"norm to {dtype}", "Programs run in float32.")
    return reduced(trace, symbol, "norm", partial(torch.linalg.vector_norm, ord=power, dim=1), dim, keepdim, power)


@lowers("linalg_norm")
def linalg_norm(
    trace: Trace, symbol: Symbol, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Symbol:
    """Over two dimensions it is a matrix's, which is a vector's where its order is left out."""
    if ord is not None and not isinstance(dim, int):
        trace.refuse(f"linalg.norm of matrices with ord={ord!r}", "Use torch.linalg.vector_norm over the same dimensions.")
    return norm(trace, symbol, ord, dim, keepdim, dtype)


@lowers("normalize")
def normalize(trace: Trace, symbol: Symbol, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Symbol:
    size = norm(trace, symbol, p, dim, keepdim=True)
    made: Symbol = symbol / size.clamp_min(eps)
    return made


@lowers("cosine_similarity")
def cosine_similarity(trace: Trace, x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Symbol:
    if not isinstance(x1, Symbol) or not isinstance(x2, Symbol):
        trace.refuse("cosine_similarity with a constant", "Use F.normalize and F.linear.")
    made: Symbol = (normalize(trace, x1, 2.0, dim, eps) * normalize(trace, x2, 2.0, dim, eps)).sum(dim)
    return made


@lowers("softmin")
def softmin(trace: Trace, symbol: Symbol, dim: int | None = None, *args: Any, **kwargs: Any) -> Symbol:
    made: Symbol = (-symbol).softmax(dim)
    return made


refuses(
    "A transform of the whole stream needs its end. Of frames it is a product, x.unfold(-1, size, hop) @ matrix; or run it on "
    "windows (mode: window).",
    *(f"fft_{name}" for name in ("fft", "ifft", "rfft", "irfft", "hfft", "fft2", "rfft2", "fftn", "rfftn")),
    "stft",
    "istft",
)
