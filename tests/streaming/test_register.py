"""A user's own module, streamed by the operator that its author registers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from service.streaming import NotStreamable, convert, register_streamer, verify
from service.streaming.operator import Recurrence, Window, Windowed, Windows
from service.streaming.turn import Span


class Peak(nn.Module):
    """The largest value so far, of every channel: a loop over time that cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        peaks = [x[..., 0]]
        for j in range(1, x.shape[-1]):
            peaks.append(torch.maximum(peaks[-1], x[..., j]))
        return torch.stack(peaks, -1)


class PeakStreamer(Recurrence):
    name = "peak"

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.initial = torch.full((channels,), -torch.inf)

    def advance(self, rows: Tensor, span: Span, hidden: Tensor) -> tuple[Tensor, Tensor]:
        order = span.time_major
        made = rows.index_select(0, order.rows)
        peak = hidden.index_select(0, order.streams)
        first = 0
        for active in order.active:
            now = made[first : first + active]
            peak[:active] = torch.maximum(peak[:active], now, out=now)
            first += active
        return made.index_select(0, order.places), hidden.index_copy(0, order.streams, peak)


class Slope(nn.Module):
    """Half the difference of a frame's neighbours, the ends against zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.gradient(nn.functional.pad(x, (1, 1)), dim=-1)[0][..., 1:-1]


class SlopeStreamer(Windowed):
    name = "slope"
    window = Window(stride=1, offsets=(-1, 0, 1))
    right = 1

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def compute(self, windows: Windows, out: Tensor | None) -> Tensor:
        return torch.div(windows.values[:, 2] - windows.values[:, 0], 2, out=out)


def test_modules_stream_only_once_their_streamers_are_registered() -> None:
    module = nn.Sequential(nn.Conv1d(2, 3, 5, padding=2), Slope(), Peak(), nn.Conv1d(3, 1, 4))
    with pytest.raises(NotStreamable, match=r"module '1' \(Slope\).*gradient"):
        convert(module, 2)

    register_streamer(Slope, lambda module, channels: SlopeStreamer(channels))
    register_streamer(Peak, lambda module, channels: PeakStreamer(channels))

    for seed in range(5):
        assert verify(convert(module, 2, max_step=50), module, seed=seed).bit_equal


def test_a_streamer_for_one_layout_refuses_another() -> None:
    register_streamer(Slope, lambda module, channels: SlopeStreamer(channels))

    with pytest.raises(NotStreamable, match=r"Slope of \[B, T, C\].*Its streamer takes \[B, C, T\]"):
        convert(Slope(), 2, layout="BTC")
    with pytest.raises(ValueError, match="layout is 'BCHW'"):
        register_streamer(Slope, lambda module, channels: SlopeStreamer(channels), layout="BCHW")
