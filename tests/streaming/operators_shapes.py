"""Rows of the operator table: tensors of other dimensions than batch, channels and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.streaming.operators import CHANNELS, Case, Function

NUMBERS = st.integers(0, 5)


class Walk(nn.Module):
    """A random walk through dimensions: each step looks at the shape it finds, and two numbers say what it does there."""

    def __init__(self, steps: list[tuple[str, int, int]], meet: bool, after: nn.Module) -> None:
        super().__init__()
        self.steps = steps
        self.meet = meet
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        begun, time = x, 2
        for step, first, second in self.steps:
            x, time = getattr(self, step)(x, time, 1 + first % (x.ndim - 1), 1 + second % (x.ndim - 1))
            if self.meet:
                x = x * 0.5 + torch.tanh(x)
        x = x.movedim(time, -1)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return self.after(torch.cat([x, begun], 1))

    def split(self, x: Tensor, time: int, dim: int, second: int) -> tuple[Tensor, int]:
        if dim == time or x.shape[dim] % 2:
            return x.unsqueeze(dim), time + (time >= dim)
        sizes = (2, -1) if second % 2 else (x.shape[dim] // 2, 2)
        return x.unflatten(dim, sizes), time + (time > dim)

    def swap(self, x: Tensor, time: int, first: int, second: int) -> tuple[Tensor, int]:
        return x.transpose(first, second), {first: second, second: first}.get(time, time)

    def merge(self, x: Tensor, time: int, dim: int, _: int) -> tuple[Tensor, int]:
        if dim + 1 >= x.ndim or time in (dim, dim + 1):
            return x, time
        return x.flatten(dim, dim + 1), time - (time > dim)

    def regroup(self, x: Tensor, time: int, _: int, __: int) -> tuple[Tensor, int]:
        shape = x.shape
        behind = 1
        for size in shape[time + 1 :]:
            behind *= size
        return x.reshape(shape[0], -1, shape[time], behind), 2

    def part(self, x: Tensor, time: int, dim: int, second: int) -> tuple[Tensor, int]:
        if dim == time:
            return x[..., None], time
        if second == 0 and x.ndim > 3:
            return x.select(dim, -1), time - (time > dim)
        return x.narrow(dim, x.shape[dim] // 2, 1 + (x.shape[dim] - 1) // 2), time

    def again(self, x: Tensor, time: int, dim: int, second: int) -> tuple[Tensor, int]:
        if dim == time or x.shape[dim] > 8:
            return x, time
        if second % 2:
            return torch.stack([x, -x], dim), time + (time >= dim)
        return torch.cat([x, x.unbind(dim)[0].unsqueeze(dim) + 1], dim), time

    def mixed(self, x: Tensor, time: int, dim: int, second: int) -> tuple[Tensor, int]:
        """A part of one dimension against all of it, and against constants."""
        if dim == time:
            return x, time
        constant = torch.linspace(0.5, 2.0, x.shape[dim]).reshape([-1] + [1] * (x.ndim - 1 - dim))
        return x * constant + x.narrow(dim, second % x.shape[dim], 1), time


STEPS = ("split", "split", "swap", "swap", "merge", "regroup", "part", "again", "mixed")


@st.composite
def walk(draw: Any) -> Case:
    steps = draw(st.lists(st.tuples(st.sampled_from(STEPS), NUMBERS, NUMBERS), min_size=2, max_size=7))
    after = draw(st.sampled_from([nn.Identity(), nn.Identity(), nn.Tanh(), nn.MaxPool1d(2, 1)]))
    return Walk(steps, draw(st.booleans()), after), draw(st.sampled_from([1, 2, 4, 6, 8]))


@st.composite
def into_time(draw: Any) -> Case:
    """Channels laid out in time, both orders of the channels, and time laid out in channels."""
    channels, size = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    conv = nn.Conv1d(channels, channels * size, 3, draw(st.integers(1, 2)), 1)
    after = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, 2, 3, padding=1)]))

    def inner(x: Tensor) -> Tensor:
        batch, wide, time = x.shape
        return x.view(batch, wide // size, size, time).permute(0, 1, 3, 2).reshape(batch, wide // size, time * size)

    def outer(x: Tensor) -> Tensor:
        return x.unflatten(1, (size, -1)).permute(0, 2, 3, 1).flatten(2)

    def last(x: Tensor) -> Tensor:
        """As decoders of patches write it, over `[B, T, C]`."""
        y = x.transpose(1, 2)
        return y.reshape(y.size(0), y.size(1) * size, -1).transpose(1, 2)

    lay = draw(st.sampled_from([inner, outer, last]))
    return Function(lambda x: after(lay(conv(x))), conv, after), channels


@st.composite
def out_of_time(draw: Any) -> Case:
    channels, size = draw(CHANNELS), draw(st.integers(2, 4))
    conv = nn.Conv1d(channels * size, 2, draw(st.integers(1, 3)), padding=1)
    padded = draw(st.booleans())

    def inner(x: Tensor) -> Tensor:
        batch, wide, time = x.shape
        return x.view(batch, wide, time // size, size).permute(0, 1, 3, 2).reshape(batch, wide * size, time // size)

    def outer(x: Tensor) -> Tensor:
        y = x.reshape(*x.shape[:2], -1, size)
        return y.permute(0, 3, 1, 2).flatten(1, 2)

    def patches(x: Tensor) -> Tensor:
        y = x.transpose(1, 2).reshape(1, -1, size * x.shape[1])
        return y.transpose(1, 2)

    cut = draw(st.sampled_from([inner, outer, patches]))
    return Function(lambda x: conv(cut(F.pad(x, (1, size - 1)) if padded else x)), conv), channels


@st.composite
def by_heads(draw: Any) -> Case:
    """Linear maps, norms and softmax over one of several dimensions of channels."""
    heads, depth = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    channels = heads * depth
    linear = nn.Linear(depth, draw(st.integers(1, 3)))
    norm = nn.LayerNorm(depth)
    rms = nn.RMSNorm([heads, depth])
    batch_norm = nn.BatchNorm2d(heads)
    prelu = nn.PReLU(heads)

    def split(x: Tensor) -> Tensor:
        """[B, H, T, D]"""
        batch, _, time = x.shape
        return x.transpose(1, 2).view(batch, time, heads, depth).transpose(1, 2)

    def join(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2).transpose(1, 2)

    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: join(torch.relu(linear(split(x)))),
        lambda x: join(norm(split(x))),
        lambda x: join(split(x).softmax(1) * split(x).log_softmax(-1)),
        lambda x: join(prelu(batch_norm(split(x)))),
        lambda x: rms(split(x).transpose(1, 2)).permute(0, 2, 3, 1).flatten(1, 2),
    ]
    return Function(draw(st.sampled_from(functions)), linear, norm, rms, batch_norm, prelu), channels


@st.composite
def numbered(draw: Any) -> Case:
    """Channels picked by number, repeated and expanded."""
    channels = draw(st.integers(2, 6))
    kept = draw(st.lists(st.integers(-channels, channels - 1), min_size=1, max_size=5))
    mask = torch.arange(channels) % 2 == 0
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x[:, kept],
        lambda x: x.transpose(1, 2)[..., torch.tensor(kept)].transpose(1, 2),
        lambda x: x[:, mask],
        lambda x: x.index_select(1, torch.tensor(kept) % channels),
        lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1).reshape(x.shape[0], 2 * channels, x.shape[-1]),
        lambda x: x.repeat(1, 2, 1)[:, None].squeeze(1),
        lambda x: x[:, -1:] - x[:, None, 0] + x[:, 1].unsqueeze(1).expand_as(x),
        lambda x: x.flip(1) - torch.flip(x.mT, dims=(-1,)).mT.roll(1, dims=1) + torch.roll(x, (2, -1), (1, 1)),
        lambda x: torch.stack([x, -x], 2).flatten(1, 2).repeat_interleave(3, 1)[:, 1::2],
        lambda x: torch.cat(x.tensor_split(2, 1)[::-1] + torch.tensor_split(x, (1,), dim=1)[:1], 1),
        lambda x: torch.channel_shuffle(torch.cat([x, x * 2, -x], 1), 3),
        lambda x: x.narrow(1, -2, 2) + torch.narrow(x, 1, 0, 1),
    ]
    return Function(draw(st.sampled_from(functions))), channels


@st.composite
def framed(draw: Any) -> Case:
    """Windows of time, and of channels, as a dimension of their own."""
    channels, size, hop = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 7))
    matrix = torch.linspace(-1, 1, size * 3).view(size, 3)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: (x.unfold(-1, size, hop) @ matrix).transpose(2, 3).flatten(1, 2),
        lambda x: x.transpose(1, 2).unfold(1, size, hop).flatten(2).transpose(1, 2),
        lambda x: x.unfold(2, size, hop).amax(-1) - x.unfold(-1, size, hop)[..., 0],
        lambda x: torch.stack([x, -x, x * 2], 1).unfold(1, 2, 1).permute(0, 1, 2, 4, 3).flatten(1, 3),
        lambda x: F.pad(x, (size, 0), value=0.5).unfold(2, size, 1).mean(-1),
    ]
    after = draw(st.sampled_from([nn.Identity(), nn.Tanh(), nn.MaxPool1d(2, 1)]))
    return nn.Sequential(Function(draw(st.sampled_from(functions))), after), channels


@st.composite
def held(draw: Any) -> Case:
    """Each element several times in a row."""
    channels, times = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    before = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, channels, 3, 2, 1)]))
    after = draw(st.sampled_from([nn.Identity(), nn.Tanh(), nn.Conv1d(channels, 2, 3, padding=1)]))
    return nn.Sequential(before, Function(lambda x: x.repeat_interleave(times, dim=-1)), after), channels


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "walk through dimensions": walk(),
    "channels into time": into_time(),
    "time into channels": out_of_time(),
    "heads": by_heads(),
    "channels by number": numbered(),
    "unfold": framed(),
    "repeat_interleave over time": held(),
}
