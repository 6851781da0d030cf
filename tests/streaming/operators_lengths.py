"""Rows of the operator table: paddings, crops, joins of branches with different lags."""

from __future__ import annotations

import math
from collections.abc import Callable
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


@st.composite
def repeated_edges(draw: Any) -> Case:
    """Padding written as a concatenation with the first frame and the last one, as decompositions into trend and season have it."""
    channels, left, right = draw(CHANNELS), draw(st.integers(0, 3)), draw(st.integers(0, 3))
    conv = nn.Conv1d(channels, channels, 3, 1, 1)

    def trend(x: Tensor) -> Tensor:
        y = x.permute(0, 2, 1)
        front, end = y[:, 0:1, :].repeat(1, left, 1), y[:, -1:, :].repeat(1, left, 1)
        return F.avg_pool1d(torch.cat([front, y, end], dim=1).permute(0, 2, 1), 2 * left + 1, 1)

    def written_to(x: Tensor) -> Tensor:
        y = conv(x)
        before, shown = y[..., :1].clone(), y[..., -1:]
        y += 1
        z = conv(x)
        return (
            torch.cat([y, shown.expand(-1, -1, right)], -1)
            + torch.cat([z, z[..., -1:].repeat_interleave(right, -1)], -1) * (before.shape[-1])
        )

    ways = [
        lambda x: torch.cat([x[..., :1]] * left + [x, x[:, :, -1:].expand(-1, -1, right)], -1),
        lambda x: torch.diff(x, prepend=x[..., :1]),
        lambda x: torch.diff(x[..., right:], n=left + 1, prepend=x[..., right:][..., :1].contiguous()),
        lambda x: x - trend(x),
        written_to,
    ]
    after = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, 2, draw(st.integers(1, 3)))]))
    return nn.Sequential(Function(draw(st.sampled_from(ways)), conv), after), channels


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
        torch._assert(y.shape[-1] == x.shape[-1] // self.multiple, "pooled to another length")
        torch._assert(x.shape[-1] >= self.least + self.multiple, "too short")
        return x[..., : x.shape[-1] - self.crop] * 2


@st.composite
def checking(draw: Any) -> Case:
    crop = draw(st.integers(0, 4))
    return Checking(draw(st.integers(crop, 9)), draw(st.integers(1, 4)), crop), draw(CHANNELS)


class Skipping(nn.Module):
    """A skip around a pool and what makes up for it, brought to one length in the ways in which people write that."""

    def __init__(self, channels: int, size: int, way: str) -> None:
        super().__init__()
        self.size = size
        self.way = way
        self.pool = nn.MaxPool1d(size)
        self.up = nn.ConvTranspose1d(channels, channels, size, size)
        self.join = nn.Conv1d(2 * channels, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x, y = getattr(self, self.way)(x, self.up(self.pool(x)))
        return self.join(torch.cat([x, y], 1))

    def to_the_shorter(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        shorter = min(x.shape[-1], y.size(2))
        return x[..., :shorter], y[..., :shorter]

    def by_the_difference(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, F.pad(y, (0, x.shape[-1] - y.shape[-1]))

    def on_both_sides(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        more = x.size(2) - y.size(2)
        return x[..., : y.shape[-1] + more], F.pad(y, [more // self.size, more - more // self.size], value=0.5)

    def by_the_edge(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As MONAI's BasicUNet does."""
        sides = [0, 0]
        for step in range(1, self.size):
            if x.shape[-1] == y.shape[-1] + step:
                sides[1] = step
        return x, F.pad(y, sides, "replicate")

    def if_they_differ(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[-1] != y.shape[-1]:
            x = x[..., : y.shape[-1]]
        return x, y

    def by_what_is_over(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        over = x.shape[-1] % self.size
        if over:
            x = x[..., :-over]
        return x, y


WAYS = [name for name in vars(Skipping) if not name.startswith("_") and name != "forward"]


@st.composite
def skipping(draw: Any) -> Case:
    """Once, and one in another, whose branches hang together."""
    channels, way = draw(st.integers(1, 3)), draw(st.sampled_from(WAYS))
    skip = Skipping(channels, draw(st.integers(2, 3)), way)
    if draw(st.booleans()):
        deeper = Skipping(channels, 2, way)
        deeper.join = nn.Conv1d(2 * channels, channels, 3, padding=1)
        skip.pool = nn.Sequential(skip.pool, deeper)
    return skip, channels


class Gated(nn.Module):
    """Layers of a WaveNet without padding: the residual and the skips lose their beginnings."""

    def __init__(self, channels: int, taps: int, stride: int, way: int) -> None:
        super().__init__()
        self.way = way
        self.before = nn.Conv1d(channels, channels, 1, stride)
        self.layers = nn.ModuleList(nn.Conv1d(channels, 2 * channels, taps, dilation=dilation) for dilation in (1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.before(x), []
        for layer in self.layers:
            gate, value = layer(x).chunk(2, 1)
            made = torch.tanh(value) * torch.sigmoid(gate)
            skips.append(made)
            x = made + (x[:, :, -made.size(2) :] if self.way else x[..., x.shape[-1] - made.shape[-1] :])
        if self.way == 2:
            skips = [skip.narrow(2, skip.shape[2] - x.shape[2], x.shape[2]) for skip in skips]
        return x + sum(skip[..., -x.shape[-1] : None : 1] for skip in skips)


@st.composite
def gated(draw: Any) -> Case:
    channels = draw(st.integers(1, 3))
    return Gated(channels, draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 2))), channels


class Filled(nn.Module):
    """Filled up to a whole number of blocks, and cut back."""

    def __init__(self, channels: int, size: int, way: int, mode: str) -> None:
        super().__init__()
        self.size = size
        self.way = way
        self.mode = mode
        self.down = nn.Conv1d(channels, channels, size, size)
        self.up = nn.ConvTranspose1d(channels, channels, size, size)

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[-1]
        if self.way == 0:
            x = F.pad(x, (0, -time % self.size), mode=self.mode)
        elif self.way == 1:
            x = F.pad(x, (1, (self.size - (time + 1) % self.size) % self.size), mode=self.mode)[..., 1:]
        elif self.way == 3:
            frames = math.ceil((time - self.size) / self.size + 1)
            x = F.pad(x, (0, frames * self.size - math.floor(time / 1)))
        elif time % self.size:
            x = F.pad(x, (0, self.size - time % self.size), mode=self.mode)
        return self.up(torch.tanh(self.down(x)))[..., :time]


@st.composite
def filled(draw: Any) -> Case:
    channels = draw(st.integers(1, 3))
    mode = draw(st.sampled_from(["constant", "constant", "replicate"]))
    ways = [0, 1] if mode == "replicate" else [0, 1, 2, 3]
    return Filled(channels, draw(st.integers(2, 4)), draw(st.sampled_from(ways)), mode), channels


@st.composite
def whole_blocks(draw: Any) -> Case:
    """Cut to a whole number of blocks before they are pooled."""
    size, channels = draw(st.integers(2, 4)), draw(CHANNELS)
    conv = nn.Conv1d(channels, channels, size, size)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x[..., : x.shape[-1] - x.shape[-1] % size],
        lambda x: x[..., : divmod(x.size(2), size)[0] * size],
        lambda x: x.narrow(-1, 0, x.shape[2] // size * size),
        lambda x: torch.narrow(x, 2, 1, x.shape[-1] - 1),
        lambda x: F.avg_pool1d(x, 2)[..., : x.shape[-1] >> 1],
        lambda x: x[..., : (x.shape[-1] >> 2) << 2].tanh(),
    ]
    after = draw(st.sampled_from([nn.Identity(), conv, nn.MaxPool1d(2, 1)]))
    return nn.Sequential(Function(draw(st.sampled_from(functions))), after), channels


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "F.pad": padding(),
    "cat with constants": concatenated_padding(),
    "cat with the first and the last frame": repeated_edges(),
    "crop": crop(),
    "skips of other lengths": skipping(),
    "beginnings cut off": gated(),
    "filled up to blocks": filled(),
    "cut to blocks": whole_blocks(),
    "residual": residual(),
    "chomp": chomped(),
    "long lag": long_lag(),
    "checks of the length": checking(),
    "replicate and reflect padding": edge_padding(),
}
