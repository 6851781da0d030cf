"""The network that every bench runs: eight dilated convolutions, as sensor networks have them. Ordinary PyTorch.

A peer's own environment loads this file by its path, so it imports nothing of penstock.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class CausalLayer(nn.Module):
    """A dilated convolution of three taps beside the identity; output j sees no input after j."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.reach = 2 * dilation
        self.conv = nn.Conv1d(channels, channels, kernel_size=3, dilation=dilation)

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        return x + torch.relu(self.conv(F.pad(x, (self.reach, 0))))


class Network(nn.Module):
    """A residual temporal convolutional network: dilations 1, 2, … 128, one output channel at the rate of the input.

    An output depends on the `receptive_field` samples that end with its own.
    """

    def __init__(self, channels: int = 3, width: int = 32, layers: int = 8) -> None:
        super().__init__()
        dilations = [2**layer for layer in range(layers)]
        self.receptive_field = 1 + 2 * sum(dilations)
        self.lift = nn.Conv1d(channels, width, kernel_size=1)
        self.layers = nn.Sequential(*(CausalLayer(width, dilation) for dilation in dilations))
        self.head = nn.Conv1d(width, 1, kernel_size=1)

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B 1 T"]:
        y: Tensor = self.head(self.layers(self.lift(x)))
        return y
