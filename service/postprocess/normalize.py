"""Per-channel standardisation with statistics computed beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalize(nn.Module):
    """`(x - mean) / sqrt(max(variance, floor))` per channel of `[B, C, T]`; `floor` keeps a constant channel from blowing up.

    `mean` and `std` have one number per channel, in the units of the input; `floor` is a variance. Raises ValueError when they do
    not fit together.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], floor: float = 1e-12) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean):
            raise ValueError(f"mean has {len(mean)} channels, std has {len(std)}; give one number per channel in both")
        if floor <= 0:
            raise ValueError(f"floor is {floor}; a variance floor is positive")
        deviation = torch.tensor(std, dtype=torch.float64)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).unsqueeze(1))
        self.register_buffer("scale", deviation.square().clamp(min=floor).rsqrt().float().unsqueeze(1))

    def forward(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        return (x - self.mean) * self.scale
