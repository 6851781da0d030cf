"""Networks that say something of every frame: classes, states, forecasts. As their users write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Inception(nn.Module):
    """Of InceptionTime: kernels of three lengths and a pool, side by side behind a bottleneck."""

    def __init__(self, before: int, width: int, bottleneck: int = 4) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(before, bottleneck, 1, bias=False)
        self.convs = nn.ModuleList(nn.Conv1d(bottleneck, width, size, padding="same", bias=False) for size in (9, 5, 3))
        self.pool = nn.Sequential(nn.MaxPool1d(3, stride=1, padding=1), nn.Conv1d(before, width, 1, bias=False))
        self.norm = nn.BatchNorm1d(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bottleneck(x)
        return F.relu(self.norm(torch.cat([*(conv(y) for conv in self.convs), self.pool(x)], dim=1)))


class InceptionTime(nn.Module):
    """Six blocks, a shortcut around every three, which a ModuleDict knows by number."""

    def __init__(self, depth: int = 6, width: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Inception(3 if block == 0 else 4 * width, width) for block in range(depth))
        self.shortcuts = nn.ModuleDict()
        for block, before in ((2, 3), (5, 4 * width)):
            self.shortcuts[str(block)] = nn.Sequential(nn.Conv1d(before, 4 * width, 1), nn.BatchNorm1d(4 * width))
        self.head = nn.Conv1d(4 * width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = x
        for number, block in enumerate(self.blocks):
            x = block(x)
            if str(number) in self.shortcuts:
                x = kept = F.relu(x + self.shortcuts[str(number)](kept))
        return self.head(x)


class OmniScale(nn.Module):
    """Kernels of prime lengths, each padded to both sides."""

    def __init__(self, primes: tuple[int, ...] = (1, 2, 3, 5, 7)) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        before = 2
        for _ in range(2):
            self.layers.append(nn.ModuleList(self._scale(before, 3, size) for size in primes))
            before = 3 * len(primes)
        self.out = nn.Conv1d(before, 2, 1)

    @staticmethod
    def _scale(before: int, width: int, size: int) -> nn.Module:
        padding = nn.ConstantPad1d(((size - 1) // 2, size // 2), 0)
        return nn.Sequential(padding, nn.Conv1d(before, width, size), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([scale(x) for scale in layer], 1).relu()  # type: ignore[union-attr]
        return self.out(x)


class LstmFcn(nn.Module):
    """A recurrent branch and a convolutional one, joined frame by frame."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)
        self.drop = nn.Dropout(0.8)
        widths = ((3, 8, 7), (8, 8, 5), (8, 8, 3))
        parts = [
            (nn.Conv1d(before, width, size, padding="same"), nn.BatchNorm1d(width), nn.ReLU()) for before, width, size in widths
        ]
        self.convs = nn.Sequential(*(layer for part in parts for layer in part))
        self.out = nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        remembered = self.drop(self.lstm(x.permute(0, 2, 1))[0])
        seen = self.convs(x).permute(0, 2, 1)
        return F.log_softmax(self.out(torch.cat((remembered, seen), -1)), dim=-1).permute(0, 2, 1)


class GatedResidual(nn.Module):
    """Of a Temporal Fusion Transformer."""

    def __init__(self, width: int, context: int | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.context = None if context is None else nn.Linear(context, width, bias=False)
        self.second = nn.Linear(width, width)
        self.gate = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        y = self.first(x)
        if context is not None and self.context is not None:
            y = y + self.context(context)
        return self.norm(x + F.glu(self.gate(self.second(F.elu(y))), -1))


class FusionTransformer(nn.Module):
    """Two measured channels and one that names a mode are weighed against each other; then a memory, gated."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.measured = nn.ModuleList(nn.Linear(1, width) for _ in range(2))
        self.mode = nn.Embedding(5, width)
        self.weigh = nn.Linear(3 * width, 3)
        self.each = nn.ModuleList(GatedResidual(width) for _ in range(3))
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.gate = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.enriched = GatedResidual(width, width)
        self.quantiles = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        parts = [layer(x[..., place : place + 1]) for place, layer in enumerate(self.measured)]
        parts.append(self.mode(x[..., 2].long()))
        weights = torch.softmax(self.weigh(torch.cat(parts, -1)), -1).unsqueeze(-2)
        y = (torch.stack([layer(part) for layer, part in zip(self.each, parts, strict=True)], -1) * weights).sum(-1)
        z = self.norm(y + F.glu(self.gate(self.lstm(y)[0])))
        return self.quantiles(self.enriched(z, parts[-1])).transpose(1, 2)


class MobileNet(nn.Module):
    """The first one, in one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm1d(8), nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(*(self._block(*sizes) for sizes in ((8, 16, 1), (16, 16, 2), (16, 24, 1))))
        self.head = nn.Conv1d(24, 5, 1)

    @staticmethod
    def _block(before: int, width: int, stride: int) -> nn.Module:
        depthwise = (nn.Conv1d(before, before, 3, stride, 1, groups=before, bias=False), nn.BatchNorm1d(before))
        pointwise = (nn.Conv1d(before, width, 1, bias=False), nn.BatchNorm1d(width))
        return nn.Sequential(*depthwise, nn.ReLU(inplace=True), *pointwise, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.first(x))).softmax(dim=1)


class BandedEncoder(nn.Module):
    """Transformer layers that look 16 frames back, with sines of the time added."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.into = nn.Linear(3, width)
        layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("speeds", torch.tensor([1.0, 0.1, 0.01, 0.001]))
        self.out = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x.transpose(1, 2))
        time = y.size(1)
        angles = torch.arange(time, dtype=torch.float32, device=y.device).unsqueeze(1) * self.speeds
        y = y + torch.cat([angles.sin(), angles.cos()], -1)
        hidden = torch.full((time, time), float("-inf"))
        return self.out(self.layers(y, mask=hidden.triu(1) + hidden.tril(-16))).transpose(1, 2)


class ByName(nn.Module):
    """Layers and activations are looked up by name, results kept in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.activations = nn.ModuleDict({"relu": nn.ReLU(), "gated": nn.GLU(1)})
        self.layers = nn.ModuleDict()
        for name, width in (("first", 3), ("second", 4)):
            self.layers[name] = nn.ModuleDict({"conv": nn.Conv1d(width, 8, 3, padding=1), "norm": nn.BatchNorm1d(8)})

    def forward(self, x: Tensor) -> Tensor:
        found = {"input": x}
        for name, layer in self.layers.items():
            x = self.activations["gated"](layer["norm"](layer["conv"](x)))  # type: ignore[index]
            found[name] = x
        return self.activations["relu"](found["first"] + found["second"])


class SoundTagger(nn.Module):
    """Frames of 16 samples, their spectra by a matrix, convolutions over both, frequencies pooled away, a GRU."""

    def __init__(self) -> None:
        super().__init__()
        turns = torch.outer(torch.arange(16.0), torch.arange(8.0)) * (2 * torch.pi / 16)
        self.register_buffer("basis", torch.cat([turns.cos(), turns.sin()], 1))
        first = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((2, 1)))
        second = (nn.Conv2d(4, 6, (3, 5), padding=(1, 2)), nn.ReLU(), nn.Dropout2d(0.2), nn.AdaptiveAvgPool2d((1, None)))
        self.convs = nn.Sequential(*first, *second)
        self.memory = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        frames = x[:, 0].unfold(-1, 16, 4)
        real, imaginary = (frames @ self.basis).chunk(2, -1)
        power = torch.log1p(real.square() + imaginary.square()).transpose(1, 2).unsqueeze(1)
        return torch.sigmoid(self.memory(self.convs(power).squeeze(2).transpose(1, 2))[0]).transpose(1, 2)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "InceptionTime": (InceptionTime, 3),
    "OmniScale": (OmniScale, 2),
    "LSTM-FCN": (LstmFcn, 3),
    "Temporal Fusion Transformer": (FusionTransformer, 3),
    "MobileNet": (MobileNet, 3),
    "Transformer encoder under a band": (BandedEncoder, 3),
    "modules by name": (ByName, 3),
    "spectra into a CRNN": (SoundTagger, 1),
}
