"""Arguments of a step, ends of streams, and what a step leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from service.streaming import Program, Ragged, StreamLengthError, convert


@pytest.fixture
def program() -> Program:
    torch.manual_seed(0)
    return convert(nn.Conv1d(2, 3, 4, stride=2, padding=1), 2)


def chunks(*lengths: int, channels: int = 2) -> Ragged:
    return Ragged(torch.randn(sum(lengths), channels), torch.tensor(lengths))


WRONG = {
    "slots repeat": (torch.tensor([1, 1]), chunks(1, 1), None, r"slots\[1\] repeats slot 1"),
    "dummy slot": (torch.tensor([1, 0]), chunks(1, 1), None, r"slots\[1\] is 0"),
    "slot beyond": (torch.tensor([7]), chunks(1), None, r"slots\[0\] is 7"),
    "slots of floats": (torch.tensor([1.0]), chunks(1), None, "slots is torch.float32"),
    "slots too few": (torch.tensor([1]), chunks(1, 1), None, "lengths has 2 rows, slots has 1"),
    "other channels": (torch.tensor([1]), chunks(1, channels=3), None, r"takes \[N, 2\]"),
    "doubles": (torch.tensor([1]), Ragged(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([1])), None, "torch.float64"),
    "sum": (torch.tensor([1]), Ragged(torch.zeros(3, 2), torch.tensor([2])), None, "sum to 2; values has 3"),
    "negative": (torch.tensor([1, 2]), Ragged(torch.zeros(1, 2), torch.tensor([2, -1])), None, r"lengths\[1\] is -1"),
    "final of integers": (torch.tensor([1]), chunks(1), torch.tensor([1]), "final is torch.int64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_value_errors_that_say_which(program: Program, name: str) -> None:
    slots, given, final, message = WRONG[name]

    with pytest.raises(ValueError, match=message):
        program.step(program.new_state(4), slots, given, final)


def test_a_state_of_another_program_is_refused(program: Program) -> None:
    other = convert(nn.Conv1d(2, 3, 4, stride=2, padding=1), 2)

    with pytest.raises(ValueError, match="state belongs to program"):
        program.step(other.new_state(4), torch.tensor([1]), chunks(1))


def test_a_state_for_another_device_or_other_threads_is_refused(program: Program) -> None:
    with pytest.raises(ValueError, match="device is 'meta'; this program computes on 'cpu'"):
        program.new_state(4, device="meta")

    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ValueError, match="set_num_threads before convert"):
            program.new_state(4)
    finally:
        torch.set_num_threads(threads)


def test_an_end_too_early_names_the_slots_and_changes_nothing(program: Program) -> None:
    state = program.new_state(4)
    program.step(state, torch.tensor([2, 3]), chunks(1, 5))

    with pytest.raises(StreamLengthError, match=r"\[1\] frames") as caught:
        program.step(state, torch.tensor([2, 3]), chunks(0, 1), torch.tensor([True, True]))

    assert caught.value.slots == (2,)
    assert program.positions(state, torch.tensor([2, 3])).tolist() == [1, 5]
    assert not program.accepts(1)
    assert program.accepts(torch.tensor([1, 2])).tolist() == [False, True]


def test_an_end_resets_the_slot(program: Program) -> None:
    state = program.new_state(3)
    frames = chunks(9)
    first = program.step(state, torch.tensor([1]), frames, torch.tensor([True]))

    assert program.positions(state, torch.tensor([1])).tolist() == [0]
    second = program.step(state, torch.tensor([1]), frames, torch.tensor([True]))
    assert torch.equal(first.values, second.values)


def test_outputs_come_as_soon_as_they_are_ready_and_say_where_they_start(program: Program) -> None:
    state = program.new_state(2)
    counts, starts = [], []
    for _ in range(8):
        made = program.step(state, torch.tensor([1]), chunks(1))
        counts.append(int(made.lengths))
        assert made.start is not None
        starts.append(int(made.start))

    assert counts == [0, 0, 1, 0, 1, 0, 1, 0]
    assert starts == [0, 0, 0, 1, 1, 2, 2, 3]
    assert [program.ready(n) for n in range(9)] == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert program.ready(torch.tensor([8, 0])).tolist() == [3, 0]


def test_nothing_to_do_is_done(program: Program) -> None:
    state = program.new_state(3)

    empty = program.step(state, torch.tensor([], dtype=torch.int64), Ragged(torch.empty(0, 2), torch.tensor([], dtype=torch.int64)))
    idle = program.step(state, torch.tensor([1, 2]), chunks(0, 0))
    ended = program.step(state, torch.tensor([1, 2]), chunks(0, 0), torch.tensor([True, False]))

    assert [len(made.values) for made in (empty, idle, ended)] == [0, 0, 0]
    assert program.freeze(state, torch.tensor([], dtype=torch.int64)) == []


GOING_ON = {
    "identity": nn.Identity(),
    "convolution": nn.Conv1d(2, 2, 3, padding=1),
    "convolution and activation": nn.Sequential(nn.Conv1d(2, 2, 3), nn.ReLU()),
    "held": nn.Sequential(nn.Identity(), nn.Upsample(scale_factor=3.0), nn.Identity()),
    "transposed": nn.ConvTranspose1d(2, 2, 2, stride=2),
    "pooled": nn.MaxPool1d(2, 1),
    "normed": nn.Sequential(nn.BatchNorm1d(2), nn.Identity()),
}


@pytest.mark.parametrize("name", GOING_ON)
@pytest.mark.parametrize("frames", [1, 2, 6])
def test_outputs_stay_as_they_are_when_the_program_goes_on(name: str, frames: int) -> None:
    # Of some sizes a view has as many bytes as the memory that it shows a part of.
    for max_step in range(1, 9):
        program = convert(GOING_ON[name].eval(), 2, max_step=max_step)
        state = program.new_state(2)
        made, kept = [], []
        for _ in range(4):
            given = chunks(frames)
            made.append(program.step(state, torch.tensor([1]), given).values)
            kept.append(made[-1].clone())
            given.values.fill_(torch.nan)

        assert all(torch.equal(values, before) for values, before in zip(made, kept, strict=True))


def test_a_step_longer_than_max_step_gives_the_same_bits() -> None:
    module = nn.Sequential(nn.Conv1d(2, 4, 5, padding=2), nn.ReLU(), nn.Conv1d(4, 1, 3, 2))
    frames = chunks(100, 0, 3, 57, 0)
    slots = torch.tensor([4, 2, 1, 3, 5])
    final = torch.tensor([True, False, True, False, True])
    whole = convert(module, 2, max_step=1000)
    expected = whole.step(whole.new_state(6), slots, frames, final)

    for max_step in (1, 7, 20, 80, 160):
        program = convert(module, 2, max_step=max_step)
        state = program.new_state(6)
        made = program.step(state, slots, frames, final)

        assert torch.equal(made.values, expected.values)
        assert torch.equal(made.lengths, expected.lengths)
        assert program.positions(state, slots).tolist() == [0, 0, 0, 57, 0]
