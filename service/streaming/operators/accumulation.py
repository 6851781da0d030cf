"""Running sums."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.lowering import lowers
from service.streaming.operator import Recurrence
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace
from service.streaming.turn import Span


class CumulativeSum(Recurrence):
    """`torch.cumsum` over time. As in torch the sum itself is float64; the memory holds its bits as two float32."""

    name = "cumsum"

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.initial = torch.zeros(2 * channels)

    def advance(
        self, rows: Float[Tensor, "M C"], span: Span, hidden: Float[Tensor, "B 2*C"]
    ) -> tuple[Float[Tensor, "M C"], Float[Tensor, "B 2*C"]]:
        order = span.time_major
        made = rows.index_select(0, order.rows)
        sums = hidden.index_select(0, order.streams).view(torch.float64)
        first = 0
        for active in order.active:
            now = made[first : first + active]
            now.copy_(sums[:active].add_(now))
            first += active
        return made.index_select(0, order.places), hidden.index_copy(0, order.streams, sums.view(torch.float32))


@lowers("cumsum")
def cumsum(trace: Trace, symbol: Symbol, dim: int) -> Symbol:
    if dim % 3 != symbol.dims.time_dim:
        trace.refuse("cumsum over channels or batch", "Sum over time.")
    return trace.add(CumulativeSum(symbol.channels), [symbol])
