"""Rows of the operator table: convolutions, pools and what makes more of a signal."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from service.postprocess import Smooth
from tests.streaming.operators import CHANNELS, Case, Function


@st.composite
def conv1d(draw: Any) -> Case:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inward, outward = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel, dilation = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    same = draw(st.booleans())
    stride = 1 if same else draw(st.integers(1, 4))
    padding: Any = "same" if same else draw(st.integers(0, 8))
    conv = nn.Conv1d(inward, outward, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    return conv, inward


@st.composite
def depthwise(draw: Any) -> Case:
    channels = draw(CHANNELS)
    conv = nn.Conv1d(channels, channels, draw(st.integers(1, 5)), padding=draw(st.integers(0, 3)), groups=channels)
    return conv, channels


@st.composite
def strided_chain(draw: Any) -> Case:
    channels = draw(CHANNELS)
    layers = [
        nn.Conv1d(channels, channels, draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 2)))
        for _ in range(draw(st.integers(2, 3)))
    ]
    return nn.Sequential(*layers), channels


@st.composite
def average_pool(draw: Any) -> Case:
    size = draw(st.integers(1, 5))
    pool = nn.AvgPool1d(
        size,
        draw(st.integers(1, 4)),
        draw(st.integers(0, size // 2)),
        ceil_mode=draw(st.booleans()),
        count_include_pad=draw(st.booleans()),
    )
    return pool, draw(CHANNELS)


@st.composite
def max_pool(draw: Any) -> Case:
    size = draw(st.integers(1, 5))
    pool = nn.MaxPool1d(
        size, draw(st.integers(1, 4)), draw(st.integers(0, size // 2)), draw(st.integers(1, 3)), ceil_mode=draw(st.booleans())
    )
    return pool, draw(CHANNELS)


@st.composite
def conv_transpose1d(draw: Any) -> Case:
    groups = draw(st.sampled_from([1, 1, 2]))
    inward, outward = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    extra = draw(st.integers(0, max(stride, dilation) - 1))
    up = nn.ConvTranspose1d(
        inward, outward, draw(st.integers(1, 6)), stride, draw(st.integers(0, 4)), extra, groups, draw(st.booleans()), dilation
    )
    before = draw(st.sampled_from([nn.Identity(), nn.Conv1d(inward, inward, 3, 2, 1)]))
    after = draw(
        st.sampled_from([nn.Identity(), nn.Conv1d(outward, 2, 4, 3, 1), nn.Sequential(nn.ReLU(), nn.Conv1d(outward, 1, 3))])
    )
    return nn.Sequential(before, up, after), inward


@st.composite
def upsample(draw: Any) -> Case:
    channels, factor = draw(CHANNELS), draw(st.integers(1, 7))
    ways: list[nn.Module] = [
        nn.Upsample(scale_factor=factor, mode="nearest"),
        nn.Upsample(scale_factor=float(factor), mode="linear", align_corners=False),
        nn.Upsample(scale_factor=factor, mode="linear"),
        Function(lambda x: F.interpolate(x, scale_factor=(factor,), mode="nearest-exact")),
        Function(lambda x: F.interpolate(x, size=x.shape[-1] * factor, mode="linear")),
        Function(lambda x: F.interpolate(x, (factor * x.size(2),))),
    ]
    before = draw(st.sampled_from([nn.Identity(), nn.AvgPool1d(2), nn.Conv1d(channels, channels, 3, 3, 2), nn.ZeroPad1d(1)]))
    after = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, 2, 5, padding=2), nn.Conv1d(channels, 1, 3, 2), Smooth(0.2)]))
    return nn.Sequential(before, draw(st.sampled_from(ways)), after), channels


@st.composite
def hourglass(draw: Any) -> Case:
    """Down by a stride, up again, and a skip around it, cut to the shorter length."""
    channels, stride = draw(CHANNELS), draw(st.integers(2, 3))
    down = nn.Conv1d(channels, channels, 2 * stride - 1, stride, stride - 1)
    up = nn.ConvTranspose1d(channels, channels, 2 * stride, stride, draw(st.integers(0, 2)))

    def forward(x: Tensor) -> Tensor:
        y = up(torch.tanh(down(x)))
        return torch.cat([y[..., : x.shape[-1]], x[..., : y.shape[-1]]], 1)

    return Function(forward, down, up), channels


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "Conv1d": conv1d(),
    "depthwise Conv1d": depthwise(),
    "strided chain": strided_chain(),
    "AvgPool1d": average_pool(),
    "MaxPool1d": max_pool(),
    "ConvTranspose1d": conv_transpose1d(),
    "hourglass": hourglass(),
    "Upsample": upsample(),
}
