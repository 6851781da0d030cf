"""Rows of the operator table: what remembers."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from service.postprocess import Detect, Normalize, Smooth
from tests.streaming.operators import CHANNELS, Case, Function


class Remembering(nn.Module):
    """A recurrent module between two others, over `[B, C, T]`."""

    def __init__(self, before: nn.Module, memory: nn.RNNBase, after: nn.Module, begin: float | None) -> None:
        super().__init__()
        self.begin = begin
        self.before = before
        self.memory = memory
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        if self.memory.batch_first:
            return self.after(self.memory(y.transpose(1, 2), self._state(x.shape[0]))[0].transpose(1, 2))
        remembered, _ = self.memory(y.permute(2, 0, 1), self._state(x.size(0)))
        return self.after(remembered.permute(1, 2, 0))

    def _state(self, batch: int) -> Any:
        if self.begin is None:
            return None
        state = torch.full((self.memory.num_layers, batch, self.memory.hidden_size), self.begin)
        return (state, state + 0.1) if isinstance(self.memory, nn.LSTM) else state


@st.composite
def recurrent(draw: Any) -> Case:
    """Smoothing and detection, before, between and after convolutions."""
    channels = draw(CHANNELS)
    conv = nn.Conv1d(channels, channels, 3, draw(st.integers(1, 2)), draw(st.integers(0, 2)), draw(st.integers(1, 3)))
    smooth = Smooth(draw(st.sampled_from([0.05, 0.5, 1.0])))
    detect = Detect(draw(st.integers(0, channels - 1)), 0.2, -0.1)
    after = nn.Conv1d(channels + 1, 2, 3, padding=1)
    orders: list[list[nn.Module]] = [
        [smooth],
        [conv, smooth],
        [smooth, conv],
        [conv, detect],
        [conv, smooth, detect, after],
        [smooth, conv, Smooth(0.3), nn.Conv1d(channels, 1, 5, padding=2)],
        [Normalize([0.3] * channels, [1.5] * channels), conv, smooth, detect],
    ]
    return nn.Sequential(*draw(st.sampled_from(orders))), channels


@st.composite
def rnn(draw: Any) -> Case:
    """LSTM, GRU and RNN, before and after convolutions, batch first or not."""
    channels, hidden = draw(CHANNELS), draw(st.integers(1, 5))
    kind = draw(st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]))
    batch_first = draw(st.booleans())
    layers = draw(st.integers(1, 2))
    memory = kind(channels, hidden, layers, bias=draw(st.booleans()), batch_first=batch_first)
    before = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, channels, 3, 2, 1)]))
    after = draw(st.sampled_from([nn.Identity(), nn.Conv1d(hidden, 2, 3, padding=2, dilation=2)]))

    return Remembering(before, memory, after, draw(st.sampled_from([None, 0.0, 0.3]))), channels


@st.composite
def cumulative(draw: Any) -> Case:
    channels = draw(CHANNELS)
    before = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, channels, 3, 2, 1)]))
    after = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, 2, 5, padding=2)]))
    return nn.Sequential(before, Function(lambda x: torch.cumsum(x, -1)), after), channels


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "Smooth and Detect": recurrent(),
    "LSTM, GRU, RNN": rnn(),
    "cumsum": cumulative(),
}
