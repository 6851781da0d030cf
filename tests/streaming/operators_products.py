"""Rows of the operator table: products that sum over channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.streaming.operators import Case, Function


@st.composite
def products(draw: Any) -> Case:
    """With constants, of values with each other, one head at a time; few channels and many."""
    heads, depth, width = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 5))
    channels = heads * depth
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    whole = torch.randn(width, channels, generator=generator)
    each = torch.randn(heads, width, depth, generator=generator)
    bilinear = nn.Bilinear(depth, depth, width, bias=draw(st.booleans()))

    def split(x: Tensor) -> Tensor:
        """[B, T, heads, depth]"""
        return x.transpose(1, 2).unflatten(2, (heads, depth))

    def join(x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)

    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: whole @ x,
        lambda x: torch.matmul(x.mT, whole.mT).mT,
        lambda x: torch.bmm(whole.expand(x.shape[0], -1, -1), x.tanh()),
        lambda x: (x.mT @ whole[0]).unsqueeze(1),
        lambda x: torch.einsum("bct,dc->bdt", x, whole),
        lambda x: torch.einsum("...c, dc -> ...d", x.transpose(1, 2), whole).transpose(1, 2),
        lambda x: join(torch.einsum("bthk,hdk->bthd", split(x), each)),
        lambda x: torch.einsum("hdk,bthk->bdt", each, split(x)),
        lambda x: torch.einsum("bct,bct->bt", x, x.tanh()).unsqueeze(1),
        lambda x: torch.einsum("bthk,btgk->bthg", split(x), split(x).tanh()).softmax(-1).flatten(2).mT,
        lambda x: join(split(x).mT @ split(x).softmax(2)),
        lambda x: torch.einsum("bthk,hdk,btgk->bdgt", split(x).tanh(), each, split(x)).flatten(1, 2),
        lambda x: torch.einsum("bct,c", x, whole[0]).unsqueeze(1) - torch.einsum("bct->bt", x).unsqueeze(1),
        lambda x: torch.einsum("bct,c->bct", x, whole[0]),
        lambda x: torch.tensordot(x.mT, whole, dims=([-1], [1])).mT + torch.tensordot(whole, x.tanh(), ([1], [1])).transpose(0, 1),
        lambda x: join(bilinear(split(x), split(x).tanh())),
    ]
    before = draw(st.sampled_from([nn.Identity(), nn.Conv1d(channels, channels, 3, 2, 1), nn.ZeroPad1d((2, 1))]))
    after = draw(st.sampled_from([nn.Identity(), nn.MaxPool1d(2, 1)]))
    return nn.Sequential(before, Function(draw(st.sampled_from(functions)), bilinear), after), channels


@st.composite
def branches(draw: Any) -> Case:
    """Factors of different delay."""
    channels = draw(st.integers(1, 4))
    conv = nn.Conv1d(channels, 2 * channels, 5, padding=2)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.einsum("bkct,bct->bkt", conv(x).unflatten(1, (2, channels)), x),
        lambda x: torch.einsum("bct,bdt->bcdt", x, conv(x)).flatten(1, 2),
        lambda x: (conv(x).mT.unflatten(2, (2, channels)) @ x.mT.unsqueeze(-1)).squeeze(-1).mT,
    ]
    return Function(draw(st.sampled_from(functions)), conv), channels


TABLE: dict[str, st.SearchStrategy[Case]] = {
    "einsum, matmul, bmm, bilinear": products(),
    "products of branches": branches(),
}
