"""Small networks as users write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PaddedBlock(nn.Module):
    """A causal residual block that pads on the left."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.reach = 2 * dilation
        self.conv = nn.Conv1d(channels, channels, 3, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.conv(F.pad(x, (self.reach, 0))))


class ChompedBlock(nn.Module):
    """A causal residual block that pads on both sides and cuts the end off."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.reach = 2 * dilation
        self.conv = nn.Conv1d(channels, channels, 3, padding=self.reach, dilation=dilation)
        self.norm = nn.BatchNorm1d(channels)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.drop(self.norm(self.conv(x)[:, :, : -self.reach]))) + x


def tcn(block: type[PaddedBlock] | type[ChompedBlock], channels: int = 8, layers: int = 4) -> nn.Module:
    """Three input channels, dilations 1, 2, 4, …, one output channel."""
    blocks = [block(channels, 2**layer) for layer in range(layers)]
    return nn.Sequential(nn.Conv1d(3, channels, 1), *blocks, nn.Conv1d(channels, 1, 1)).eval()


class UNet(nn.Module):
    """Two scales down by strides and a skip around them, cut to the shorter length."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.inner = nn.Conv1d(channels, channels, 5, padding=2)
        self.into = nn.Conv1d(2, channels, 3, padding=1)
        self.out = nn.Conv1d(2 * channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.elu(self.into(x))
        deep = torch.sigmoid(self.inner(skip))[..., 2:]
        skip = skip[..., : deep.shape[-1]]
        assert skip.shape[1] == deep.shape[1]
        return self.out(torch.cat([skip, deep], 1))


class StridedWithMemory(nn.Module):
    """Strides, pools and per-frame layers."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(3, 6, 7, 2, 3), nn.BatchNorm1d(6), nn.SiLU(), nn.MaxPool1d(3, 2, 1))
        self.mix = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.depthwise = nn.Conv1d(6, 6, 3, padding=1, groups=6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.front(x)
        z = self.norm(self.mix(y.transpose(1, 2))).transpose(1, 2)
        return self.depthwise(F.gelu(z)) + y
