"""Whatever torch-streamer 0.0.2 streams is streamed here, padding included, which it leaves out.

One row per streamer that it registers (`torchstreamer.core`, `torchstreamer.audio`), with what it is here.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from service.nn import Resample
from service.streaming import Program, convert, verify


class Residual(nn.Module):
    """Its `Residual1d`: a network beside its input, which is cropped to what unpadded convolutions leave."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        surplus = x.shape[-1] - y.shape[-1]
        if surplus > 0:
            x = x[..., surplus // 2 : -(surplus // 2 + surplus % 2)]
        return y + x


def elementwise() -> nn.Module:
    """Its `Elementwise1dStream`: any module that maps frame to frame."""
    return nn.Sequential(
        nn.Conv1d(4, 4, 1), nn.GELU(), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(), nn.PReLU(4), nn.Sigmoid(), nn.Identity()
    )


COVERED: dict[str, list[nn.Module]] = {
    "Conv1dStream": [
        nn.Conv1d(4, 6, 5),
        nn.Conv1d(4, 6, 5, stride=3, dilation=2, groups=2),
        nn.Conv1d(4, 4, 7, padding=3),
        nn.Conv1d(4, 4, 3, padding="same", dilation=2),
        nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect"),
    ],
    "Conv1dStream, weight norm": [
        nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3, padding=1)),
        nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(4, 4, 4, 2)),
    ],
    "ConvTranspose1dStream": [
        nn.ConvTranspose1d(4, 6, 5),
        nn.ConvTranspose1d(4, 6, 5, stride=3, dilation=2, groups=2),
        nn.ConvTranspose1d(4, 4, 2, stride=5),
        nn.ConvTranspose1d(4, 4, 6, stride=4, padding=2, output_padding=1),
    ],
    "Pool1dStream": [
        nn.AvgPool1d(4),
        nn.AvgPool1d(5, 2, padding=2, ceil_mode=True),
        nn.MaxPool1d(3, 2),
        nn.MaxPool1d(5, 1, padding=2),
    ],
    "Elementwise1dStream": [elementwise()],
    "Sequential1dStream": [nn.Sequential(nn.Conv1d(4, 8, 3, 2), nn.Sequential(nn.ELU(), nn.ConvTranspose1d(8, 1, 4, 2)))],
    "Residual1dStream": [
        Residual(nn.Sequential(nn.GELU(), nn.Conv1d(4, 8, 3), nn.GELU(), nn.Conv1d(8, 4, 4, dilation=2))),
        Residual(nn.Conv1d(4, 4, 3, padding=1)),
    ],
    "ResampleStream": [Resample(3, 2), Resample(48000, 44100, window="kaiser"), Resample(2, 5, lowpass_filter_width=16)],
}


@pytest.mark.parametrize(("name", "place"), [(name, place) for name in COVERED for place in range(len(COVERED[name]))])
def test_it_is_streamed_here_with_its_padding(name: str, place: int) -> None:
    module = COVERED[name][place].eval()
    program = convert(module, 4)

    assert isinstance(program, Program)
    assert verify(program, module, lengths=[30, 31, 77, 160], seed=place).bit_equal


def test_padding_makes_as_many_outputs_as_offline() -> None:
    for modules in COVERED.values():
        for module in modules:
            program = convert(module.eval(), 4)
            assert program.total(160) == module(torch.randn(1, 4, 160)).shape[-1]
