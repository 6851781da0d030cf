"""The operator table: for each operator, a strategy that draws a module with random hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from service.postprocess import Detect, Normalize, Smooth

CHANNELS = st.sampled_from([1, 2, 3, 4, 6])


class Function(nn.Module):
    """A function of the input as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor], *children: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.children_used = nn.ModuleList(children)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Remembering(nn.Module):
    """A recurrent module between two others, over `[B, C, T]`."""

    def __init__(self, before: nn.Module, memory: nn.RNNBase, after: nn.Module, begin: float | None) -> None:
        super().__init__()
        self.begin = begin
        self.before = before
        self.memory = memory
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        if self.memory.batch_first:
            return self.after(self.memory(y.transpose(1, 2), self._state(x.shape[0]))[0].transpose(1, 2))
        remembered, _ = self.memory(y.permute(2, 0, 1), self._state(x.size(0)))
        return self.after(remembered.permute(1, 2, 0))

    def _state(self, batch: int) -> Any:
        if self.begin is None:
            return None
        state = torch.full((self.memory.num_layers, batch, self.memory.hidden_size), self.begin)
        return (state, state + 0.1) if isinstance(self.memory, nn.LSTM) else state


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


Case = tuple[nn.Module, int]


def weighted(module: nn.Module, seed: int) -> nn.Module:
    """The module with every parameter and statistic drawn anew, so that none is a neutral 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator) * 0.5
                tensor.copy_(drawn.abs() + 0.5 if "var" in name or "scale" in name else drawn)
    return module.eval()


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


@st.composite
def in_place(draw: Any) -> Case:
    channels = draw(CHANNELS)
    conv = nn.Conv1d(channels, channels, 3, padding=1)
    relu = nn.ReLU(inplace=True)

    def forward(x: Tensor) -> Tensor:
        y = conv(x)
        z = relu(y)
        y += x
        copy = y.clone().tanh_()
        return z * y + copy

    return Function(forward, conv, relu), channels


@st.composite
def recurrent(draw: Any) -> Case:
    """Smoothing and detection, before, between and after convolutions."""
    channels = draw(CHANNELS)
    conv = nn.Conv1d(channels, channels, 3, draw(st.integers(1, 2)), draw(st.integers(0, 2)), draw(st.integers(1, 3)))
    smooth = Smooth(draw(st.sampled_from([0.05, 0.5, 1.0])))
    detect = Detect(draw(st.integers(0, channels - 1)), 0.2, -0.1)
    after = nn.Conv1d(channels + 1, 2, 3, padding=1)
    orders: list[list[nn.Module]] = [
        [smooth],
        [conv, smooth],
        [smooth, conv],
        [conv, detect],
        [conv, smooth, detect, after],
        [smooth, conv, Smooth(0.3), nn.Conv1d(channels, 1, 5, padding=2)],
        [Normalize([0.3] * channels, [1.5] * channels), conv, smooth, detect],
    ]
    return nn.Sequential(*draw(st.sampled_from(orders))), channels


@st.composite
def rnn(draw: Any) -> Case:
    """LSTM, GRU and RNN, before and after convolutions, batch first or not."""
    channels, hidden = draw(CHANNELS), draw(st.integers(1, 5))
    kind = draw(st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]))
    batch_first = draw(st.booleans())
    layers = draw(st.integers(1, 2))
    memory = kind(channels, hidden, layers, bias=draw(st.booleans()), batch_first=batch_first)
    before = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, channels, 3, 2, 1)]))
    after = draw(st.sampled_from([nn.Identity(), nn.Conv1d(hidden, 2, 3, padding=2, dilation=2)]))

    return Remembering(before, memory, after, draw(st.sampled_from([None, 0.0, 0.3]))), channels


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


@st.composite
def checking(draw: Any) -> Case:
    crop = draw(st.integers(0, 4))
    return Checking(draw(st.integers(crop, 9)), draw(st.integers(1, 4)), crop), draw(CHANNELS)


@st.composite
def cumulative(draw: Any) -> Case:
    channels = draw(CHANNELS)
    before = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, channels, 3, 2, 1)]))
    after = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, 2, 5, padding=2)]))
    return nn.Sequential(before, Function(lambda x: torch.cumsum(x, -1)), after), channels


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "Conv1d": conv1d(),
    "depthwise Conv1d": depthwise(),
    "strided chain": strided_chain(),
    "AvgPool1d": average_pool(),
    "MaxPool1d": max_pool(),
    "F.pad": padding(),
    "cat with constants": concatenated_padding(),
    "crop": crop(),
    "residual": residual(),
    "chomp": chomped(),
    "long lag": long_lag(),
    "BatchNorm1d, PReLU": batch_norm(),
    "per frame": per_frame(),
    "activations": activations(),
    "arithmetic": arithmetic(),
    "gated": gated(),
    "in place": in_place(),
    "Smooth and Detect": recurrent(),
    "LSTM, GRU, RNN": rnn(),
    "ConvTranspose1d": conv_transpose1d(),
    "hourglass": hourglass(),
    "cumsum": cumulative(),
    "checks of the length": checking(),
    "replicate and reflect padding": edge_padding(),
    "Upsample": upsample(),
}
