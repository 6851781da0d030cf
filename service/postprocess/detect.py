"""Detection with hysteresis, per stream."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from service.streaming import register_streamer
from service.streaming.operator import Recurrence
from service.streaming.turn import Span


class Detect(nn.Module):
    """Appends one channel that is 1.0 from the first value of `channel` at or above `on` until the first one below `off`, else 0.0.

    Over `[B, C, T]`, so the output is `[B, C + 1, T]`. Raises ValueError unless `off <= on`.
    """

    def __init__(self, channel: int, on: float, off: float) -> None:
        super().__init__()
        if not off <= on:
            raise ValueError(f"on is {on} and off {off}; off must not lie above on")
        if channel < 0:
            raise ValueError(f"channel is {channel}; channels count from 0")
        self.channel = channel
        self.on = on
        self.off = off

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C+1 T"]:
        watched = x[:, self.channel]
        active = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        flags = torch.empty_like(watched)
        for j, value in enumerate(watched.unbind(-1)):
            active = (value >= self.on) | (active & ~(value < self.off))
            flags[:, j] = active
        return torch.cat([x, flags.unsqueeze(1)], 1)


class DetectStreamer(Recurrence):
    """The memory is the last flag. Between two switches nothing changes, so no loop over time is needed."""

    name = "detect"

    def __init__(self, channel: int, on: float, off: float, channels: int) -> None:
        if channel >= channels:
            raise ValueError(f"channel is {channel}; the values to watch have {channels} channels, 0 … {channels - 1}")
        self.channel = channel
        self.on = on
        self.off = off
        self.channels = channels + 1
        self.initial = torch.zeros(1)

    def advance(
        self, rows: Float[Tensor, "M C"], span: Span, hidden: Float[Tensor, "B 1"]
    ) -> tuple[Float[Tensor, "M C+1"], Float[Tensor, "B 1"]]:
        watched = rows[:, self.channel]
        flags = self._flags(watched >= self.on, watched < self.off, span, hidden)
        grown = span.lengths > 0
        last = (span.ends - 1).clamp(min=0)
        memory = torch.where(grown.unsqueeze(1), flags.index_select(0, last).unsqueeze(1), hidden)
        return torch.cat([rows, flags.unsqueeze(1)], 1), memory

    def _flags(self, on: Bool[Tensor, "M"], off: Bool[Tensor, "M"], span: Span, hidden: Float[Tensor, "B 1"]) -> Float[Tensor, "M"]:
        position: Int64[Tensor, "M"] = torch.arange(len(on), device=on.device)
        switch = torch.where(on | off, position, -1).cummax(0).values
        switched_here = switch >= span.offset.index_select(0, span.owner)
        after_switch = on.to(hidden.dtype).index_select(0, switch.clamp(min=0))
        return torch.where(switched_here, after_switch, hidden.flatten().index_select(0, span.owner))

    def describe(self) -> str:
        return f"detect({self.channel}, {self.on}, {self.off})"


register_streamer(Detect, lambda module, channels: DetectStreamer(module.channel, module.on, module.off, channels))
