"""Rows of the operator table: what is computed from the numbers of one frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
        lambda x: F.cosine_similarity(x.tanh() - 2, x.tanh() + 2, dim=1).unsqueeze(1),
    ]
    two: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.stack([x, x * x, -x], 1).mean((1, 2)).unsqueeze(1),
        lambda x: torch.stack([x, x * x, -x], -1).amax(-1),
        lambda x: torch.stack([x, x * x, -x], 2).sum(1),
        lambda x: torch.stack([x, x * x, -x], 1).amin(1, keepdim=True).squeeze(1),
        lambda x: x.unsqueeze(-1).expand(-1, -1, -1, 2).mean((-1, 1), keepdim=True)[:, 0].transpose(1, 2),
    ]
    return draw(surrounded(one + two, channels))


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


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "powers and functions of a number": powers(),
    "LPPool1d": power_pool(),
    "constants of a value's size": likes(),
    "reductions over channels": reductions(),
}
