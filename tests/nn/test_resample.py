"""Resampling: the formula, how many outputs there are, and when they come."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from service.nn import Resample
from service.streaming import Ragged, convert, verify

RATES = [(3, 2), (2, 3), (5, 4), (10, 1), (1, 10), (441, 160), (7, 3)]


def resampled(signal: np.ndarray, original: int, new: int, zeros: int, rolloff: float, window: str, beta: float) -> np.ndarray:
    """`y(j / new) = Σ x(i / original) · sinc(f·t) · window(t) · f / original`, term by term."""
    cutoff = min(original, new) * rolloff
    count = math.ceil(new * len(signal) / original)
    t = (np.arange(len(signal)) / original - np.arange(count)[:, None] / new) * cutoff
    within = np.clip(t / zeros, -1, 1)
    taper = np.cos(math.pi * within / 2) ** 2
    if window == "kaiser":
        taper = np.i0(beta * np.sqrt(1 - within**2)) / np.i0(beta)
    terms = np.where(np.abs(t) < zeros, signal * np.sinc(t) * taper * cutoff / original, 0.0)
    return np.asarray(terms.sum(1))


@pytest.mark.parametrize("window", ["hann", "kaiser"])
@pytest.mark.parametrize(("original", "new"), RATES)
def test_the_formula_is_the_windowed_sinc(original: int, new: int, window: str) -> None:
    for length, zeros, rolloff, beta in [(1, 6, 0.99, 14.77), (2, 3, 0.9, 8.0), (57, 6, 0.99, 14.77), (120, 16, 0.8, 5.0)]:
        signal = np.random.default_rng(length).standard_normal(length).astype(np.float32)

        made = Resample(original, new, zeros, rolloff, window, beta)(torch.from_numpy(signal).view(1, 1, -1))

        expected = resampled(signal, original, new, zeros, rolloff, window, beta)
        np.testing.assert_allclose(made.flatten().numpy(), expected, atol=2e-6)


def test_a_tone_below_the_cutoff_keeps_its_shape_and_one_above_is_removed() -> None:
    time = torch.arange(4000) / 1000

    for hertz, kept in [(20, 1.0), (190, 0.0)]:
        made = Resample(1000, 250, lowpass_filter_width=32)(torch.sin(2 * math.pi * hertz * time).view(1, 1, -1)).flatten()
        expected = kept * torch.sin(2 * math.pi * hertz * torch.arange(1000) / 250)
        assert (made - expected)[100:-100].abs().max() < 0.01


@pytest.mark.parametrize(("original", "new"), RATES)
def test_streams_at_every_rate(original: int, new: int) -> None:
    module = nn.Sequential(Resample(original * 3, new * 3), nn.Conv1d(2, 1, 3, padding=1))
    program = convert(module, 2)

    verified = verify(program, module, lengths=[1, original, 2 * original + 1, 300], seed=original)

    assert verified.bit_equal
    assert program.decimation == original / new
    assert program.receptive_field is not None


def test_equal_rates_change_nothing() -> None:
    assert convert(nn.Sequential(Resample(50, 50), nn.ReLU()), 1).delay == 0
    assert torch.equal(Resample(7, 7)(torch.ones(1, 1, 3)), torch.ones(1, 1, 3))


def test_the_last_outputs_come_with_the_end() -> None:
    program = convert(Resample(3, 2), 1)
    state, slots, samples = program.new_state(2), torch.tensor([1]), torch.randn(31, 1)

    before = program.step(state, slots, Ragged(samples, torch.tensor([31])))
    after = program.step(state, slots, Ragged(samples[:0], torch.tensor([0])), torch.tensor([True]))

    assert len(before.values) + len(after.values) == 21
    torch.testing.assert_close(torch.cat([before.values, after.values]).t().unsqueeze(0), Resample(3, 2)(samples.t().unsqueeze(0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "original is 0"),
        ((1, -2), "new -2"),
        ((1.5, 1), "original is 1.5"),
        ((3, 2, 0), "lowpass_filter_width is 0"),
        ((3, 2, 6, 0.0), "rolloff 0.0"),
        ((3, 2, 6, 0.9, "hamming"), "'hamming'"),
    ],
)
def test_a_filter_that_does_not_exist_is_refused(arguments: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Resample(*arguments)


@pytest.mark.parametrize(("original", "new"), RATES)
def test_an_output_comes_with_the_last_frame_that_it_depends_on(original: int, new: int) -> None:
    module = Resample(original, new, window="kaiser")
    program = convert(module, 1)
    samples = torch.randn(1, 1, 3 * original + 200)
    outputs = module(samples)

    for fed in range(20, 3 * original + 100, 7):
        changed = samples.clone()
        changed[..., fed:] = 1e3
        same = (module(changed) - outputs).abs().flatten() < 1e-4
        certain = int((~same).nonzero()[0])
        # One frame later at most: the window's end is that of the phase which looks furthest.
        assert certain - -(-new // original) <= program.ready(fed) <= certain
