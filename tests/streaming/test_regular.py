"""Rounds that are alike: what their addresses have in common is kept, and the outputs are the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from service.bench.network import Network
from service.streaming import Ragged, convert
from service.streaming.addresses import AGAIN, Regular

NETWORKS = {
    "residual tcn": Network(2, 4, 4),
    "strides": nn.Sequential(nn.Conv1d(2, 4, 5, stride=2, padding=2), nn.ReLU(), nn.Conv1d(4, 3, 3, stride=3, padding=1)),
    "pooled": nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.MaxPool1d(3, 2), nn.Conv1d(4, 1, 4, dilation=3)),
    "upsampled": nn.Sequential(nn.Conv1d(2, 4, 3, padding=2, dilation=2), nn.Upsample(scale_factor=2.0), nn.Conv1d(4, 2, 5)),
    "transposed": nn.Sequential(nn.ConvTranspose1d(2, 3, 4, stride=2), nn.Conv1d(3, 2, 3, padding=1)),
}


@pytest.fixture
def regular(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many addresses came of what was kept, call by call."""
    counts: list[int] = []
    whole = Regular.addresses

    def counted(self: Regular, *arguments: object) -> list[torch.Tensor]:
        made = whole(self, *arguments)  # type: ignore[arg-type]
        counts.append(sum(len(addresses) for addresses in made))
        return made

    monkeypatch.setattr(Regular, "addresses", counted)
    return counts


@pytest.mark.parametrize("each", [1, 6, 12, 60])
@pytest.mark.parametrize("name", NETWORKS)
def test_rounds_that_are_alike_give_the_same_bits(name: str, each: int, regular: list[int]) -> None:
    torch.manual_seed(0)
    module = NETWORKS[name].eval()
    turns = 60 if each == 1 else 14
    signals = torch.randn(5, 30 + turns * each, 2)
    program = convert(module, 2, max_step=5 * each)
    state = program.new_state(6)
    for store in state.stores.values():
        store.ring.fill_(torch.nan)
    # Streams are at different places of their rings, some of them still within their padding.
    at = [0, 6, 12, 18, 30]
    made: list[list[torch.Tensor]] = [[] for _ in signals]
    for stream, count in enumerate(at):
        fed = Ragged(signals[stream, :count], torch.tensor([count]))
        made[stream].append(program.step(state, torch.tensor([stream + 1]), fed).values)
    for turn in range(turns):
        order = torch.randperm(5) if turn % 2 else torch.arange(5)
        if turn == 7:
            program.resize(state, 9)
        if turn == 9:  # and staging areas grow, so that rings begin elsewhere
            program.rollback(state, program.checkpoint(state, order + 1))
        chunks = [signals[stream, at[stream] + turn * each : at[stream] + (turn + 1) * each] for stream in order.tolist()]
        outputs = program.step(state, order + 1, Ragged(torch.cat(chunks), torch.full((5,), each)))
        for stream, rows in zip(order.tolist(), torch.split(outputs.values, outputs.lengths.tolist()), strict=True):
            made[stream].append(rows)

    if each > 1 or name == "residual tcn":  # one frame at a time, streams do not each get an output in every round
        assert regular
    for stream, count in enumerate(at):
        whole = Ragged(signals[stream, : count + turns * each], torch.tensor([count + turns * each]))
        assert torch.equal(torch.cat(made[stream]), program.step(program.new_state(2), torch.tensor([1]), whole).values)


def test_a_shape_is_kept_when_it_keeps_coming(regular: list[int]) -> None:
    program = convert(nn.Conv1d(2, 3, 3), 2)
    state = program.new_state(3)
    for each in (1, 2, 3, 4, *[5] * (AGAIN + 2)):
        program.step(state, torch.tensor([1, 2]), Ragged(torch.randn(2 * each, 2), torch.full((2,), each)))

    assert regular == [2 * 5 * 3] * 3


def test_what_is_kept_of_many_shapes_is_bounded(monkeypatch: pytest.MonkeyPatch, regular: list[int]) -> None:
    monkeypatch.setattr("service.streaming.addresses.MOST_KEPT", 100)
    program = convert(nn.Conv1d(2, 3, 3), 2)
    group = program.steps[0].readings[0].group
    state = program.new_state(3)
    for each in (4, 5, 6, 7, 8, 40):
        for _ in range(5):
            program.step(state, torch.tensor([1, 2]), Ragged(torch.randn(2 * each, 2), torch.full((2,), each)))
            kept = [shape for shape in group._seen.values() if isinstance(shape, Regular)]
            assert sum(shape._ahead.numel() for shape in kept) == group._kept <= 100

    assert 8 * 2 * 3 in regular
    assert 40 * 2 * 3 not in regular  # more than is kept at all
