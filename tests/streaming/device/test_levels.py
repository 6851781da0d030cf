"""How work is cut into rounds that fit, and that none is larger than it has to be."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from service.streaming import Program, Ragged, convert, verify
from service.streaming.device import StandIn, levels
from service.streaming.device.levels import Cutter
from service.streaming.turn import Turn, WarmTurn
from tests.streaming import networks


def program(module: nn.Module, numerics: str = "fast", max_step: int = 4096) -> Program:
    torch.manual_seed(1)
    return convert(module.eval(), 2, numerics=numerics, max_step=max_step, device=StandIn())


def cutter(made: Program) -> Cutter:
    assert made.cutter is not None
    return made.cutter


def turn(before: list[int], lengths: list[int], final: list[bool] | None = None) -> Turn:
    start, chunk = torch.tensor(before), torch.tensor(lengths)
    return Turn(torch.arange(1, len(before) + 1), start, start + chunk, None if final is None else torch.tensor(final))


def test_exact_has_one_level_and_fast_a_few_each_four_times_the_one_below() -> None:
    assert [level.frames for level in cutter(program(networks.DeepUNet())).levels] == [256, 1024, 4096]
    assert [level.frames for level in cutter(program(networks.DeepUNet(), "exact")).levels] == [4096]


def test_a_round_takes_the_smallest_level_that_holds_it() -> None:
    cut = cutter(program(networks.DeepUNet()))
    assert [piece.level for piece in cut.cut(turn([0, 0], [100, 156]))] == [0]
    assert [piece.level for piece in cut.cut(turn([0, 0], [1, 256]))] == [1]
    assert [piece.level for piece in cut.cut(turn([0], [4097]))] == [2, 0]


def test_a_rate_that_is_full_asks_for_a_larger_level_though_the_frames_would_fit() -> None:
    made = program(nn.Conv1d(2, 2, 4, stride=4))
    # Each stream's next frame completes a window: as many outputs as frames, four times as many as usual.
    assert [piece.level for piece in cutter(made).cut(turn([3] * 200, [1] * 200))] == [1]
    assert [piece.level for piece in cutter(made).cut(turn([4] * 200, [1] * 200))] == [0]


@pytest.mark.parametrize("network", [networks.DeepUNet, networks.autoencoder, networks.UNet])
@pytest.mark.parametrize("frames", [1, 3, 17])
def test_one_stream_fits_wherever_it_stands_and_whether_or_not_it_ends(network: type[nn.Module], frames: int) -> None:
    cut = cutter(program(network(), "exact", frames))
    for before in range(150):
        for ends in (False, True):
            (piece,) = cut.cut(turn([before], [frames], [ends]))
            assert piece.level == 0


def test_rounds_are_whole_streams_in_order_and_hold_all_frames_once() -> None:
    cut = cutter(program(networks.DeepUNet(), "exact", 50))
    lengths = [30, 0, 19, 2, 130, 50, 1, 0]
    pieces = list(cut.cut(turn([5] * 8, lengths, [True] * 8)))

    assert pieces[0].frames.start == 0
    assert all(one.frames.stop == following.frames.start for one, following in pairwise(pieces))
    assert pieces[-1].frames.stop == sum(lengths)
    fed = torch.zeros(9, dtype=torch.int64)
    for piece in pieces:
        fed.index_add_(0, piece.turn.slots, piece.turn.after - piece.turn.before)
    assert fed[1:].tolist() == lengths
    ended = [slot for piece in pieces if piece.turn.final is not None for slot in piece.turn.slots[piece.turn.final].tolist()]
    assert sorted(ended) == list(range(1, 9))


def test_rebuilding_is_cut_as_well() -> None:
    made = program(networks.DeepUNet(), "exact", 60)
    slots, frames = torch.arange(1, 41), torch.arange(40, 80)
    pieces = list(cutter(made).cut(WarmTurn(slots, frames, made.plan.warm)))

    assert len(pieces) > 1
    assert torch.equal(torch.cat([piece.turn.slots for piece in pieces]), slots)


def test_more_streams_than_a_round_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "MOST_STREAMS", 3)
    module = networks.autoencoder().eval()
    made = program(module, "exact", 500)

    assert verify(made, module, lengths=[24, 40, 8, 16, 24, 32, 40, 48]).bit_equal
    state = made.new_state(slots=12)
    made.step(state, torch.arange(1, 12), Ragged(torch.randn(44, 2), torch.full((11,), 4)))
    assert made.positions(state, torch.arange(1, 12)).tolist() == [4] * 11
