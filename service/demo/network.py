"""A small causal convolutional network that hears damaged bearings. Ordinary PyTorch: nothing in it knows of streaming."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class CausalConv1d(nn.Module):
    """A convolution whose output j sees inputs up to j·stride and none after."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, dilation=dilation)

    def forward(self, x: Float[Tensor, "B C_in T"]) -> Float[Tensor, "B C_out T_out"]:
        y: Tensor = self.conv(F.pad(x, (self.reach, 0)))
        return y


class ResidualBlock(nn.Module):
    """A dilated convolution beside the identity."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = CausalConv1d(width, width, kernel=3, dilation=dilation)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        return x + F.relu(self.norm(self.conv(x)))


class BearingNet(nn.Module):
    """The probability that a bearing is damaged, from `channels` axes of vibration at 1 kHz, 125 times a second.

    The strided stem finds the casing's ringing; two stacks of dilated convolutions, at 250 Hz and at 125 Hz, listen to the rhythm
    of the impacts. An output depends on the `receptive_field` samples that end with its own.
    """

    receptive_field = 532
    decimation = 8

    def __init__(self, channels: int = 3, width: int = 24) -> None:
        super().__init__()
        self.stem = CausalConv1d(channels, width, kernel=32, stride=4)
        self.fast = nn.Sequential(*(ResidualBlock(width, dilation) for dilation in (1, 2, 4, 8, 16)))
        self.halve = CausalConv1d(width, width, kernel=4, stride=2)
        self.slow = nn.Sequential(*(ResidualBlock(width, dilation) for dilation in (1, 2, 4, 8)))
        self.head = nn.Conv1d(width, 1, kernel_size=1)

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B 1 T_out"]:
        x = F.relu(self.stem(x))
        x = self.fast(x)
        x = F.relu(self.halve(x))
        x = self.slow(x)
        return torch.sigmoid(self.head(x))
