"""Rows of the operator table: paddings, crops, joins of branches with different lags."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from service.postprocess import Smooth
from tests.streaming.operators import CHANNELS, Case, Function


@st.composite
def padding(draw: Any) -> Case:
    left, right, value = draw(st.integers(-2, 4)), draw(st.integers(-2, 4)), draw(st.sampled_from([0.0, 0.0, 1.5]))
    channels = draw(CHANNELS)
    after: nn.Module = draw(
        st.sampled_from([nn.Identity(), nn.ReLU(), nn.MaxPool1d(2, 1, 1), nn.Conv1d(channels, 2, 3, padding=1)])
    )
    return nn.Sequential(Function(lambda x: F.pad(x, (left, right), value=value)), after), channels


@st.composite
def concatenated_padding(draw: Any) -> Case:
    """Padding written as a concatenation with constants."""
    channels, left, right = draw(CHANNELS), draw(st.integers(0, 4)), draw(st.integers(0, 4))
    conv = nn.Conv1d(channels, 2, draw(st.integers(1, 4)))
    functions = [
        lambda x: torch.cat([torch.zeros(x.shape[0], channels, left), x, x.new_zeros(1, channels, right)], -1),
        lambda x: torch.cat([torch.full((1, channels, left + 1), 2.0), x], 2),
    ]
    after = draw(st.sampled_from([nn.Identity(), conv]))
    return nn.Sequential(Function(draw(st.sampled_from(functions))), after), channels


@st.composite
def crop(draw: Any) -> Case:
    left, right, step = draw(st.integers(0, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    both = draw(st.booleans())
    channels = draw(CHANNELS)
    after: nn.Module = draw(st.sampled_from([nn.Identity(), nn.Tanh(), nn.Conv1d(channels, 2, 3, padding=2), Smooth(0.3)]))
    kept = slice(left, -right if both else None, step)
    return nn.Sequential(Function(lambda x: x[..., kept]), after), channels


@st.composite
def residual(draw: Any) -> Case:
    """Branches of different lag that meet by index."""
    channels = draw(CHANNELS)
    half, dilation = draw(st.integers(0, 3)), draw(st.integers(1, 4))
    conv = nn.Conv1d(channels, channels, 2 * half + 1, padding=half * dilation, dilation=dilation)
    join = draw(st.sampled_from([torch.add, torch.sub, torch.mul, lambda a, b: torch.cat([b, a], 1), torch.maximum]))
    return Function(lambda x: join(conv(x), x), conv), channels


@st.composite
def chomped(draw: Any) -> Case:
    """A causal residual block as TCNs write it: padding on both sides, then cut to the input's length."""
    channels, taps, dilation = draw(CHANNELS), draw(st.integers(2, 4)), draw(st.integers(1, 4))
    reach = (taps - 1) * dilation
    conv = nn.Conv1d(channels, channels, taps, padding=reach, dilation=dilation)
    by_number = draw(st.booleans())
    return Function(lambda x: x + F.relu(conv(x)[..., :-reach] if by_number else conv(x)[..., : x.shape[-1]]), conv), channels


@st.composite
def long_lag(draw: Any) -> Case:
    """A skip around a deep, strided-and-dilated branch, and one value with several readers."""
    channels = draw(CHANNELS)
    first = nn.Conv1d(channels, channels, 3, padding=1)
    deep = nn.Sequential(
        nn.Conv1d(channels, channels, 5, padding=8, dilation=4), nn.Sigmoid(), nn.Conv1d(channels, channels, 3, padding=1)
    )

    def forward(x: Tensor) -> Tensor:
        y = first(x)
        return deep(y) + y * 0.5 + F.avg_pool1d(y, 3, 1, 1) + x

    return Function(forward, first, deep), channels


@st.composite
def edge_padding(draw: Any) -> Case:
    channels, kernel = draw(CHANNELS), draw(st.integers(1, 5))
    mode = draw(st.sampled_from(["replicate", "reflect"]))
    left, right = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    conv = nn.Conv1d(channels, 2, kernel, draw(st.integers(1, 3)), draw(st.integers(0, 3)), padding_mode=mode)
    padded = Function(lambda x: F.pad(x, (left, right), mode=mode))
    shapes: list[list[nn.Module]] = [
        [conv],
        [padded],
        [padded, conv],
        [nn.Conv1d(channels, channels, 3, 2, 1), padded],
        [padded, Smooth(0.4)],
    ]
    return nn.Sequential(*draw(st.sampled_from(shapes))), channels


class Checking(nn.Module):
    """Checks the length before it works, and crops by arithmetic on it."""

    def __init__(self, least: int, multiple: int, crop: int) -> None:
        super().__init__()
        self.least = least
        self.multiple = multiple
        self.crop = crop

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim == 3, "no batch"
        assert x.shape[-1] >= self.least
        if x.size(2) % self.multiple != 0:
            raise ValueError("the length is no multiple")
        y = F.avg_pool1d(x, self.multiple)
        assert y.shape[-1] == x.shape[-1] // self.multiple
        return x[..., : x.shape[-1] - self.crop] * 2


@st.composite
def checking(draw: Any) -> Case:
    crop = draw(st.integers(0, 4))
    return Checking(draw(st.integers(crop, 9)), draw(st.integers(1, 4)), crop), draw(CHANNELS)


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "F.pad": padding(),
    "cat with constants": concatenated_padding(),
    "crop": crop(),
    "residual": residual(),
    "chomp": chomped(),
    "long lag": long_lag(),
    "checks of the length": checking(),
    "replicate and reflect padding": edge_padding(),
}
