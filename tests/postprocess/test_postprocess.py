"""Smoothing, detection and normalisation: what they mean offline, and that their memory is a stream's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from service.postprocess import Detect, Normalize, Smooth
from service.streaming import NotStreamable, Ragged, convert, verify


def test_smooth_begins_with_the_first_value_and_forgets_geometrically() -> None:
    smoothed = Smooth(0.25)(torch.tensor([[[4.0, 0.0, 0.0]]]))

    assert smoothed.flatten().tolist() == [4.0, 3.0, 2.25]


def test_detect_holds_between_its_thresholds() -> None:
    values = torch.tensor([[[0.0, 0.9, 0.6, 0.5, 0.4, 0.6, 0.8, 0.1]]])

    detected = Detect(0, on=0.8, off=0.5)(values)

    assert torch.equal(detected[:, :1], values)
    assert detected[0, 1].tolist() == [0, 1, 1, 1, 0, 0, 1, 0]


def test_normalize_has_a_floor_for_a_constant_channel() -> None:
    normalized = Normalize([1.0, 5.0], [2.0, 0.0], floor=0.25)(torch.tensor([[[3.0], [5.5]]]))

    assert normalized.flatten().tolist() == [1.0, 1.0]


@settings(deadline=None)
@given(
    alpha=st.floats(0.01, 1.0),
    channels=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_streams_with_the_same_bits_in_every_chunking(alpha: float, channels: int, lengths: list[int], seed: int) -> None:
    module = nn.Sequential(Smooth(alpha), Detect(channels - 1, 0.1, -0.1))

    assert verify(convert(module, channels), module, lengths=lengths, seed=seed).bit_equal


def test_an_active_detection_survives_freeze_and_thaw() -> None:
    program = convert(Detect(0, on=0.8, off=0.5), 1)
    state = program.new_state(3)
    program.step(state, torch.tensor([1]), Ragged(torch.tensor([[0.9]]), torch.tensor([1])))

    program.thaw(state, torch.tensor([2]), program.freeze(state, torch.tensor([1])))
    made = program.step(state, torch.tensor([2, 1]), Ragged(torch.tensor([[0.6], [0.4]]), torch.tensor([1, 1])))

    assert made.values[:, 1].tolist() == [1.0, 0.0]


def test_nan_neither_begins_nor_ends_a_detection() -> None:
    values = torch.tensor([[[float("nan"), 0.9, float("nan"), 0.1]]])

    assert Detect(0, on=0.8, off=0.5)(values)[0, 1].tolist() == [0, 1, 1, 0]


def test_a_channel_that_is_not_there_is_refused() -> None:
    with pytest.raises(NotStreamable, match="channel is 2; the values to watch have 2 channels"):
        convert(Detect(2, on=0.5, off=0.4), 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Smooth(0.0), "alpha is 0.0"),
        (lambda: Smooth(1.5), "alpha is 1.5"),
        (lambda: Detect(0, on=0.5, off=0.8), "off must not lie above on"),
        (lambda: Detect(-1, on=0.5, off=0.4), "channel is -1"),
        (lambda: Normalize([0.0], [1.0, 2.0]), "mean has 1 channels, std has 2"),
        (lambda: Normalize([0.0], [1.0], floor=0.0), "floor is 0.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
