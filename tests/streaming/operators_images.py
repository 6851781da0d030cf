"""Rows of the operator table: spectrograms, with frequencies in the channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.streaming.operators import Case

SIZES = st.integers(1, 4)


class Spectrogram(nn.Module):
    """A module over `[B, C, F, T]` or `[B, C, T, F]`, of a signal whose channels are both."""

    def __init__(self, inner: nn.Module, frequencies: int, time_last: bool, after: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.frequencies = frequencies
        self.time_last = time_last
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        y = x.unflatten(1, (-1, self.frequencies))
        y = self.inner(y) if self.time_last else self.inner(y.transpose(2, 3)).transpose(2, 3)
        return self.after(y.flatten(1, 2))


class Bordered(nn.Module):
    def __init__(self, sides: tuple[int, ...], value: float) -> None:
        super().__init__()
        self.sides = sides
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.sides, value=self.value)


def surrounded(draw: Any, inner: nn.Module, channels: int, frequencies: int, time_last: bool) -> Case:
    """Behind and before others, so that what is read is cropped, padded, or in another order."""
    before = draw(st.sampled_from([nn.Identity(), nn.Identity(), Bordered((1, 2), 0.0), Bordered((2, -1), 1.5)]))
    after = draw(st.sampled_from([nn.Identity(), nn.Identity(), nn.Tanh(), nn.MaxPool1d(2, 1)]))
    image = Spectrogram(inner, frequencies, time_last, after)
    return nn.Sequential(before, image), channels * frequencies


def grid(draw: Any, numbers: st.SearchStrategy[int], time_last: bool, time: int | None = None) -> tuple[int, int]:
    pair = (draw(numbers), draw(numbers) if time is None else time)
    return pair if time_last else (pair[1], pair[0])


@st.composite
def conv2d(draw: Any) -> Case:
    groups, time_last = draw(st.sampled_from([1, 1, 2, 3])), draw(st.booleans())
    inward, outward = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    same = draw(st.booleans())
    kernel, dilation = grid(draw, st.integers(1, 3), time_last), grid(draw, st.integers(1, 2), time_last)
    stride = (1, 1) if same else grid(draw, st.integers(1, 3), time_last)
    padding: Any = "same" if same else grid(draw, st.integers(0, 3), time_last)
    frequencies = draw(st.integers(5, 7))
    conv = nn.Conv2d(inward, outward, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    follow = draw(st.sampled_from([nn.Identity(), nn.ReLU(), nn.BatchNorm2d(outward), nn.Conv2d(outward, 2, 1)]))
    inner = nn.Sequential(conv, follow, nn.Dropout2d(0.3))
    return surrounded(draw, inner, inward, frequencies, time_last)


@st.composite
def conv_transpose2d(draw: Any) -> Case:
    groups, time_last = draw(st.sampled_from([1, 2])), draw(st.booleans())
    inward, outward = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, dilation = grid(draw, st.integers(1, 4), time_last), grid(draw, st.integers(1, 2), time_last)
    stride = grid(draw, st.integers(1, 3), time_last, time=1)
    reach = [span * (size - 1) for span, size in zip(dilation, kernel, strict=True)]
    # At most what leaves a frequency of the five that there are at least.
    padding = tuple(draw(st.integers(0, min(most, (most + 4) // 2))) for most in reach)
    extra = tuple(draw(st.integers(0, max(step, span) - 1)) for step, span in zip(stride, dilation, strict=True))
    bias = draw(st.booleans())
    up = nn.ConvTranspose2d(inward, outward, kernel, stride, padding, extra, groups, bias, dilation)  # type: ignore[arg-type]
    return surrounded(draw, up, inward, draw(st.integers(5, 7)), time_last)


@st.composite
def pool2d(draw: Any) -> Case:
    time_last, ceil_mode = draw(st.booleans()), draw(st.booleans())
    kernel = grid(draw, SIZES, time_last)
    stride = grid(draw, SIZES, time_last)
    padding = tuple(draw(st.integers(0, size // 2)) for size in kernel)
    frequencies = draw(st.sampled_from([8, 10, 12]))
    half = (frequencies // 2, None) if time_last else (None, 1)
    pools: list[nn.Module] = [
        nn.MaxPool2d(kernel, stride, padding, grid(draw, st.integers(1, 2), time_last), ceil_mode=ceil_mode),  # type: ignore[arg-type]
        nn.AvgPool2d(kernel, stride, padding, ceil_mode, draw(st.booleans())),  # type: ignore[arg-type]
        nn.AdaptiveAvgPool2d(half),
        nn.AdaptiveMaxPool2d(half),
    ]
    return surrounded(draw, draw(st.sampled_from(pools)), draw(st.integers(1, 2)), frequencies, time_last)


@st.composite
def borders(draw: Any) -> Case:
    """Padding and cropping of channels, with time or without."""
    sides = (*grid(draw, st.integers(-1, 2), time_last=True), *grid(draw, st.integers(-1, 2), time_last=True))
    inner = Bordered((*sides, *draw(st.sampled_from([(), (1, 0), (0, 2)]))), draw(st.sampled_from([0.0, 1.5])))
    follow = nn.Conv2d(2, 2, 3, padding=1) if len(sides) == len(inner.sides) else nn.Identity()
    return surrounded(draw, nn.Sequential(inner, follow), 2, 4, draw(st.booleans()))


class Crnn(nn.Module):
    """As taggers of sounds are: frequencies are pooled away, then a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        first = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((2, 1)))
        second = (nn.Conv2d(4, 6, (3, 5), padding=(1, 2)), nn.ReLU(), nn.AdaptiveAvgPool2d((1, None)))
        self.convs = nn.Sequential(*first, *second)
        self.memory = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x.unsqueeze(1)).squeeze(2).transpose(1, 2)
        return torch.sigmoid(self.memory(y)[0]).transpose(1, 2)


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "Conv2d": conv2d(),
    "ConvTranspose2d": conv_transpose2d(),
    "pools of two dimensions": pool2d(),
    "padding of channels": borders(),
    "spectrograms into a GRU": st.tuples(st.builds(Crnn), st.just(8)),
}
