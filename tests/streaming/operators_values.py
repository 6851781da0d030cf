"""Rows of the operator table: what is computed from the numbers of one frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.streaming.operators import CHANNELS, Case, Function


@st.composite
def surrounded(draw: Any, functions: list[Callable[[Tensor], Tensor]], channels: int, *children: nn.Module) -> Case:
    """One of the functions, behind and before modules over time."""
    before = draw(st.sampled_from([nn.Identity(), nn.Identity(), nn.Conv1d(channels, channels, 3, 2, 1), nn.ZeroPad1d((2, 1))]))
    after = draw(st.sampled_from([nn.Identity(), nn.Identity(), nn.MaxPool1d(2, 1), nn.ConstantPad1d((1, 2), 0.5)]))
    return nn.Sequential(before, Function(draw(st.sampled_from(functions)), *children), after), channels


@st.composite
def powers(draw: Any) -> Case:
    """Bounded away from where a power multiplies the rounding errors of its input."""
    exponent = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 0.5, -0.5, -1, -2, -3, 1 / 3, 2.5, -0.7]))
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: (x.abs() + 0.5) ** exponent,
        lambda x: torch.pow(-1.0 - x.tanh() / 2, int(exponent)),
        lambda x: (
            (x.tanh() * 0.9).atanh()
            + torch.exp2(x.clamp(-3, 3))
            + torch.log2(x.abs() + 1)
            + torch.nan_to_num(torch.where(x > 0, x + 0.5, -1.0).log())
        ),
        lambda x: torch.nan_to_num(torch.where(x > 1, -torch.inf, x.abs() + 0.5) ** exponent, 7.0, 3.0, -3.0),
        lambda x: torch.sinh(x.tanh()) + x.cosh().reciprocal() + torch.erfc(x) + x.atan() + x.sinc() + x.asinh(),
    ]
    return draw(surrounded(functions, draw(CHANNELS)))


@st.composite
def power_pool(draw: Any) -> Case:
    power = draw(st.sampled_from([1, 2, 3, 4, 1.5, float("inf")]))
    size = draw(st.integers(1, 5))
    pool = nn.LPPool1d(power, size, draw(st.one_of(st.none(), st.integers(1, 4))), ceil_mode=draw(st.booleans()))
    return nn.Sequential(Function(lambda x: x.abs() + 0.1), pool), draw(CHANNELS)


@st.composite
def reductions(draw: Any) -> Case:
    """Over one dimension of channels, over two, over some of them, kept or not.

    Directions are those of vectors away from zero, where they would multiply the rounding errors of whatever made them.
    """
    channels = draw(st.integers(1, 7))
    one: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.mean(1, keepdim=True),
        lambda x: x - torch.sum(x, dim=1, keepdim=True),
        lambda x: x.transpose(1, 2).amax(-1).unsqueeze(1),
        lambda x: torch.cat([x.max(1, keepdim=True).values, torch.min(x, 1, True)[0]], 1),
        lambda x: x / (x.std(1, keepdim=True, unbiased=False) + 1) + x.var(dim=1, correction=0, keepdim=True),
        lambda x: torch.logsumexp(x, 1, keepdim=True) + x.prod(1, keepdim=True),
        lambda x: F.normalize(x.tanh() + 2) + x.norm(p=1, dim=1, keepdim=True),
        lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True) * F.softmin(x, 1),
        lambda x: torch.norm(x, dim=1, keepdim=True) + torch.linalg.norm(x, 1, 1, True) + torch.norm(x, p=2, dim=1, keepdim=True),
        lambda x: torch.hstack(
            [*torch.var_mean(x, 1, correction=0, keepdim=True), torch.std_mean(x.mT, -1, correction=0)[1].unsqueeze(1)]
        ),
        lambda x: F.cosine_similarity(x.tanh() - 2, x.tanh() + 2, dim=1).unsqueeze(1),
    ]
    two: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.stack([x, x * x, -x], 1).mean((1, 2)).unsqueeze(1),
        lambda x: torch.stack([x, x * x, -x], -1).amax(-1),
        lambda x: torch.stack([x, x * x, -x], 2).sum(1),
        lambda x: torch.stack([x, x * x, -x], 1).amin(1, keepdim=True).squeeze(1),
        lambda x: x.unsqueeze(-1).expand(-1, -1, -1, 2).mean((-1, 1), keepdim=True)[:, 0].transpose(1, 2),
        lambda x: torch.linalg.norm(torch.stack([x, -x], 1), dim=(1, 2)).unsqueeze(1),
    ]
    return draw(surrounded(one + two, channels))


@st.composite
def by_other_names(draw: Any) -> Case:
    """NumPy's names, and those that only functions or only methods have."""
    channels = draw(st.integers(2, 5))
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.mean(axis=1, keepdim=True) + torch.sum(input=x, dim=1, keepdims=True),  # type: ignore[call-overload]
        lambda x: torch.cat([x, x.softmax(axis=1)], axis=1) + torch.stack([x, x], axis=-1).sum(axis=-1).amax(axis=1)[:, None],
        lambda x: torch.sub(input=x, other=torch.mul(x, other=x)) + torch.softmax(input=x, dim=1) + x.add(other=2.0),
        lambda x: x.split(split_size=1, dim=1)[0] - torch.split(x, split_size_or_sections=1, dim=1)[1],
        lambda x: torch.cat(torch.split_with_sizes(x, split_sizes=[1, channels - 1], dim=1)[::-1], 1).swapaxes(axis0=1, axis1=1),
        lambda x: torch.div(other=x.abs() + 1, input=x) + x.transpose(1, 2).matmul(other=torch.eye(channels)).mT,
        lambda x: torch.maximum(input=x, other=-x) + torch.exp(input=x, out=None) + torch.pow(input=x, exponent=2),
    ]
    return draw(surrounded(functions, channels))


def plain(x: Tensor) -> Tensor:
    """Questions about a tensor that models ask before they use it."""
    if not x.is_contiguous():
        x = x.contiguous()
    if x.ndimension() != 3 or not torch.is_floating_point(x) or x.is_complex() or torch.is_complex(x):
        return -x
    return x.data.view(len(x), x.shape[1], -1) * x.ndimension() if x != None else -x  # noqa: E711


@st.composite
def like_arrays(draw: Any) -> Case:
    """With NumPy's numbers, and frames as rows of a matrix."""
    channels = draw(CHANNELS)
    norm = nn.BatchNorm1d(channels)
    functions: list[Callable[[Tensor], Tensor]] = [
        plain,
        lambda x: (x * np.float32(0.3) + np.float64(1.5) - np.int64(2)) / np.float32(0.7),
        lambda x: np.float32(0.3) * x.clamp(min=np.float32(-0.5)) - np.float64(1.5) + np.float32(2) ** x.tanh(),
        lambda x: norm(x.permute(0, 2, 1).reshape(-1, channels)).reshape(x.size(0), x.size(2), -1).permute(0, 2, 1),
        lambda x: norm(x.mT.reshape(x.size(0) * x.size(2), x.size(1))).view(x.size(0), x.size(2), channels).mT.relu(),
    ]
    return draw(surrounded(functions, channels, norm))


@st.composite
def likes(draw: Any) -> Case:
    """Constants of a value's size."""
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.where(x.isnan() | (x > 1), torch.zeros_like(x), x),
        lambda x: torch.maximum(+x, torch.full_like(x, 0.3)) - torch.ones_like(x),
        lambda x: torch.cat([x, torch.ones_like(x[:, :1])], 1) * torch.ones_like(x[:, :1], dtype=torch.bool),
        lambda x: x.transpose(1, 2).mul(torch.full_like(x, 2, dtype=torch.int64).mT).mT,
    ]
    return draw(surrounded(functions, draw(CHANNELS)))


@st.composite
def of_two_numbers(draw: Any) -> Case:
    """Smooth where they are taken."""
    channels = draw(st.integers(2, 5))
    levels = torch.linspace(-0.8, 0.9, channels).unsqueeze(1)
    alpha = draw(st.sampled_from([1, 2, -0.5]))
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.atan2(x.tanh(), 2 - x.sigmoid()) + torch.arctan2(levels, x.abs() + 0.3),
        lambda x: torch.hypot(x, levels) + torch.logaddexp(x, -x) - torch.logaddexp(x[:, :1], levels),
        lambda x: torch.xlogy(x, x.abs() + 0.5) + torch.xlogy(0.0, x.abs() + 0.5),
        lambda x: torch.fmax(x, levels) - torch.fmin(x[:, :1], x),
        lambda x: 2 ** x.tanh() + torch.pow(0.5, x.tanh()) + torch.rsub(x, 1.5, alpha=alpha),
        lambda x: torch.add(x, x.tanh(), alpha=alpha) + x.sub(levels, alpha=alpha) - torch.sub(levels, x, alpha=2),
        lambda x: torch.addcmul(x, x, x.tanh(), value=alpha) + torch.addcdiv(levels, x, x.abs() + 1),
        lambda x: torch.lerp(x, x.sigmoid(), 0.3) + torch.lerp(levels, x, x.sigmoid()),
        lambda x: (x * 1).addcmul_(x, x.tanh()).lerp_(-x, 0.2),
        lambda x: F.mse_loss(x, x.tanh(), reduction="none") + F.l1_loss(x, x.sigmoid(), reduction="none"),
        lambda x: F.smooth_l1_loss(x, -x, reduction="none", beta=0.3) + F.huber_loss(x, -x, reduction="none", delta=0.5),
        lambda x: F.pairwise_distance(x.mT, 2 - x.mT.sigmoid(), keepdim=True).mT,
        lambda x: F.local_response_norm(x, 3, alpha=0.5) + F.local_response_norm(x, 2, beta=0.5, k=2.0),
        lambda x: torch.baddbmm(torch.ones(1, 1, 1), x.mT, levels.unsqueeze(0), alpha=0.5).mT,
        lambda x: (
            torch.linalg.cross(x.repeat(1, 3, 1)[:, :3], levels.repeat(3, 1)[None, :3], dim=1)
            + torch.cross(x[:, [0, 1, 0]], x[:, [1, 1, 0]].tanh(), dim=1)
        ),
        lambda x: torch.special.expit(x) + torch.special.log1p(x.abs()) + torch.special.softmax(x, 1),
        lambda x: torch.erfinv(x.tanh() * 0.9) + torch.deg2rad(x) + torch.logit(x.sigmoid() * 0.8 + 0.1) + F.rrelu(x),
    ]
    return draw(surrounded(functions, channels))


@st.composite
def along_channels(draw: Any) -> Case:
    """Sums that run over channels, and what is sorted there: both continuous."""
    channels = draw(st.integers(2, 6))
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.cumsum(1) - torch.cumsum(x.mT, -1).mT.flip(1),
        lambda x: x.tanh().cumprod(1) + x.logcumsumexp(1) + x.cummax(1)[0] - x.cummin(dim=1).values,
        lambda x: x.sort(1)[0] + torch.sort(x, dim=1, descending=True).values,
        lambda x: x.topk(2, 1)[0] - torch.topk(x, 2, dim=1, largest=False).values,
        lambda x: x.median(1, keepdim=True).values + x.kthvalue(2, dim=1, keepdim=True)[0],
        lambda x: torch.quantile(x, 0.3, dim=1, keepdim=True) + x.aminmax(dim=1, keepdim=True).max,
        lambda x: torch.stack([x, -x], 2).sort(1)[0].flatten(1, 2),
        lambda x: torch.nansum(x.log(), 1, keepdim=True) * 0.01 + torch.where(x > 9, torch.nan, x).nanmean(1, keepdim=True),
    ]
    return draw(surrounded(functions, channels))


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "powers and functions of a number": powers(),
    "LPPool1d": power_pool(),
    "constants of a value's size": likes(),
    "reductions over channels": reductions(),
    "arguments by other names": by_other_names(),
    "questions and numbers of arrays": like_arrays(),
    "functions of two numbers": of_two_numbers(),
    "running functions and orders of channels": along_channels(),
}
