"""Rounds that are alike, one after the other, whoever takes part: the outputs are those of whole streams, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import nn

from service.bench.network import Network
from service.streaming import Ragged, convert
from service.streaming.native import torch_alone

NETWORKS = {
    "residual tcn": Network(2, 4, 4),
    "strides": nn.Sequential(nn.Conv1d(2, 4, 5, stride=2, padding=2), nn.ReLU(), nn.Conv1d(4, 3, 3, stride=3, padding=1)),
    "pooled": nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.MaxPool1d(3, 2), nn.Conv1d(4, 1, 4, dilation=3)),
    "upsampled": nn.Sequential(nn.Conv1d(2, 4, 3, padding=2, dilation=2), nn.Upsample(scale_factor=2.0), nn.Conv1d(4, 2, 5)),
    "transposed": nn.Sequential(nn.ConvTranspose1d(2, 3, 4, stride=2), nn.Conv1d(3, 2, 3, padding=1)),
}


@pytest.mark.parametrize("each", [1, 6, 12, 60])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kernels", [torch_alone, nullcontext], ids=["torch alone", "kernels"])
def test_rounds_that_are_alike_give_the_same_bits(
    name: str, each: int, kernels: Callable[[], AbstractContextManager[None]]
) -> None:
    torch.manual_seed(0)
    module = NETWORKS[name].eval()
    turns = 60 if each == 1 else 14
    signals = torch.randn(5, 30 + turns * each, 2)
    with kernels():
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

    for stream, count in enumerate(at):
        whole = Ragged(signals[stream, : count + turns * each], torch.tensor([count + turns * each]))
        assert torch.equal(torch.cat(made[stream]), program.step(program.new_state(2), torch.tensor([1]), whole).values)
