"""No memory left for an arena to grow: it is as it was, and goes on with less."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.postprocess import Smooth
from service.streaming import Program, Ragged, convert

STREAMS = 12
SLOTS = torch.arange(1, STREAMS + 1)


@pytest.fixture
def program() -> Program:
    torch.manual_seed(0)
    layers = [nn.Conv1d(3, 3, 3, dilation=2**layer, padding=2**layer) for layer in range(3)]
    return convert(nn.Sequential(*layers, Smooth(0.3), nn.Conv1d(3, 2, 5, padding=2)), 3, max_step=32)


def chunks(each: int, seed: int) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    return Ragged(torch.randn(STREAMS * each, 3, generator=generator), torch.full((STREAMS,), each))


def no_memory(patch: pytest.MonkeyPatch, allocation: int) -> None:
    """For that allocation of a tensor by another's `new_empty`, counted from 0."""
    number, new_empty = count(), Tensor.new_empty

    def scarce(self: Tensor, *size: Any) -> Tensor:
        if next(number) == allocation:
            raise torch.OutOfMemoryError("can't allocate memory")
        return new_empty(self, *size)

    patch.setattr(Tensor, "new_empty", scarce)


@pytest.mark.parametrize("allocation", range(3))
def test_a_step_that_failed_is_taken_in_parts(program: Program, monkeypatch: pytest.MonkeyPatch, allocation: int) -> None:
    """All streams end at once, and what that flushes is more than the arena has room for."""
    plain, short = program.new_state(20), program.new_state(20)
    for state in (plain, short):
        program.step(state, SLOTS, chunks(9, 0))
    last, ends = chunks(2, 1), torch.ones(STREAMS, dtype=torch.bool)
    picture = program.checkpoint(short, SLOTS)
    with monkeypatch.context() as patch:
        no_memory(patch, allocation)
        with pytest.raises(torch.OutOfMemoryError):
            program.step(short, SLOTS, last, ends)
    program.rollback(short, picture)

    wanted = program.step(plain, SLOTS, last, ends).split()
    for place, values in enumerate(last.split()):
        out = program.step(short, SLOTS[place, None], Ragged(values, torch.tensor([2])), ends[:1])
        assert torch.equal(out.values, wanted[place])


@pytest.mark.parametrize("allocation", range(4))
def test_an_arena_that_could_not_grow_goes_on_and_grows_later(
    program: Program, monkeypatch: pytest.MonkeyPatch, allocation: int
) -> None:
    plain, grown = program.new_state(20), program.new_state(20)
    for state in (plain, grown):
        program.step(state, SLOTS, chunks(9, 0))
    with monkeypatch.context() as patch:
        no_memory(patch, len(grown.stores) + allocation)  # those before make what the new slots begin with
        with pytest.raises(torch.OutOfMemoryError):
            program.resize(grown, 50)
    assert grown.slots == 20
    for seed in (1, 2):
        out, wanted = (program.step(state, SLOTS, chunks(4, seed)).values for state in (grown, plain))
        assert torch.equal(out, wanted)
        program.resize(grown, 50)
    assert len(grown.frames) == len(grown.behind) == len(grown.hidden.popitem()[1]) == 50
