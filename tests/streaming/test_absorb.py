"""Chunks that are absorbed: the state is the one that stepping leaves, and nothing is computed before it is needed."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.postprocess import Smooth
from service.streaming import Program, Ragged, State, StreamLengthError, convert
from service.streaming import program as module
from tests.streaming.networks import PaddedBlock, UNet, tcn

CHANNELS = {"TCN": 3, "U-Net": 2, "recurrent": 3}
SLOTS = torch.tensor([3, 1, 4])


@cache
def made(name: str) -> Program:
    torch.manual_seed(0)
    network = {"TCN": tcn(PaddedBlock), "U-Net": UNet(), "recurrent": nn.Sequential(tcn(PaddedBlock), Smooth(0.2))}[name]
    return convert(network, CHANNELS[name], max_step=50)


def chunks(program: Program, lengths: list[int], seed: int = 0) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    return Ragged(torch.randn(sum(lengths), program.channels, generator=generator), torch.tensor(lengths))


def both(program: Program) -> tuple[State, State]:
    return program.new_state(6), program.new_state(6)


@pytest.mark.parametrize("name", CHANNELS)
@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.lists(st.integers(0, 90), min_size=3, max_size=3), min_size=1, max_size=4), more=st.integers(0, 40))
def test_streams_go_on_from_it_as_if_it_had_been_stepped(name: str, lengths: list[list[int]], more: int) -> None:
    program = made(name)
    stepped, absorbed = both(program)
    for seed, some in enumerate(lengths):
        program.step(stepped, SLOTS, chunks(program, some, seed))
        program.absorb(absorbed, SLOTS, chunks(program, some, seed))

    assert program.positions(absorbed, SLOTS).tolist() == [sum(each) for each in zip(*lengths, strict=True)]
    assert program.freeze(absorbed, SLOTS) == program.freeze(stepped, SLOTS)
    last = chunks(program, [more, 0, 1], 99)
    out, wanted = (program.step(state, SLOTS, last) for state in (absorbed, stepped))
    assert torch.equal(out.values, wanted.values)
    assert torch.equal(out.start, wanted.start)


@pytest.mark.parametrize("name", CHANNELS)
def test_a_stream_that_ends_leaves_its_slot_to_a_new_one(name: str) -> None:
    program = made(name)
    fresh, absorbed = both(program)
    length = next(length for length in range(60, 90) if program.accepts(length))
    program.absorb(absorbed, SLOTS, chunks(program, [length, 5, 6]), torch.tensor([True, False, False]))

    assert program.positions(absorbed, SLOTS).tolist() == [0, 5, 6]
    one = chunks(program, [30], 1)
    out, wanted = (program.step(state, SLOTS[:1], one).values for state in (absorbed, fresh))
    assert torch.equal(out, wanted)


def test_it_refuses_what_a_step_refuses_and_nothing_has_changed() -> None:
    program = made("U-Net")
    fed, refusing = both(program)
    for state in (fed, refusing):
        program.step(state, SLOTS, chunks(program, [40, 1, 42]))
    illegal = next(length for length in range(1, 90) if not program.accepts(1 + length))
    with pytest.raises(StreamLengthError):
        program.absorb(refusing, SLOTS, chunks(program, [4, illegal, 2]), torch.tensor([False, True, False]))
    with pytest.raises(ValueError, match="lengths sum to"):
        program.absorb(refusing, SLOTS, Ragged(torch.zeros(7, program.channels), torch.tensor([1, 2, 3])))
    assert not refusing.behind.any()
    assert program.freeze(refusing, SLOTS) == program.freeze(fed, SLOTS)
    out, wanted = (program.step(state, SLOTS, chunks(program, [9, 8, 7], 1)).values for state in (refusing, fed))
    assert torch.equal(out, wanted)


@pytest.mark.parametrize("lying", ["across", "apart", "odd"])
def test_chunks_may_lie_in_memory_as_they_do_for_a_step(lying: str) -> None:
    """Rows of 16 bytes are copied as one number, which needs them one after the other, at a multiple of 16."""
    program = convert(nn.Conv1d(4, 2, 5), 4)
    plain = chunks(program, [4, 3, 2]).values
    memory = bytearray(b"HEAD" + plain.numpy().tobytes())
    values = {
        "across": plain.t().contiguous().t(),
        "apart": torch.cat([plain, plain], 1)[:, :4],
        "odd": torch.frombuffer(memory, dtype=torch.float32, offset=4).view(plain.shape),
    }[lying]
    stepped, absorbed = both(program)
    program.step(stepped, SLOTS, Ragged(plain, torch.tensor([4, 3, 2])))
    program.absorb(absorbed, SLOTS, Ragged(values, torch.tensor([4, 3, 2])))
    assert program.freeze(absorbed, SLOTS) == program.freeze(stepped, SLOTS)


@pytest.mark.parametrize("name", CHANNELS)
def test_streams_catch_up_when_they_are_stepped_and_not_before(name: str) -> None:
    """Some of those that are behind, in an arena that grows meanwhile."""
    program = made(name)
    stepped, absorbed = both(program)
    program.step(stepped, SLOTS, chunks(program, [60, 70, 80]))
    program.absorb(absorbed, SLOTS, chunks(program, [60, 70, 80]))
    for place, slot in enumerate(SLOTS):
        one = chunks(program, [5 + place], place)
        out, wanted = (program.step(state, slot[None], one).values for state in (absorbed, stepped))
        assert torch.equal(out, wanted)
        program.resize(absorbed, 7 + place)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_streams_of_any_age_catch_up(stride: int) -> None:
    """Streams that are all as old are rebuilt alike, by addresses that are kept; one frame more may change them."""
    torch.manual_seed(0)
    program = convert(nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 3, 4, stride=stride, dilation=2)), 2)
    for age in (*range(1, 30), *range(30, 1, -1)):
        stepped, absorbed = both(program)
        program.step(stepped, SLOTS, chunks(program, [age] * 3))
        program.absorb(absorbed, SLOTS, chunks(program, [age] * 3))
        for seed in (1, 2):
            out, wanted = (program.step(state, SLOTS, chunks(program, [6] * 3, seed)).values for state in (absorbed, stepped))
            assert torch.equal(out, wanted)


def test_few_streams_at_a_time_catch_up_where_a_recurrence_comes_first() -> None:
    """It is what the recurrence put out that is read then; the input has no history."""
    network = nn.Sequential(Smooth(0.2), nn.Conv1d(2, 3, 33), nn.ReLU(), nn.Conv1d(3, 1, 33))
    program = convert(network, 2, max_step=100)
    state, slots = program.new_state(31), torch.arange(1, 31)
    program.step(state, slots, chunks(program, [70] * 30))
    room = {index: store.staged for index, store in state.stores.items()}
    program.thaw(state, slots, program.freeze(state, slots))
    program.step(state, slots, chunks(program, [1] * 30))
    assert {index: store.staged for index, store in state.stores.items()} == room


def test_a_stream_that_could_not_be_computed_is_computed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory, for one; the caller feeds fewer streams at a time, and no ring holds what it held before."""
    program = made("TCN")
    stepped, absorbed = both(program)
    some, more = chunks(program, [60, 70, 80]), chunks(program, [2, 2, 2], 1)
    program.step(stepped, SLOTS, some)
    program.absorb(absorbed, SLOTS, some)
    with monkeypatch.context() as patch:
        patch.setattr(module, "run", fails)
        with pytest.raises(MemoryError):
            program.step(absorbed, SLOTS, more)

    assert torch.equal(program.step(absorbed, SLOTS, more).values, program.step(stepped, SLOTS, more).values)


def fails(*_: Any) -> Tensor:
    raise MemoryError
