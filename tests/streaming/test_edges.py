"""Where numbers are tied, stuck, signed zeros or too large, a program still gives what its module gives, however it is chunked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from service.streaming import Ragged, convert
from tests.streaming.operators import Function


def streamed(function: Callable[[Tensor], Tensor], frames: Tensor, chunk: int) -> Tensor:
    """The outputs of a stream [T, C] that is fed so many frames at a time, [M, C_out]."""
    program = convert(Function(function), frames.shape[1])
    state = program.new_state(2)
    outputs = []
    for first in range(0, len(frames), chunk):
        part = frames[first : first + chunk]
        last = torch.tensor([first + chunk >= len(frames)])
        outputs.append(program.step(state, torch.tensor([1]), Ragged(part, torch.tensor([len(part)])), last).values)
    return torch.cat(outputs)


def offline(function: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    return function(frames.t().unsqueeze(0)).squeeze(0).t().float()


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("descending", [False, True])
def test_ties_are_sorted_in_the_module_s_order(stable: bool, descending: bool) -> None:
    counts = torch.randint(-2, 3, (20, 24)).float()

    def order(x: Tensor) -> Tensor:
        places = torch.argsort(x, dim=1, descending=descending, stable=stable)
        return torch.cat([torch.sort(x, dim=1, descending=descending, stable=stable).indices, places], 1)

    for chunk in (1, 7, 20):
        assert torch.equal(streamed(order, counts, chunk), offline(order, counts))


@pytest.mark.parametrize("columns", [16, 17, 24, 33, 100, 257, 1000])
def test_the_order_of_ties_does_not_depend_on_the_number_of_rows(columns: int) -> None:
    counts = torch.randint(0, 4, (41, columns)).float()
    whole = counts.sort(1).indices

    for rows in range(1, 9):
        assert torch.equal(torch.cat([part.clone().sort(1).indices for part in counts.split(rows)]), whole)
