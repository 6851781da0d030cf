"""Running sums, products and extremes; differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from service.streaming.axes import Kind
from service.streaming.lowering import lowers
from service.streaming.operator import Recurrence
from service.streaming.operators.arithmetic import maximum, minimum
from service.streaming.operators.dimensions import place_of
from service.streaming.operators.ordering import WithIndices, both
from service.streaming.operators.reduction import along
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace
from service.streaming.turn import Span


def log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    """`log(exp(a) + exp(b))`, of functions whose vector and scalar code agree."""
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    return torch.where(high == low, high + LOG_2, high + (low - high).exp().log1p())


LOG_2 = 0.6931471805599453
FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "cumsum": (torch.add, 0.0),
    "cumprod": (torch.mul, 1.0),
    "cummax": (maximum, -torch.inf),
    "cummin": (minimum, torch.inf),
    "logcumsumexp": (log_add_exp, -torch.inf),
}
"""Of each running function, what joins the memory and an element, and the memory before the first."""
RANKED = ("cummax", "cummin")
"""Those that give indices too."""


class Accumulation(Recurrence):
    """A running function over time. As in torch it runs in float64; the memory holds its bits as two float32."""

    def __init__(self, name: str, channels: int) -> None:
        self.name = name
        self.channels = channels
        self.function, initial = FUNCTIONS[name]
        self.initial = torch.full((channels,), initial, dtype=torch.float64).view(torch.float32)

    def advance(
        self, rows: Float[Tensor, "M C"], span: Span, hidden: Float[Tensor, "B 2*C"]
    ) -> tuple[Float[Tensor, "M C"], Float[Tensor, "B 2*C"]]:
        order = span.time_major
        made: Float64[Tensor, "M C"] = rows.index_select(0, order.rows).double()
        memory = hidden.index_select(0, order.streams).view(torch.float64)
        before = memory
        for now in torch.split(made, order.active):
            before = now.copy_(self.function(before[: len(now)], now))
        made = made.index_select(0, order.places)
        return made.float(), last_rows(made, span, hidden.view(torch.float64)).view(torch.float32)


def last_rows(made: Float[Tensor, "M S"], span: Span, before: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Of every stream the last row that was made; what was before, where there is none."""
    last = made.index_select(0, (span.ends - 1).clamp_(min=0))
    return torch.where((span.lengths > 0).unsqueeze(1), last, before)


class Indices:
    """Where a running extreme over time was; any use is refused."""

    def __init__(self, trace: Trace, name: str) -> None:
        self._trace = trace
        self._name = name

    def __getattr__(self, name: str) -> NoReturn:
        self._trace.refuse(f"the indices of {self._name}", "Use the values only.")


def _lower_accumulation(name: str) -> None:
    @lowers(name)
    def lowering(trace: Trace, symbol: Symbol, dim: int, *, dtype: torch.dtype | None = None) -> Any:
        if dtype not in (None, torch.float32):
            trace.refuse(f"{name} to {dtype}", "Programs run in float32.")
        place = place_of(trace, symbol, dim)
        if symbol.axes.each[place].kind is Kind.FACTOR:
            return _over_channels(trace, symbol, name, dim)
        if place != symbol.axes.time_dim:
            trace.refuse(f"{name} over the batch", "Take it over time or channels.")
        made = trace.add_each(Accumulation(name, symbol.channels), symbol)
        return WithIndices(made, Indices(trace, name)) if name in RANKED else made


def _over_channels(trace: Trace, symbol: Symbol, name: str, dim: int) -> Any:
    function = partial(getattr(torch, name), dim=1)
    if name in RANKED:
        return both(trace, partial(along, dim=dim), symbol, name, function)
    return along(trace, symbol, name, function, dim)


for _name in FUNCTIONS:
    _lower_accumulation(_name)


@lowers("diff")
def diff(trace: Trace, symbol: Symbol, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Symbol:
    place = place_of(trace, symbol, dim)
    edges = [part for part in (prepend, symbol, append) if part is not None]
    made: Any = symbol if len(edges) == 1 else trace.call("cat", (edges, place), {})
    for _ in range(n):
        later, earlier = [slice(None)] * symbol.ndim, [slice(None)] * symbol.ndim
        later[place], earlier[place] = slice(1, None), slice(None, -1)
        made = made[tuple(later)] - made[tuple(earlier)]
    result: Symbol = made
    return result if n else result.copied
