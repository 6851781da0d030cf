"""Rows of the operator table: changes in place, seen through every other view of the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.streaming.operators import CHANNELS, Case, Function

NUMBERS = st.integers(0, 11)

COPIES: list[Callable[[Tensor], Tensor]] = [
    torch.clone,
    lambda y: y.to(torch.float32, copy=True),
    lambda y: y.to(torch.float32, False, True),
    lambda y: y.repeat(1, 1, 1),
    lambda y: F.interpolate(y, scale_factor=1.0),
    lambda y: y.diff(n=0),
    lambda y: F.pad(y, (0, 0)),
    lambda y: F.pad(y, (0, 0, 1, 0))[:, 1:2].expand(-1, y.shape[1], -1).clone(),
    lambda y: y[:, :1].expand(-1, y.shape[1] + 1, -1).contiguous()[:, 1:],
    lambda y: y[:, :1].repeat(1, y.shape[1], 1),
    lambda y: y[:, :1].repeat_interleave(y.shape[1], 1),
    lambda y: (y[:, :1] > 0).expand(-1, y.shape[1], -1).float(),
]


@st.composite
def once(draw: Any) -> Case:
    channels = draw(CHANNELS)
    conv = nn.Conv1d(channels, channels, 3, padding=1)
    relu = nn.ReLU(inplace=True)
    copied = draw(st.sampled_from(COPIES))

    def forward(x: Tensor) -> Tensor:
        y = conv(x)
        z = relu(y)
        y += x
        copy = copied(y).tanh_()
        copy[:, 0] -= 0.5
        return z * y + copy

    return Function(forward, conv, relu), channels


class Shared(nn.Module):
    """Views of views and copies, of which one after the other is changed; all of them are seen in the end."""

    def __init__(self, channels: int, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.conv(x)]
        for step, first, second in self.steps:
            made = getattr(self, step)(seen[first % len(seen)], second, x)
            if made is not None:
                seen.append(made)
        return torch.cat(seen, 1)

    def part(self, y: Tensor, number: int, _: Tensor) -> Tensor:
        return y[:, number % y.shape[1] :: 1 + number % 2]

    def one(self, y: Tensor, number: int, _: Tensor) -> Tensor:
        return y.select(1, number % y.shape[1]).unsqueeze(1)

    def turned(self, y: Tensor, _: int, __: Tensor) -> Tensor:
        return y.mT.unsqueeze(1).transpose(-1, -2).squeeze(1)

    def piece(self, y: Tensor, number: int, _: Tensor) -> Tensor:
        pieces = y.chunk(2, 1)
        return pieces[number % len(pieces)]

    def copy(self, y: Tensor, number: int, _: Tensor) -> Tensor:
        return COPIES[number](y)

    def scaled(self, y: Tensor, number: int, _: Tensor) -> None:
        y[:, number % y.shape[1] :] *= 0.5

    def bent(self, y: Tensor, number: int, _: Tensor) -> None:
        y.mT.tanh_().add_(number)

    def set_to_input(self, y: Tensor, number: int, x: Tensor) -> None:
        y[:, number % y.shape[1]] = x[:, 0]

    def set_to_constant(self, y: Tensor, number: int, _: Tensor) -> None:
        y[:, ::2] = torch.linspace(-1, 1, len(range(0, y.shape[1], 2))).unsqueeze(1) if number % 2 else number

    def swapped_in(self, y: Tensor, _: int, __: Tensor) -> None:
        y[:, :1] = y[:, -1:] if y.shape[1] > 1 else 0.0


STEPS = [name for name in vars(Shared) if not name.startswith("_") and name != "forward"]


@st.composite
def shared(draw: Any) -> Case:
    channels = draw(st.integers(1, 5))
    return Shared(channels, draw(st.lists(st.tuples(st.sampled_from(STEPS), NUMBERS, NUMBERS), min_size=2, max_size=9))), channels


@st.composite
def assigned(draw: Any) -> Case:
    """Parts put together by assignment to a tensor that is there."""
    channels = 2 * draw(st.integers(1, 3))
    conv = nn.Conv1d(channels, channels, 3, draw(st.integers(1, 2)), 1)

    def woven(x: Tensor) -> Tensor:
        y = conv(x)
        out = torch.empty_like(y)
        out[:, ::2] = y[:, 1::2]
        out[:, 1::2] = -y[:, ::2]
        return out

    def gathered(x: Tensor) -> Tensor:
        y = conv(x)
        out = y.new_zeros(y.shape[0], channels + 2, y.shape[2])
        out[:, 1:-1] = y
        out[:, 0], out[:, -1] = y.amax(1), 1.5
        return out

    def by_kind(x: Tensor) -> Tensor:
        y = conv(x) > 0
        y[:, 0] = x[:, 0, : y.shape[-1]] if conv.stride[0] == 1 else False
        y[:, 1:] |= y[:, :1]
        number = torch.zeros(y.shape, dtype=torch.int64)
        number[:, 1:] = y[:, 1:]
        number[:, 0] = torch.tensor(7.0)
        return number.float()

    def gates(x: Tensor) -> Tensor:
        p, q = conv(x).chunk(2, 1)
        p = p.tanh_()
        q = q.sigmoid_()
        return nn.functional.dropout(p * q, training=False, inplace=True)

    def poured(x: Tensor) -> Tensor:
        y = conv(x)
        z = y.view(1, 2, -1, y.shape[-1])
        z[:, 0] *= 2
        z[:, 1].copy_(z[:, 0]).add_(1)
        other = torch.zeros_like(y).fill_(0.5)
        return y + z.flatten(1, 2) + other.zero_()

    def cropped(x: Tensor) -> Tensor:
        """What it is a part of is never read again."""
        y = conv(x)
        z = y[..., 1:]
        head = z[:, :1]
        z += 1
        z.mul_(y.shape[1])
        return torch.cat([z, head], 1)

    def in_row(x: Tensor) -> Tensor:
        x = conv(x)
        z = x.contiguous().tanh_().reshape(1, 2, -1, x.shape[-1]).mul_(2)
        z[:, 1] += 1
        return z.flatten(1, 2)

    def padded(x: Tensor) -> Tensor:
        y = F.pad(conv(x), (2, 0))
        y *= 2
        y[y < 0] = 0.25
        return y + F.pad(conv(x), (2, 0))

    return Function(draw(st.sampled_from([woven, gathered, by_kind, gates, poured, cropped, in_row, padded])), conv), channels


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "in place": once(),
    "in place through views": shared(),
    "assigned to parts": assigned(),
}
