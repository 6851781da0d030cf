"""Rows of the operator table: any module on windows, alone and as a part of a network."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from service.nn import SlidingWindow
from tests.streaming.operators import Case


class Spectrum(nn.Module):
    """Whole windows in the frequency domain: nothing that could be streamed."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x, dim=-1).abs().mean(-1)


class BothWays(nn.Module):
    """A bidirectional LSTM, of which the last `kept` frames of each window come out."""

    def __init__(self, channels: int, kept: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, 3, bidirectional=True, batch_first=True)
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.transpose(1, 2))[0].transpose(1, 2)[..., -self.kept :]


class Loudest(nn.Module):
    """One number per window."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).abs().amax(1)


class Cropped(nn.Module):
    """Leaves both ends of a stream out."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 2:-1]


class Beside(nn.Module):
    """What a module makes of windows, beside the frame at which each begins."""

    def __init__(self, windowed: nn.Module, hop: int) -> None:
        super().__init__()
        self.windowed = windowed
        self.hop = hop

    def forward(self, x: Tensor) -> Tensor:
        made = self.windowed(x)
        return torch.cat([made, x[..., :: self.hop][..., : made.shape[-1]]], 1)


def pooled(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(channels, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)
    )


@st.composite
def windows(draw: Any) -> Case:
    channels, size, hop = draw(st.integers(1, 3)), draw(st.integers(3, 12)), draw(st.integers(1, 14))
    kinds = [pooled(channels), Spectrum(), BothWays(channels, 3), Loudest()]
    windowed: nn.Module = SlidingWindow(draw(st.sampled_from(kinds)), size, hop, batch=draw(st.sampled_from([None, None, 1, 3])))
    before = draw(
        st.sampled_from(
            [
                nn.Identity(),
                nn.Identity(),
                nn.Conv1d(channels, channels, 3, 2, 1),
                nn.ZeroPad1d((2, 1)),
                nn.ConstantPad1d((1, 2), 1.5),
                Cropped(),
            ]
        )
    )
    return nn.Sequential(before, windowed, draw(st.sampled_from([nn.Identity(), nn.ReLU()]))), channels


@st.composite
def parts(draw: Any) -> Case:
    """Between convolutions, and beside what streams."""
    channels, size, hop = draw(st.integers(1, 3)), draw(st.integers(3, 12)), draw(st.integers(1, 6))
    windowed = SlidingWindow(draw(st.sampled_from([pooled(channels), Spectrum()])), size, hop)
    width = channels + (2 if isinstance(windowed.module, nn.Sequential) else channels)
    return nn.Sequential(
        nn.Conv1d(channels, channels, 3, padding=1), Beside(windowed, hop), nn.Conv1d(width, 2, 3, padding=1)
    ), channels


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "any module on windows": windows(),
    "windows as a part": parts(),
}
