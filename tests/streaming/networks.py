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


class WaveNetLayer(nn.Module):
    """A dilated gate; one branch goes on to the next layer, one to the sum of all."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.gated = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
        self.residual = nn.Conv1d(channels, channels, 1)
        self.skip = nn.Conv1d(channels, channels, 1)
        self.dilation = dilation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        filtered, gate = self.gated(F.pad(x, (self.dilation, 0))).chunk(2, dim=1)
        y = torch.tanh(filtered) * torch.sigmoid(gate)
        return self.residual(y) + x, self.skip(y)


class WaveNet(nn.Module):
    """Two stacks of four layers; the distribution of the next sample's value."""

    def __init__(self, channels: int = 6, values: int = 5) -> None:
        super().__init__()
        self.into = nn.Conv1d(1, channels, 1)
        self.layers = nn.ModuleList(WaveNetLayer(channels, 2**layer) for _ in range(2) for layer in range(4))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(channels, channels, 1), nn.ReLU(), nn.Conv1d(channels, values, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        total: Tensor | float = 0.0
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        return F.log_softmax(self.out(total), dim=1)


class DeepUNet(nn.Module):
    """Three scales down by pooling and up by transposed convolutions; what odd lengths leave over is cropped at every skip."""

    def __init__(self, widths: tuple[int, ...] = (4, 6, 8)) -> None:
        super().__init__()
        self.down = nn.ModuleList(self._double(before, width) for before, width in zip((2, *widths), widths, strict=False))
        self.bottom = self._double(widths[-1], 2 * widths[-1])
        self.up = nn.ModuleList()
        self.mix = nn.ModuleList()
        before = 2 * widths[-1]
        for width in reversed(widths):
            self.up.append(nn.ConvTranspose1d(before, width, 2, stride=2))
            self.mix.append(self._double(2 * width, width))
            before = width
        self.head = nn.Conv1d(before, 1, 1)

    @staticmethod
    def _double(before: int, width: int) -> nn.Module:
        parts = (nn.Conv1d(before, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU(), nn.Conv1d(width, width, 3, padding=1))
        return nn.Sequential(*parts, nn.BatchNorm1d(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool1d(x, 2)
        x = self.bottom(x)
        for up, mix, skip in zip(self.up, self.mix, reversed(skips), strict=True):
            x = up(x)
            x = mix(torch.cat([skip[..., : x.shape[-1]], x], dim=1))
        return self.head(x)


class ConvLstm(nn.Module):
    """Convolutions and pools, then two layers of LSTM, then a linear map of every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv1d(3, 8, 5, padding="same"), nn.LeakyReLU(0.1), nn.MaxPool1d(2), nn.Conv1d(8, 8, 5, padding="same"), nn.ELU()
        )
        self.lstm = nn.LSTM(8, 7, num_layers=2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x).permute(0, 2, 1)
        y, (_, _) = self.lstm(y)
        return torch.sigmoid(self.head(y)).permute(0, 2, 1)


class ResidualBlock(nn.Module):
    """Of a ResNet: a shortcut, projected where stride or width change."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(before, width, 3, stride, padding=1, bias=False)
        self.second = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))
        projected = nn.Sequential(nn.Conv1d(before, width, 1, stride, bias=False), nn.BatchNorm1d(width))
        self.shortcut = projected if stride > 1 or before != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)), inplace=True)
        y = self.norms[1](self.second(y))
        y += self.shortcut(x)
        return F.relu(y)


def resnet() -> nn.Module:
    """Strides of 2 in the stem, the pool and two of three stages."""
    stem = (nn.Conv1d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.MaxPool1d(3, 2, 1))
    stages = (ResidualBlock(8, 8, 1), ResidualBlock(8, 12, 2), ResidualBlock(12, 16, 2))
    return nn.Sequential(*stem, *stages, nn.Conv1d(16, 3, 1))


def separable() -> nn.Module:
    """Depthwise and pointwise convolutions in turns, as in a MobileNet, with ReLU6 and strides."""

    def block(before: int, width: int, stride: int) -> list[nn.Module]:
        depthwise = [nn.Conv1d(before, before, 5, stride, padding=2, groups=before, bias=False), nn.BatchNorm1d(before), nn.ReLU6()]
        return [*depthwise, nn.Conv1d(before, width, 1, bias=False), nn.BatchNorm1d(width), nn.Hardswish()]

    return nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), *block(8, 12, 1), *block(12, 12, 2), *block(12, 16, 1))


def autoencoder() -> nn.Module:
    """Strided convolutions down, transposed ones with output padding up."""
    encoder = (nn.Conv1d(2, 6, 5, 2, 2), nn.GELU(), nn.Conv1d(6, 8, 5, 2, 2), nn.GELU(), nn.Conv1d(8, 3, 1))
    decoder = (nn.ConvTranspose1d(3, 8, 5, 2, 2, output_padding=1), nn.GELU(), nn.ConvTranspose1d(8, 2, 5, 2, 2, output_padding=1))
    return nn.Sequential(*encoder, *decoder, nn.Tanh())


class Conformer(nn.Module):
    """Attention to the last frames between gated convolutions, over [B, T, C] inside."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.into = nn.Conv1d(3, channels, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(channels)
        self.attend = nn.Linear(channels, 3 * channels)
        self.widen = nn.Conv1d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv1d(channels, channels, 7, groups=channels)
        self.out = nn.Conv1d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        y = self.norm(x.transpose(1, 2))
        batch, time, channels = y.shape
        q, k, v = (part.reshape(batch, time, 2, -1).transpose(1, 2) for part in self.attend(y).chunk(3, dim=-1))
        order = torch.arange(time)
        distance = order[:, None] - order[None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=(distance >= 0) & (distance < 12))
        x = x + y.transpose(1, 2).reshape(batch, time, channels).transpose(1, 2)
        y = F.glu(self.widen(x), dim=1)
        return self.out(x + F.silu(self.depthwise(F.pad(y, (6, 0)))))
