"""Four shapes of sensor networks, as ordinary PyTorch: what the engine is measured on."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from service.bench.network import Network

CHANNELS = 3


class StridedGru(nn.Module):
    """Two strided convolutions, then a GRU: one prediction of four numbers per four samples."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(CHANNELS, 32, 7, stride=2, padding=3), nn.ReLU(), nn.Conv1d(32, 64, 5, stride=2, padding=2), nn.ReLU()
        )
        self.memory = nn.GRU(64, 64, batch_first=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B 4 T4"]:
        remembered, _ = self.memory(self.front(x).transpose(1, 2))
        y: Tensor = self.head(remembered).transpose(1, 2)
        return y


class UNet(nn.Module):
    """Two scales down and up again, skips cut to the shorter length; one output channel at the rate of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv1d(CHANNELS, 16, 3, padding=1)
        self.down = nn.Conv1d(16, 32, 4, stride=2, padding=1)
        self.deeper = nn.Conv1d(32, 64, 4, stride=2, padding=1)
        self.middle = nn.Conv1d(64, 64, 3, padding=1)
        self.rise = nn.ConvTranspose1d(64, 32, 4, stride=2, padding=1)
        self.mix = nn.Conv1d(64, 32, 3, padding=1)
        self.up = nn.ConvTranspose1d(32, 16, 4, stride=2, padding=1)
        self.head = nn.Conv1d(32, 1, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B 1 T"]:
        first = torch.relu(self.into(x))
        second = torch.relu(self.down(first))
        third = torch.relu(self.middle(torch.relu(self.deeper(second))))
        y = torch.relu(self.mix(torch.cat(shortest(self.rise(third), second), 1)))
        out: Tensor = self.head(torch.cat(shortest(self.up(y), first), 1))
        return out


def shortest(a: Tensor, b: Tensor) -> list[Tensor]:
    """Both, cut to the length of the shorter one."""
    return [a[..., : b.shape[-1]], b[..., : a.shape[-1]]]


class SeparableLayer(nn.Module):
    """A dilated depthwise convolution of five taps and a mix of channels, beside the identity; output j sees no input after j."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.reach = 4 * dilation
        self.conv = nn.Conv1d(channels, channels, kernel_size=5, dilation=dilation, groups=channels)
        self.mix = nn.Conv1d(channels, channels, kernel_size=1)

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        return x + torch.relu(self.mix(self.conv(F.pad(x, (self.reach, 0)))))


class Separable(nn.Module):
    """Six depthwise-separable layers, dilations 1, 2, … 32."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.lift = nn.Conv1d(CHANNELS, width, kernel_size=1)
        self.layers = nn.Sequential(*(SeparableLayer(width, 2**layer) for layer in range(6)))
        self.head = nn.Conv1d(width, 1, kernel_size=1)

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B 1 T"]:
        y: Tensor = self.head(self.layers(self.lift(x)))
        return y


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "tcn": Network,
    "strided cnn + gru": StridedGru,
    "u-net": UNet,
    "depthwise separable": Separable,
}


def network(name: str) -> nn.Module:
    """The same weights at every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FACTORIES[name]().eval()
