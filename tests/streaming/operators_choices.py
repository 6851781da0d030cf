"""Rows of the operator table: comparisons and what they decide, kinds of numbers, rows of a table by number.

What jumps is computed from the input as it is: behind a product it would make a jump of a rounding error, offline as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.streaming.operators import CHANNELS, Case, Function


@st.composite
def behind_exact(draw: Any, functions: list[Callable[[Tensor], Tensor]], channels: int, *children: nn.Module) -> Case:
    """One of the functions, behind modules that do not round and before others."""
    before = draw(st.sampled_from([nn.Identity(), nn.Identity(), nn.ZeroPad1d((2, 1)), nn.MaxPool1d(2, 2, 1)]))
    function = Function(draw(st.sampled_from(functions)), *children)
    width = function(torch.zeros(1, channels, 8)).shape[1]
    conv = nn.Sequential(Function(lambda x: x.float()), nn.Conv1d(width, 2, 3, padding=1))
    after = draw(st.sampled_from([nn.Identity(), nn.Identity(), conv, nn.ConstantPad1d((1, 2), 0.5)]))
    return nn.Sequential(before, function, after), channels


@st.composite
def comparisons(draw: Any) -> Case:
    channels = draw(CHANNELS)
    level = draw(st.sampled_from([0, 0.5, -1.0]))
    levels = torch.linspace(-0.5, 0.5, channels).unsqueeze(1)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x * (x > level) + (x <= levels) * 0.5,
        lambda x: ((x >= level) & (x < levels) | ~(x != level)).float(),
        lambda x: torch.logical_xor(x > level, levels > x[:, :1]).to(torch.float32) + torch.logical_not(x),
        lambda x: (level == x.round()).float() + torch.eq(x.round(), 0).type_as(x),
        lambda x: torch.cat([x, (x > 0).any(1, keepdim=True), torch.all(x < 1, dim=1, keepdim=True)], 1),
        lambda x: (x.transpose(1, 2) > x.transpose(1, 2).mean(-1, keepdim=True) + 9).float().transpose(1, 2) - x,
        lambda x: x > level,
    ]
    return draw(behind_exact(functions, channels))


@st.composite
def selections(draw: Any) -> Case:
    channels = draw(CHANNELS)
    levels = torch.linspace(-0.5, 0.5, channels).unsqueeze(1)
    half = torch.arange(channels).unsqueeze(1) % 2 == 0

    def assigned(x: Tensor) -> Tensor:
        y = x * 2
        y[y < 0] = 0.25
        y.masked_fill_(x > 1, 1.0)
        return y

    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.where(x > 0, x, 0.1 * x) + torch.where(half, x, -x),
        lambda x: torch.where(x[:, :1] > levels, 1.0, x) - x.where(x < 0, torch.tensor(0.5)),
        lambda x: torch.where(x > levels, 1, 0) * x + torch.where(x > 0, levels, x.abs()),
        lambda x: x.masked_fill(x < levels, -1.0) + x.masked_fill(half, 2),
        lambda x: x.clamp(levels, levels + 1) + torch.clip(x, max=x[:, -1:].abs()) + x.clamp(-0.3, 0.4),
        lambda x: torch.maximum(x, levels) - torch.minimum(x[:, :1], x) + x.clamp_min(0).clamp_max(0.7),
        lambda x: torch.where(x.log().isfinite(), x.abs().log1p(), torch.where(x.log().isnan(), 0.0, 1.0)),
        assigned,
    ]
    return draw(behind_exact(functions, channels))


@st.composite
def smooth_selections(draw: Any) -> Case:
    """Behind a convolution: choices that do not jump."""
    channels = draw(CHANNELS)
    conv = nn.Conv1d(channels, channels, 3, draw(st.integers(1, 2)), 1)
    slopes = torch.linspace(0.1, 0.9, channels).unsqueeze(1)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.where(conv(x) > 0, conv(x), slopes * conv(x)),
        lambda x: conv(x).clamp(-slopes, slopes) + torch.maximum(conv(x), 0.5 * conv(x)),
        lambda x: conv(x).masked_fill(conv(x) < 0, 0),
        lambda x: conv(x) * (conv(x) > 0),
    ]
    after = draw(st.sampled_from([nn.Identity(), nn.MaxPool1d(2, 1), nn.Conv1d(channels, 2, 3, padding=2)]))
    return nn.Sequential(Function(draw(st.sampled_from(functions)), conv), after), channels


@st.composite
def kinds(draw: Any) -> Case:
    """Truths and whole numbers, moved about as any other, and back."""
    channels = draw(CHANNELS)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: (x * 3).long().float() + (x * 2).int().to(x) - x.bool().float(),
        lambda x: (x * 3).to(torch.int64).clamp(-1, 2).transpose(1, 2).float().transpose(1, 2),
        lambda x: torch.stack([x > 0, x < 1], 1).flatten(1, 2).unflatten(1, (2, -1))[:, 0].float(),
        lambda x: F.pad(torch.cat([(x * 3).long(), x > 0], 1), (2, 1), value=3).to(torch.float32),
        lambda x: ((x * 3).int().long() >= 1).long()[..., 1:] * 0.5,
        lambda x: torch.maximum((x * 3).long(), (x * 2).long()).to(dtype=torch.float, device=x.device),
        lambda x: torch.where(x > 0, (x * 9).long(), -1),
        lambda x: F.pad(x > 0, (2, -1))[:, :1],
    ]
    return draw(behind_exact(functions, channels))


@st.composite
def embeddings(draw: Any) -> Case:
    """By a channel that holds the number, by several, by what was clamped; alone and beside other channels."""
    channels, rows, width = draw(st.integers(1, 4)), draw(st.integers(2, 9)), draw(st.integers(1, 4))
    table = nn.Embedding(rows, width, padding_idx=draw(st.sampled_from([None, 0])))
    conv = nn.Conv1d(channels + width, 2, 3, draw(st.integers(1, 2)), 1)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: table(x[:, 0].long()).transpose(1, 2),
        lambda x: conv(torch.cat([x, table(x[:, :1].squeeze(1).to(torch.int64)).permute(0, 2, 1)], 1)),
        lambda x: F.pad(table(x.transpose(1, 2)[..., -1].int()), (0, 0, 3, 1)).mT,
        lambda x: table(x.long()).movedim(-1, 1).flatten(1, 2),
        lambda x: F.embedding((x[:, 0] * 0.5).round().long(), table.weight).mT[..., 1::2],
        lambda x: table(F.max_pool1d(x, 3, 2, 1)[:, 0].long().clamp(0, rows - 1)).transpose(1, 2),
        lambda x: table(F.pad(x[..., 1:], (3, 0))[:, 0].long().clamp(min=0, max=rows - 1)).transpose(1, 2),
        lambda x: F.one_hot(x[:, 0].long(), rows).transpose(1, 2) * x,
        lambda x: table((x[:, 0] > 0).long()).transpose(1, 2),
        lambda x: table(torch.stack([x[:, 0], x[:, -1] * 2], 1).argmax(1)).mT,
        lambda x: F.max_pool1d(x, 2, 1, 1).argmin(1, keepdim=True) * 0.5,
    ]
    if channels > 1:
        functions.append(lambda x: table(x[:, 0].long()).transpose(1, 2) * table(x[:, 1].long()).transpose(1, 2))
    if channels not in (1, rows):
        del functions[7]
    return Function(draw(st.sampled_from(functions)), table, conv), channels


@st.composite
def jumps(draw: Any) -> Case:
    """Remainders, counts, and where something stands."""
    channels = draw(st.integers(2, 5))
    levels = torch.linspace(-0.8, 0.9, channels).unsqueeze(1)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x % 3 + torch.remainder(x, torch.tensor(-0.75)) - torch.fmod(x, 0.5) + 3 % (x.abs() + 1),
        lambda x: x // 2 + torch.div(x, 0.5, rounding_mode="floor") - torch.div(x, 0.5, rounding_mode="trunc"),
        lambda x: torch.cat([(x * 9).long() % 4, torch.fmod((x * 9).int(), 4), 7 // (x.abs() + 1)], 1),
        lambda x: torch.copysign(x * 2, x.flip(1)) + torch.heaviside(x, torch.tensor(0.5)),
        lambda x: torch.cat([(x > 0).sum(1, keepdim=True), x.count_nonzero(1).unsqueeze(1)], 1) * 0.5,
        lambda x: (x > 0).sum(1, keepdim=True, dtype=torch.float32) * x,
        lambda x: torch.isclose(x, levels, 0.1, 0.2) * x + torch.isclose(x, torch.where(x > 1, torch.nan, x), equal_nan=True),
        lambda x: (
            torch.bucketize(x.contiguous(), levels[:, 0]) + torch.searchsorted(levels[:, 0], x.contiguous(), side="right") * x
        ),
        lambda x: torch.cat([x.max(1, keepdim=True).indices, torch.min(x, 1, True)[1], x.argsort(1)], 1),
        lambda x: torch.cat([x.topk(2, 1).indices, x.sort(dim=1, descending=True)[1], x.median(1, True)[1]], 1) * x[:, :1],
    ]
    return draw(behind_exact(functions, channels))


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "comparisons": comparisons(),
    "where, masked_fill, clamp": selections(),
    "choices behind a convolution": smooth_selections(),
    "truths and whole numbers": kinds(),
    "Embedding, one_hot": embeddings(),
    "remainders, counts, places": jumps(),
}
