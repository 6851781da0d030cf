"""A step's tensors go when the step is over; the garbage collector, which may run rarely, has nothing to find."""

from __future__ import annotations

import gc

import torch
from torch import nn

from service.streaming import Ragged, convert


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(nn.functional.pad(x, (2, 0))))


def test_a_step_leaves_no_cycles() -> None:
    program = convert(nn.Sequential(Residual(), Residual()), channels=4)
    state, slots, lengths = program.new_state(slots=9), torch.arange(1, 9), torch.full((8,), 5)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            program.step(state, slots, Ragged(torch.randn(40, 4), lengths))
        assert gc.collect() == 0
    finally:
        gc.enable()
