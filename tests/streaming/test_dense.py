"""Under `fast`, long chunks of one length are convolved densely; the outputs are the module's all the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from service.bench.engine.networks import network
from service.streaming import Program, Ragged, convert
from service.streaming.dense import AGAIN, TURNS, Dense, Trial
from service.streaming.operators.convolution import Convolution
from service.streaming.precision import Precision
from tests.streaming.operators import Case, weighted
from tests.streaming.operators_convolutions import conv1d

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def streamed(program: Program, x: torch.Tensor, chunk: int) -> torch.Tensor:
    """Every row of `x [B, C, T]` as a stream, in chunks of one length, then what is left, then the end."""
    keys, _, length = x.shape
    state, slots = program.new_state(keys + 1), torch.arange(1, keys + 1)
    made = []
    for first in range(0, length, chunk):
        part = x[:, :, first : first + chunk]
        final = torch.ones(keys, dtype=torch.bool) if first + chunk >= length else None
        values = part.transpose(1, 2).reshape(-1, x.shape[1])
        out = program.step(state, slots, Ragged(values, torch.full((keys,), part.shape[2])), final)
        made.append(out.values.view(keys, -1, program.out_channels))
    return torch.cat(made, 1).transpose(1, 2)


@settings(max_examples=60, deadline=None)
@given(case=conv1d(), chunk=st.integers(16, 60), keys=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_convolution_in_long_chunks(case: Case, chunk: int, keys: int, seed: int) -> None:
    module, channels = case
    module = weighted(nn.Sequential(module, nn.ReLU(), nn.Conv1d(module.out_channels, 2, 3, dilation=2)), seed)
    x = torch.randn(keys, channels, 8 * chunk + seed % 7 + 40, generator=torch.Generator().manual_seed(seed))

    made = streamed(convert(module, channels, numerics="fast"), x, chunk)

    with torch.no_grad():
        expected = module(x)
    assert made.shape == expected.shape
    assert (made - expected).abs().max() <= Precision.FLOAT32.tolerance * expected.abs().max()


@pytest.mark.parametrize("name", ["tcn", "strided cnn + gru", "u-net", "depthwise separable"])
def test_networks_take_the_dense_way_for_long_chunks_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    convolve = Convolution.convolve
    monkeypatch.setattr(Convolution, "convolve", lambda self, frames: used.append(len(frames)) or convolve(self, frames))
    module = network(name)
    x = torch.randn(3, 3, 1600)
    program = convert(module, 3, numerics="fast")

    short = streamed(program, x[..., :400], 12)
    assert not used
    long = streamed(program, x, 200)
    assert set(used) == {3}

    with torch.no_grad():
        for made, expected in ((short, module(x[..., :400])), (long, module(x))):
            assert (made - expected).abs().max() <= Precision.FLOAT32.tolerance * expected.abs().max()


@pytest.mark.parametrize("quicker", [False, True])
def test_the_way_that_is_quicker_more_often_is_kept(quicker: bool) -> None:
    """However slow the machine is for some rounds, and though the other way was very quick once."""
    trial, tried = Trial(), []
    while not trial.settled:
        tried.append(trial.dense)
        slow = 7.0 if 8 <= len(tried) < 14 else 0.0
        lucky = len(tried) in (AGAIN + 1, AGAIN + 2) and trial.dense is not quicker
        trial.took(0.1 if lucky else slow + (1.0 if trial.dense is quicker else 2.0))

    assert trial.dense is quicker
    assert tried[:AGAIN] == [False] * AGAIN
    assert tried[AGAIN:].count(True) == tried[AGAIN:].count(False) == TURNS


def test_exact_never_takes_it() -> None:
    assert all(step.dense is None for step in convert(network("tcn"), 3).steps)
    assert any(isinstance(step.dense, Dense) for step in convert(network("tcn"), 3, numerics="fast").steps)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_streams_of_any_age_and_phase_are_convolved_together(stride: int) -> None:
    module = nn.Conv1d(3, 4, 5, stride=stride, padding=4, dilation=3)
    program = convert(module, 3, numerics="fast")
    for ages in (*AGAIN * [[0, 0]], [0, 1], [1, 6], [2, 40]):
        state, slots = program.new_state(3), torch.tensor([2, 1])
        for store in state.stores.values():
            store.rows[store.stage_at :] = float("nan")
        x = [torch.randn(age + 600, 3) for age in ages]
        made: list[list[torch.Tensor]] = [[], []]
        for first, stop in [(None, 0), *((first, first + 60) for first in range(0, 600, 60))]:
            parts = [
                rows[: age + stop] if first is None else rows[age + first : age + stop] for rows, age in zip(x, ages, strict=True)
            ]
            lengths = torch.tensor([len(part) for part in parts])
            out = program.step(state, slots, Ragged(torch.cat(parts), lengths))
            for key, rows in enumerate(torch.split(out.values, out.lengths.tolist())):
                made[key].append(rows)
        for rows, parts in zip(x, made, strict=True):
            streamed_rows = torch.cat(parts)
            with torch.no_grad():
                expected = module(rows.t()[None])[0].t()[: len(streamed_rows)]
            torch.testing.assert_close(streamed_rows, expected, rtol=1e-4, atol=1e-4)
