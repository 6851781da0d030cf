"""Rows of the operator table: activations, norms, arithmetic and parts of channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.streaming.operators import CHANNELS, Case, Function


@st.composite
def batch_norm(draw: Any) -> Case:
    """BatchNorm in eval, dropout, PReLU."""
    channels = draw(CHANNELS)
    slopes = nn.PReLU(draw(st.sampled_from([1, channels])))
    return nn.Sequential(nn.BatchNorm1d(channels, affine=draw(st.booleans())), nn.Dropout(0.4), slopes), channels


@st.composite
def per_frame(draw: Any) -> Case:
    """Linear, LayerNorm, RMSNorm and softmax on the channels of a frame."""
    channels = draw(CHANNELS)
    linear = nn.Linear(channels, draw(st.integers(1, 5)), bias=draw(st.booleans()))
    norm = draw(st.sampled_from([nn.LayerNorm, nn.RMSNorm]))(linear.out_features)
    permuted = draw(st.booleans())

    def forward(x: Tensor) -> Tensor:
        y = norm(linear(x.permute(0, 2, 1) if permuted else x.transpose(1, 2)))
        return y.softmax(-1).transpose(-1, -2)

    return Function(forward, linear, norm), channels


ACTIVATIONS: list[nn.Module] = [
    nn.ReLU(),
    nn.LeakyReLU(0.2),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.ELU(0.7),
    nn.CELU(0.7),
    nn.SELU(),
    nn.Softplus(),
    nn.Mish(),
    nn.Hardtanh(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.ReLU6(),
    nn.LogSigmoid(),
    nn.Softsign(),
    nn.Tanhshrink(),
    nn.Softshrink(),
    nn.Hardshrink(),
    nn.Threshold(0.1, 20.0),
]


@st.composite
def activations(draw: Any) -> Case:
    """All of them side by side."""
    return Function(lambda x: torch.cat([activation(x) for activation in ACTIVATIONS], 1), *ACTIVATIONS), draw(CHANNELS)


@st.composite
def arithmetic(draw: Any) -> Case:
    channels = draw(CHANNELS)
    per_channel = torch.linspace(0.5, 2.0, channels).unsqueeze(1)
    functions = [
        lambda x: 2 - x * 3 + 1,
        lambda x: (x + per_channel) / (per_channel + 1) - 0.25,
        lambda x: per_channel / (x.abs() + 1),
        lambda x: torch.exp(-(x**2)) - torch.log1p(x.abs()),
        lambda x: x.clamp(min=-0.5, max=0.5),
    ]
    return Function(draw(st.sampled_from(functions))), channels


@st.composite
def gated(draw: Any) -> Case:
    """Parts of channels: chunk, split, slices, GLU."""
    channels = draw(st.sampled_from([1, 2, 3]))
    conv = nn.Conv1d(channels, 4, 2)

    def wavenet(x: Tensor) -> Tensor:
        a, b = conv(x).chunk(2, 1)
        return torch.tanh(a) * torch.sigmoid(b)

    functions = [
        wavenet,
        lambda x: F.glu(conv(x), 1),
        lambda x: torch.cat(conv(x).split([1, 3], 1)[::-1], 1),
        lambda x: conv(x)[:, 1:3] + conv(x)[:, ::2],
    ]
    return Function(draw(st.sampled_from(functions)), conv), channels


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "BatchNorm1d, PReLU": batch_norm(),
    "per frame": per_frame(),
    "activations": activations(),
    "arithmetic": arithmetic(),
    "gated": gated(),
}
