"""More networks as users write them: what streams, and what is refused with the line and something to do instead."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from service.streaming import NotStreamable, convert, verify
from tests.streaming import networks_labels, networks_signals
from tests.streaming.operators import Function, weighted
from tests.streaming.refusal import told

NETWORKS = networks_labels.NETWORKS | networks_signals.NETWORKS


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", NETWORKS)
def test_streams(name: str) -> None:
    make, channels = NETWORKS[name]
    torch.manual_seed(2)
    module = make().eval()
    if name not in ("spectra into a CRNN", "Transformer encoder under a band"):
        module = weighted(module, seed=3)
    program = convert(module, channels, max_step=200)
    lengths = [length for length in (1, 2, 3, 8, 17, 31, 64, 65, 150) if program.accepts(length)]

    assert len(lengths) >= 5
    assert verify(program, module, lengths=lengths).bit_equal


class TimesNet(nn.Module):
    """Looks for periods in the spectrum of all of time."""

    def forward(self, x: Tensor) -> Tensor:
        strength = torch.fft.rfft(x, dim=-1).abs().mean((0, 1))
        _, periods = torch.topk(strength, 2)
        return x.reshape(x.shape[0], x.shape[1], -1, int(periods[0]))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool1d(1)
        self.excite = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 4), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _ = x.size()
        return x * self.excite(self.squeeze(x).view(batch, channels)).view(batch, channels, 1)


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        memory, made = torch.zeros(x.shape[0], 4), []
        for frame in x.unbind(-1):
            memory = self.cell(frame, memory)
            made.append(memory)
        return torch.stack(made, -1)


class Scan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        memory, made = torch.zeros(x.shape[0], 4), []
        for frame in range(x.shape[-1]):
            memory = 0.9 * memory + x[..., frame]
            made.append(memory)
        return torch.stack(made, -1)


class TableOfPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 4, 500))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[..., : x.shape[-1]]


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": x}


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "TimesNet": (TimesNet, "x.unfold(-1, size, hop) @ matrix"),
    "squeeze and excite": (SqueezeExcite, "service.nn.SlidingMean"),
    "cells in a loop": (Cells, "Use nn.LSTM, nn.GRU, cumsum or register_streamer"),
    "a scan in a loop": (Scan, "as in a loop over time"),
    "a table of positions": (TableOfPositions, "to cut a constant to it"),
    "a dictionary": (Named, "Return one tensor [B, C, T]"),
    "spectra of all of time": (lambda: Function(lambda x: torch.stft(x[:, 0], 16, return_complex=True).abs()), "unfold"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_something_to_do_instead(name: str) -> None:
    make, remedy = REFUSED[name]

    with pytest.raises(NotStreamable) as caught:
        convert(make(), 4)

    assert remedy in told(caught)
    assert "test_networks_as_written.py:" in str(caught.value) or name == "a dictionary"
