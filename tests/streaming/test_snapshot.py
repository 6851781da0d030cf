"""Freeze, thaw, checkpoint, rollback and resize: a stream's way out of the arena and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from service.postprocess import Smooth
from service.streaming import Program, Ragged, SnapshotMismatch, State, convert
from tests.streaming.networks import PaddedBlock, tcn

ONE, TWO = torch.tensor([1]), torch.tensor([2])


def feed(program: Program, state: State, slots: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    return program.step(state, slots, Ragged(frames, torch.tensor([len(frames)]))).values


@pytest.fixture
def program() -> Program:
    torch.manual_seed(0)
    return convert(nn.Sequential(tcn(PaddedBlock), Smooth(0.2)), 3)


def test_a_thawed_stream_goes_on_with_the_same_bits(program: Program) -> None:
    frames = torch.randn(90, 3)
    there, here = program.new_state(3), program.new_state(5)
    feed(program, there, ONE, frames[:50])

    program.thaw(here, TWO, program.freeze(there, ONE))

    assert program.positions(here, TWO).tolist() == [50]
    assert torch.equal(feed(program, here, TWO, frames[50:]), feed(program, there, ONE, frames[50:]))


def test_a_snapshot_is_small_and_depends_on_the_stream_alone(program: Program) -> None:
    state = program.new_state(4)
    for slot in (1, 2, 3):
        feed(program, state, torch.tensor([slot]), torch.full((200 + slot % 2, 3), 0.5))

    first, second, third = program.freeze(state, torch.tensor([1, 2, 3]))

    assert first == third != second
    assert len(first) == 24 + program.history * 3 * 4 + 4


def test_a_rollback_undoes_whatever_was_fed_and_even_an_end(program: Program) -> None:
    frames = torch.randn(80, 3)
    state = program.new_state(3)
    feed(program, state, ONE, frames[:40])
    picture = program.checkpoint(state, torch.tensor([1, 2]))
    expected = feed(program, state, ONE, frames[40:])
    program.step(state, ONE, Ragged(frames, torch.tensor([80])), torch.tensor([True]))
    feed(program, state, TWO, frames)

    program.rollback(state, picture)

    assert program.positions(state, torch.tensor([1, 2])).tolist() == [40, 0]
    assert torch.equal(feed(program, state, ONE, frames[40:]), expected)


def test_the_arena_grows_with_its_content(program: Program) -> None:
    frames = torch.randn(60, 3)
    grown, plain = program.new_state(3), program.new_state(3)
    feed(program, grown, ONE, frames[:30])
    feed(program, plain, ONE, frames[:30])

    program.resize(grown, 50)

    assert torch.equal(feed(program, grown, ONE, frames[30:]), feed(program, plain, ONE, frames[30:]))
    feed(program, grown, torch.tensor([49]), frames)
    with pytest.raises(ValueError, match="not shrink"):
        program.resize(grown, 3)


@pytest.mark.parametrize("damage", ["cut", "flipped", "grown", "other format"])
def test_a_damaged_snapshot_changes_nothing(program: Program, damage: str) -> None:
    state = program.new_state(3)
    feed(program, state, ONE, torch.randn(20, 3))
    feed(program, state, TWO, torch.randn(30, 3))
    good, before = program.freeze(state, torch.tensor([1, 2]))
    bad = {
        "cut": good[:-3],
        "flipped": good[:40] + bytes([good[40] ^ 1]) + good[41:],
        "grown": good + b"\0",
        "other format": b"\7" + good[1:],
    }[damage]

    with pytest.raises(SnapshotMismatch, match="snapshot 1 "):
        program.thaw(state, torch.tensor([1, 2]), [before, bad])

    assert program.freeze(state, torch.tensor([1, 2])) == [good, before]


def test_a_finite_receptive_field_thaws_under_other_weights() -> None:
    frames = torch.randn(40, 3)
    old, new = convert(tcn(PaddedBlock), 3), convert(tcn(PaddedBlock), 3)
    state = old.new_state(2)
    feed(old, state, ONE, frames[:30])
    fresh, whole = new.new_state(2), new.new_state(2)

    new.thaw(fresh, ONE, old.freeze(state, ONE))

    assert torch.equal(feed(new, fresh, ONE, frames[30:]), feed(new, whole, ONE, frames)[30:])
    assert old.fingerprint != new.fingerprint


def test_a_memory_thaws_only_under_the_recurrence_that_wrote_it() -> None:
    network = tcn(PaddedBlock)
    programs = [convert(nn.Sequential(network, *memory), 3) for memory in ([Smooth(0.2)], [Smooth(0.3)], [])]
    (snapshot,) = programs[0].freeze(programs[0].new_state(2), ONE)

    for other in programs[1:]:
        with pytest.raises(SnapshotMismatch, match="state fingerprint"):
            other.thaw(other.new_state(2), ONE, [snapshot])


def test_fingerprints_are_those_of_equal_programs() -> None:
    module = tcn(PaddedBlock)

    assert convert(module, 3).fingerprint == convert(module, 3).fingerprint
    assert convert(module, 3).fingerprint != convert(module, 3, numerics="fast").fingerprint
    assert convert(module, 3).state_fingerprint == convert(module, 3, numerics="fast").state_fingerprint
