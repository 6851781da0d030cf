"""What the rows of the operator table share; a row is a strategy that draws a module with random hyperparameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

CHANNELS = st.sampled_from([1, 2, 3, 4, 6])

Case = tuple[nn.Module, int]


class Function(nn.Module):
    """A function of the input as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor], *children: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.children_used = nn.ModuleList(children)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def weighted(module: nn.Module, seed: int) -> nn.Module:
    """The module with every parameter and statistic drawn anew, so that none is a neutral 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator) * 0.5
                tensor.copy_(drawn.abs() + 0.5 if "var" in name or "scale" in name else drawn)
    return module.eval()
