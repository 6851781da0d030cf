"""Networks from signals to signals: separation, compression, synthesis. As their users write them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CumulativeNorm(nn.Module):
    """The causal norm of Conv-TasNet: statistics of all channels of all frames so far."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        _, channels, time = x.size()
        total, squares = torch.cumsum(x.sum(1), dim=1), torch.cumsum(x.pow(2).sum(1), dim=1)
        count = torch.arange(channels, channels * (time + 1), channels, device=x.device).type(x.type())
        count = count.view(1, -1).expand_as(total)
        mean = total / count
        deviation = ((squares - 2 * mean * total) / count + mean.pow(2) + 1e-2).sqrt()
        centred = x - mean.unsqueeze(1).expand_as(x)
        return centred / deviation.unsqueeze(1).expand_as(x) * self.gain.expand_as(x) + self.bias.expand_as(x)


class TasNet(nn.Module):
    """Conv-TasNet: a learned transform, a separator that makes a mask for each source, and back."""

    def __init__(self, basis: int = 8, size: int = 4, width: int = 6, sources: int = 2) -> None:
        super().__init__()
        self.sources = sources
        self.encoder = nn.Conv1d(1, basis, size, stride=size // 2, bias=False)
        self.norm = CumulativeNorm(basis)
        self.bottleneck = nn.Conv1d(basis, width, 1, bias=False)
        self.blocks = nn.ModuleList(self._block(width, 8, dilation) for _ in range(2) for dilation in (1, 2, 4))
        self.masks = nn.Conv1d(width, sources * basis, 1, bias=False)
        self.decoder = nn.ConvTranspose1d(basis, 1, size, stride=size // 2, bias=False)

    @staticmethod
    def _block(width: int, hidden: int, dilation: int) -> nn.Module:
        into = (nn.Conv1d(width, hidden, 1, bias=False), nn.PReLU(), CumulativeNorm(hidden))
        depthwise = (nn.ConstantPad1d((2 * dilation, 0), 0.0), nn.Conv1d(hidden, hidden, 3, dilation=dilation, groups=hidden))
        return nn.Sequential(*into, *depthwise, nn.PReLU(), CumulativeNorm(hidden), nn.Conv1d(hidden, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.relu(self.encoder(x))
        y = self.bottleneck(self.norm(mixed))
        for block in self.blocks:
            y = y + block(y)
        masks = torch.sigmoid(self.masks(y)).view(x.shape[0], self.sources, mixed.shape[1], -1)
        apart = mixed.unsqueeze(1) * masks
        return torch.cat([self.decoder(apart[:, source]) for source in range(self.sources)], 1)


class CausalConv(nn.Module):
    """EnCodec's: padded on the left by what the kernel reaches back, on the right up to a whole number of strides."""

    def __init__(self, before: int, width: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(before, width, size, stride))
        self.size = size
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        back = self.size - self.stride
        length = x.shape[-1]
        frames = (length - self.size + back) / self.stride + 1
        ideal = (math.ceil(frames) - 1) * self.stride + (self.size - back)
        return self.conv(F.pad(x, (back, ideal - length)))


class CausalUp(nn.Module):
    """A transposed convolution, trimmed on the right."""

    def __init__(self, before: int, width: int, size: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(before, width, size, stride)
        self.trim = size - stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        end = y.shape[-1] - self.trim
        return y[..., 0:end]


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.block = nn.Sequential(nn.ELU(), CausalConv(channels, half, 3), nn.ELU(), CausalConv(half, channels, 1))
        self.shortcut = CausalConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class SkippedLstm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(2, 0, 1)
        y, _ = self.lstm(x)
        return (y + x).permute(1, 2, 0)


class Quantized(nn.Module):
    """Every frame replaced by the nearest entry of a codebook."""

    def __init__(self, channels: int, entries: int = 6) -> None:
        super().__init__()
        self.codes = nn.Embedding(entries, channels)

    def forward(self, x: Tensor) -> Tensor:
        z = x.permute(0, 2, 1)
        codes = self.codes.weight
        apart = z.pow(2).sum(-1, keepdim=True) - 2 * z @ codes.t() + codes.pow(2).sum(1)
        return (z + (self.codes(apart.argmin(-1)) - z).detach()).permute(0, 2, 1)


def codec() -> nn.Module:
    """SEANet's encoder and decoder as EnCodec has them, a codebook between."""
    down = (
        CausalConv(1, 4, 7),
        Residual(4),
        nn.ELU(),
        CausalConv(4, 8, 4, stride=2),
        Residual(8),
        nn.ELU(),
        CausalConv(8, 16, 8, stride=4),
    )
    encoder = (*down, SkippedLstm(16), nn.ELU(), CausalConv(16, 6, 7))
    up = (nn.ELU(), CausalUp(16, 8, 8, 4), Residual(8), nn.ELU(), CausalUp(8, 4, 4, 2), Residual(4))
    return nn.Sequential(*encoder, Quantized(6), CausalConv(6, 16, 7), SkippedLstm(16), *up, nn.ELU(), CausalConv(4, 1, 7))


class ConditionedWaveNet(nn.Module):
    """Conditioned by the number of a machine in a channel, and by features of a lower rate."""

    def __init__(self, width: int = 6, layers: int = 4) -> None:
        super().__init__()
        self.into = nn.Conv1d(1, width, 1)
        self.machine = nn.Embedding(4, 3)
        self.slow = nn.Conv1d(1, 3, 4, 4)
        self.up = nn.ConvTranspose1d(3, 3, 4, 4)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**layer) for layer in range(layers))
        self.conditions = nn.ModuleList(nn.Conv1d(6, 2 * width, 1) for _ in range(layers))
        self.skips = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(width, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        sound, number = x[:, :1], x[:, 1].long()
        slow = self.up(self.slow(F.pad(sound, (0, -sound.shape[-1] % 4))))[..., : sound.shape[-1]]
        condition = torch.cat([self.machine(number).transpose(1, 2), slow], 1)
        y, total = self.into(sound), torch.zeros(1)
        for gate, conditioned, skip in zip(self.gates, self.conditions, self.skips, strict=True):
            a, b = torch.chunk(gate(F.pad(y, (gate.dilation[0], 0))) + conditioned(condition), 2, 1)  # type: ignore[union-attr,index]
            z = a.tanh() * b.sigmoid()
            total = total + skip(z)
            y = y + z
        return self.out(total)


class SpectralUNet(nn.Module):
    """Of speech enhancement: strides over frequencies, causal over time, a GRU at the bottom, a mask at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, (5, 2), (2, 1), (2, 0)), nn.BatchNorm2d(4), nn.PReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 8, (5, 2), (2, 1), (2, 0)), nn.BatchNorm2d(8), nn.PReLU())
        self.memory = nn.GRU(32, 32, batch_first=True)
        self.up_second = nn.ConvTranspose2d(16, 4, (5, 2), (2, 1), (2, 0), (1, 0))
        self.up_first = nn.ConvTranspose2d(8, 1, (5, 2), (2, 1), (2, 0), (1, 0))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = x.unsqueeze(1)
        first = self.first(F.pad(spectrum, (1, 0, 0, 0)))
        second = self.second(F.pad(first, (1, 0)))
        batch, channels, frequencies, time = second.shape
        y = self.memory(second.permute(0, 3, 1, 2).reshape(batch, time, channels * frequencies))[0]
        y = y.view(batch, time, channels, frequencies).permute(0, 2, 3, 1)
        y = F.elu(self.up_second(torch.cat([y, second], 1))[..., :-1])
        y = self.up_first(torch.cat([y, first], 1))[..., :-1]
        return (torch.sigmoid(y) * spectrum).squeeze(1)


class Res2Net(nn.Module):
    """Of ECAPA-TDNN: parts of the channels, each with the last one's result added."""

    def __init__(self, parts: int = 4, width: int = 3) -> None:
        super().__init__()
        self.width = width
        self.into = nn.Conv1d(3, parts * width, 5, padding=2)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=2, padding=2) for _ in range(parts - 1))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(parts - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, *parts = torch.split(self.into(x), self.width, 1)
        made, y = [first], torch.zeros(1)
        for conv, norm, part in zip(self.convs, self.norms, parts, strict=True):
            y = norm(F.relu(conv(y + part)))
            made.append(y)
        return torch.cat(made, 1)


class Decomposition(nn.Module):
    """Of Autoformer and DLinear: a trend, with the first and the last frame repeated by hand, and what is left of the signal."""

    def __init__(self, size: int = 5) -> None:
        super().__init__()
        self.size = size
        self.average = nn.AvgPool1d(size, 1)
        self.season, self.trend = nn.Conv1d(3, 4, 3, padding=1), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.permute(0, 2, 1)
        front = frames[:, 0:1, :].repeat(1, (self.size - 1) // 2, 1)
        end = frames[:, -1:, :].repeat(1, (self.size - 1) // 2, 1)
        mean = self.average(torch.cat([front, frames, end], dim=1).permute(0, 2, 1)).permute(0, 2, 1)
        return self.season((frames - mean).permute(0, 2, 1)) + self.trend(mean).permute(0, 2, 1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "Conv-TasNet with its causal norm": (TasNet, 1),
    "SEANet with a codebook": (codec, 1),
    "WaveNet with conditions": (ConditionedWaveNet, 2),
    "U-Net of spectra": (SpectralUNet, 16),
    "Res2Net": (Res2Net, 3),
    "DLinear's decomposition": (Decomposition, 3),
}
