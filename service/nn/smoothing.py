"""Exponential smoothing of every channel, per stream."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from service.nn.overtime import OverTime
from service.streaming.operator import Recurrence
from service.streaming.operators.accumulation import last_rows
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace
from service.streaming.turn import Span


class ExponentialSmoothing(OverTime):
    """`y_0 = x_0`, `y_j = alpha * x_j + (1 - alpha) * y_{j-1}`, of every channel; `0 < alpha <= 1`, else ValueError."""

    def __init__(self, alpha: float, layout: str = "BCT") -> None:
        super().__init__(layout)
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it lies in (0, 1]")
        self.alpha = alpha

    def offline(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        smoothed = list(x[..., :1].unbind(-1))
        for frame in x[..., 1:].unbind(-1):
            smoothed.append(self.alpha * frame + (1 - self.alpha) * smoothed[-1])
        return torch.stack(smoothed, -1) if smoothed else x

    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol:
        return trace.add(Smoothing(self.alpha, symbol.channels), [symbol])

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Smoothing(Recurrence):
    """The memory is the last output; before the first frame it is zero, and that frame counts in full."""

    name = "smooth"

    def __init__(self, alpha: float, channels: int) -> None:
        self.alpha = alpha
        self.channels = channels
        self.initial = torch.zeros(channels)

    def advance(
        self, rows: Float[Tensor, "M C"], span: Span, hidden: Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "M C"], Float[Tensor, "B C"]]:
        order = span.time_major
        weight = torch.where(span.index == 0, 1.0, self.alpha).unsqueeze(1)
        fresh = (rows * weight).index_select(0, order.rows)
        previous = hidden.index_select(0, order.streams)
        for now in torch.split(fresh, order.active):
            previous = now.add_(previous[: len(now)] * (1 - self.alpha))
        made = fresh.index_select(0, order.places)
        return made, last_rows(made, span, hidden)

    def describe(self) -> str:
        return f"smooth({self.alpha})"
