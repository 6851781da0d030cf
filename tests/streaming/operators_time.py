"""Rows of the operator table: modules of our own over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from service.nn import CausalAttention, ExponentialSmoothing, Resample, SlidingMax, SlidingMean, SlidingMin
from tests.streaming.operators import CHANNELS, Case, Function


class Turned(nn.Module):
    """A module over `[B, T, C]` among modules over `[B, C, T]`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


def surrounded(draw: Any, kind: Any, channels: int, *arguments: Any, **options: Any) -> nn.Module:
    """The module in one of its layouts, behind and before others, of another rate or padded."""
    inner = Turned(kind(*arguments, layout="BTC", **options)) if draw(st.booleans()) else kind(*arguments, **options)
    before = draw(
        st.sampled_from(
            [
                nn.Identity(),
                nn.Identity(),
                nn.Conv1d(channels, channels, 3, 2, 1),
                nn.ZeroPad1d((2, 1)),
                nn.ConstantPad1d((2, 1), 1.5),
            ]
        )
    )
    after = draw(
        st.sampled_from([nn.Identity(), nn.Identity(), nn.Tanh(), nn.Conv1d(channels, 2, 4, padding=2), ExponentialSmoothing(0.3)])
    )
    return nn.Sequential(before, inner, after)


@st.composite
def sliding(draw: Any) -> Case:
    channels = draw(CHANNELS)
    kind = draw(st.sampled_from([SlidingMean, SlidingMean, SlidingMax, SlidingMin]))
    return surrounded(draw, kind, channels, draw(st.one_of(st.integers(1, 12), st.integers(13, 60)))), channels


@st.composite
def smoothing(draw: Any) -> Case:
    channels = draw(CHANNELS)
    return surrounded(draw, ExponentialSmoothing, channels, draw(st.sampled_from([0.05, 0.5, 1.0]))), channels


@st.composite
def resampling(draw: Any) -> Case:
    channels = draw(CHANNELS)
    options = {"window": draw(st.sampled_from(["hann", "kaiser"])), "lowpass_filter_width": draw(st.sampled_from([1, 2, 6]))}
    rates = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return surrounded(draw, Resample, channels, *rates, rolloff=draw(st.sampled_from([0.5, 0.99])), **options), channels


@st.composite
def attention(draw: Any) -> Case:
    heads = draw(st.integers(1, 3))
    channels = 2 * heads * draw(st.integers(1, 3))
    window = draw(st.one_of(st.integers(1, 12), st.integers(13, 40)))
    module = surrounded(draw, CausalAttention, channels, channels, heads, window, draw(st.booleans()), draw(st.booleans()))
    # Bounded inputs: a softmax of large scores multiplies the rounding errors of whatever made them, offline as well.
    return nn.Sequential(nn.Tanh(), *module[:1], nn.Tanh(), *module[1:]), channels


@st.composite
def accumulations(draw: Any) -> Case:
    channels = draw(CHANNELS)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.cumsum(x, -1),
        lambda x: x.cumprod(2),
        lambda x: x.cummax(-1).values + torch.cummin(x, dim=2)[0],
        lambda x: torch.logcumsumexp(x, dim=-1),
        lambda x: x.transpose(1, 2).cumsum(1).transpose(1, 2),
    ]
    before = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, channels, 3, 2, 1)]))
    after = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, 2, 5, padding=2)]))
    return nn.Sequential(before, Function(draw(st.sampled_from(functions))), after), channels


@st.composite
def differences(draw: Any) -> Case:
    channels, n = draw(CHANNELS), draw(st.integers(1, 3))
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.diff(x, n),
        lambda x: x.diff(prepend=torch.zeros(1, channels, 1), dim=-1),
        lambda x: torch.diff(x.transpose(1, 2), dim=1).transpose(1, 2),
        lambda x: torch.diff(x, dim=1, prepend=x[:, :1]),
        lambda x: torch.cumsum(x.unflatten(1, (channels, 1)).transpose(1, 2), -1).flatten(1, 2),
        lambda x: F.conv1d(x, FIR.expand(channels, 1, -1), padding=2, groups=channels),
    ]
    after = draw(st.sampled_from([nn.Identity(), nn.ReLU(), nn.Conv1d(channels, 2, 3, padding=1)]))
    return nn.Sequential(Function(draw(st.sampled_from(functions))), after), channels


@st.composite
def positions(draw: Any) -> Case:
    """The number of a frame as a value, of the input's frames and of others."""
    channels = draw(CHANNELS)
    start, step = draw(st.integers(-3, 5)), draw(st.integers(1, 4))
    speeds = torch.linspace(0.1, 1.0, channels)
    conv = nn.Conv1d(channels, channels, 3, draw(st.integers(1, 3)), 1)

    def sines(x: Tensor) -> Tensor:
        angles = torch.arange(x.size(2), dtype=torch.float32).unsqueeze(1) * speeds
        return x + torch.sin(angles).t()

    def running(x: Tensor) -> Tensor:
        return x.cumsum(-1) / torch.arange(1, x.shape[-1] + 1).type_as(x)

    def numbered(x: Tensor) -> Tensor:
        y = conv(x)
        return y * torch.arange(start, start + step * y.shape[-1], step) + torch.arange(y.size(-1)).float().view(1, 1, -1)

    def beyond(x: Tensor) -> Tensor:
        count = torch.arange(channels, channels * (x.shape[-1] + 1), channels).type(x.type()).view(1, 1, -1).expand_as(x)
        return torch.where(count > 4 * channels, x, -x)

    def faded(x: Tensor) -> Tensor:
        return x * torch.exp(-torch.arange(x.shape[-1]).to(x) / 10) + (torch.arange(x.shape[-1])[None, None] * x).tanh()

    def turned(x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.size(2)), speeds) + torch.outer(torch.arange(x.size(2)).float(), speeds)
        return x * angles.cos().t()

    def beside(x: Tensor) -> Tensor:
        """CoordConv."""
        y = conv(x)
        place = torch.arange(y.shape[-1], dtype=y.dtype).view(1, 1, -1).repeat(y.shape[0], 1, 1) / 10
        return torch.cat([place, y, torch.arange(y.shape[-1]).float().expand(y.shape[0], 1, -1)], 1)

    def filled_up(x: Tensor) -> Tensor:
        y = F.pad(conv(x)[..., 1:], (0, 2 * x.shape[-1] - x.shape[-1] * 2 + 1))
        return y + torch.arange(y.shape[-1]).float().exp().reciprocal()

    def of_less(x: Tensor) -> Tensor:
        return x[..., :-2] * torch.arange(x.shape[-1] - 2)

    def in_turns(x: Tensor) -> Tensor:
        y, frame = conv(x), torch.arange(x.shape[-1])
        return torch.cat([y, (torch.arange(start, y.shape[-1] + start) * step % 3).view(1, 1, -1).float()], 1)[:, -2:] + conv(
            x * (frame % step == 0) + torch.sin(frame * 0.5) + 1 / (1 + frame / 4)
        ).mean(1, keepdim=True)

    ways = [sines, running, numbered, beyond, faded, turned, beside, filled_up, of_less, in_turns]
    return Function(draw(st.sampled_from(ways)), conv), channels


@st.composite
def constants(draw: Any) -> Case:
    """As long as the input, as a branch of another rate, or as what is left of it."""
    channels, stride = draw(st.integers(2, 5)), draw(st.integers(1, 3))
    conv = nn.Conv1d(channels, channels, 3, stride, 1)
    vector = torch.linspace(-1.0, 1.0, channels)
    embedding = vector.view(1, -1, 1)

    def summed(x: Tensor) -> Tensor:
        out = torch.zeros(x.shape[0], channels, x.shape[2], device=x.device)
        for _ in range(2):
            out = out + x.tanh()
        return out

    functions: list[Callable[[Tensor], Tensor]] = [
        summed,
        lambda x: conv(x) + torch.full(conv(x).shape, 0.5) * torch.ones(conv(x).size()).tanh(),
        lambda x: x.new_zeros(x.size(0), channels, x.size(2)) - x.new_ones(x.shape).mul(x),
        lambda x: conv(torch.cat([x, x.new_full((1, 1, x.size(-1)), 2.0)], 1)[:, 1:]),
        lambda x: torch.cat([embedding.expand(x.size(0), -1, conv(x).size(-1)), conv(x)], 1),
        lambda x: torch.cat([conv(x), vector[None, :, None].repeat(1, 2, conv(x).shape[-1])], 1),
        lambda x: x * torch.ones(x.size(0), 1, x.size(2)).to(x) + vector.expand(1, x.size(2), -1).mT,
        lambda x: torch.where(torch.ones(1, x.size(2), dtype=torch.bool).unsqueeze(1), x, torch.zeros(x.shape)),
        lambda x: conv(torch.full((1, channels, x.size(-1)), 0.5)) + conv(x) * torch.ones(x[..., ::stride].shape[-1]),
        lambda x: torch.cat([x[..., 2:], torch.zeros(1, 1, x.size(-1) - 2)], 1) + torch.ones(x.size(-1) - 2).cumsum(0),
        lambda x: torch.cat([x.new_zeros((1, channels, 2), dtype=x.dtype, device=x.device), x], -1) + x.new_tensor(2.0),
        lambda x: torch.cat([x, torch.zeros(x.shape[2], 1, 2).permute(1, 2, 0) + 1], 1),
    ]
    return Function(draw(st.sampled_from(functions)), conv), channels


FIR = torch.tensor([[[0.1, 0.25, 0.3, 0.25, 0.1]]])
"""A constant kernel: a filter with a finite response."""


class Envelope(nn.Module):
    """Branches with windows beside one without."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean, self.high, self.low = SlidingMean(size), SlidingMax(size), SlidingMin(size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x - self.mean(x), self.high(x) - self.low(x)], 1)


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "sliding mean, maximum, minimum": sliding(),
    "exponential smoothing": smoothing(),
    "resampling": resampling(),
    "causal attention": attention(),
    "running functions": accumulations(),
    "differences and FIR filters": differences(),
    "numbers of frames": positions(),
    "constants of a value's length": constants(),
    "envelope": st.tuples(st.integers(1, 20).map(Envelope), CHANNELS),
}
