"""Upsampling: torch's rounded positions, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.streaming import NotStreamable, Ragged, convert, verify
from service.streaming.operators.interpolation import ROUNDED, Interpolation
from tests.streaming.operators import Function
from tests.streaming.refusal import told


@pytest.mark.parametrize("factor", [2, 3, 7])
def test_positions_are_torchs_far_into_a_stream(factor: int) -> None:
    module = nn.Upsample(scale_factor=factor, mode="linear")

    verify(convert(module, 1), module, lengths=[20_000])


@pytest.mark.parametrize("factor", [2, 3, 5, 12])
def test_positions_are_exact_where_torchs_lose_frames(factor: int) -> None:
    index = torch.arange(50 * ROUNDED, 50 * ROUNDED + 200)

    place, weight = Interpolation(factor, 1).position(index)

    exact = (index.numpy() + 0.5) / factor - 0.5
    np.testing.assert_allclose(place.numpy() + weight.double().numpy(), exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("factor", [3, 5, 6, 9])
def test_followed_positions_never_read_beyond_the_window(factor: int) -> None:
    operator = Interpolation(factor, 1)
    index = torch.arange(ROUNDED - 100_000, ROUNDED)

    place, weight = operator.position(index)

    offset = place - index // factor
    assert int(offset.min()) >= operator.window.offsets[0]
    assert int(offset.max()) < operator.window.offsets[-1]
    assert float(weight.min()) >= 0
    assert float(weight.max()) < 1


def test_outputs_come_with_the_frame_after_them() -> None:
    program = convert(nn.Upsample(scale_factor=4, mode="linear"), 1)

    assert [program.ready(n) for n in range(5)] == [0, 0, 6, 10, 14]
    assert program.total(3) == 12


def test_a_frame_of_weight_zero_is_read_as_torch_reads_it() -> None:
    module = nn.Upsample(scale_factor=4, mode="linear")
    program = convert(module, 1)
    frames = torch.tensor([[1.0], [torch.inf], [2.0]])
    state = program.new_state(2)

    made = program.step(state, torch.tensor([1]), Ragged(frames, torch.tensor([3])), torch.tensor([True])).values

    torch.testing.assert_close(made.t(), module(frames.t()[None])[0], equal_nan=True)


class UNet(nn.Module):
    """Upsampled to the length of what was there before, where that can be halved."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] % 4 == 0
        return torch.cat([x, F.interpolate(F.avg_pool1d(x, 4), size=x.shape[-1], mode="linear")], 1)


def test_a_size_that_is_a_multiple_at_the_lengths_that_pass_is_one() -> None:
    program = convert(UNet(), 2)

    verify(program, UNet(), lengths=[4, 8, 40])
    assert not program.accepts(7)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "align_corners": (lambda x: F.interpolate(x, scale_factor=2, mode="linear", align_corners=True), "align_corners=False"),
    "fixed size": (lambda x: F.interpolate(x, size=100), "whole scale_factor"),
    "size that is no multiple": (lambda x: F.interpolate(F.avg_pool1d(x, 2), size=x.shape[-1]), "cut both to the shorter length"),
    "smaller size": (lambda x: F.interpolate(x, size=x.shape[-1] // 2), "cut both"),
    "fraction": (lambda x: F.interpolate(x, scale_factor=1.5), "service.nn.Resample"),
    "cubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), "mode='linear'"),
    "factor that torch rounds wrongly": (lambda x: F.interpolate(x, scale_factor=41), "nearest-exact"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_interpolations_are_refused_with_a_remedy(name: str) -> None:
    function, remedy = REFUSED[name]

    with pytest.raises(NotStreamable, match=r"test_interpolation\.py:") as caught:
        convert(Function(function), 2)

    assert remedy in told(caught)
