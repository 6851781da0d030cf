"""The last look at a conversion: what computes something else than its module is refused, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.streaming import NotStreamable, Ragged, convert, selfcheck
from tests.streaming.operators import Function

DIFFERENT: dict[str, Callable[[Tensor], Tensor]] = {
    "the type of a tensor": lambda x: x * 2 if type(x) is Tensor else x,
    "the type of a length": lambda x: x * 2 if isinstance(x.shape[-1], int) else x,
    "the type of a shape": lambda x: F.pad(x, (1, 0)) if isinstance(x.shape, torch.Size) else x,
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_module_that_tells_a_symbol_from_a_tensor_is_refused(name: str) -> None:
    with pytest.raises(NotStreamable, match="something else than its module"):
        convert(Function(DIFFERENT[name]), 2)


def test_a_module_that_raises_where_its_network_would_not_is_refused() -> None:
    def forward(x: Tensor) -> Tensor:
        if type(x) is Tensor and x.shape[-1] == 2:
            raise ValueError("two are too few")
        return x

    with pytest.raises(NotStreamable, match="of 2 frames, where the module raises ValueError: two are too few"):
        convert(Function(forward), 2)


def test_what_jumps_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a thousand outputs."""
    calls = iter(range(99))

    def forward(x: Tensor) -> Tensor:
        y = x.tanh()
        if type(x) is Tensor and y.shape[-1] > 100:
            y[..., next(calls)] += 1
        return y

    monkeypatch.setattr(selfcheck, "_lengths", lambda _: iter([1, 1000]))
    assert convert(Function(forward), 1).channels == 1


def test_nor_is_what_jumps_in_one_channel_and_then_in_another() -> None:
    calls = iter(range(99))

    def forward(x: Tensor) -> Tensor:
        y = x.tanh()
        if type(x) is Tensor:
            y[:, next(calls) % 2] += 1
        return y

    assert convert(Function(forward), 2).channels == 2


def one_channel_of_many(x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(199, 1) + x[:, :1], x[:, :1] * 2 if type(x) is Tensor else x[:, :1]], 1)


def a_small_one_beside_a_large_one(x: Tensor) -> Tensor:
    return torch.cat([x * 1e5, x * 2 if type(x) is Tensor else x], 1)


def of_logarithms(x: Tensor) -> Tensor:
    y = F.avg_pool1d(x.log(), 8)
    return y * 2 if type(x) is Tensor else y


@pytest.mark.parametrize("function", [one_channel_of_many, a_small_one_beside_a_large_one, of_logarithms])
def test_every_channel_is_looked_at(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(NotStreamable, match="something else than its module"):
        convert(Function(function), 2)


def test_a_network_whose_indices_nobody_finds_at_random_is_taken_at_its_word() -> None:
    class Lookups(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList(nn.Embedding(100, 2) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            index = (x * 99).round().long()
            return torch.cat([table(index[:, place]) for place, table in enumerate(self.tables)], 2).transpose(1, 2)

    program = convert(Lookups(), 4)
    assert program.step(program.new_state(2), torch.tensor([1]), Ragged(torch.rand(3, 4), torch.tensor([3]))).values.shape == (3, 8)


def test_modules_with_a_number_for_each_pair_of_frames_are_looked_at_in_shorter_streams() -> None:
    lengths: list[int] = []

    def banded(x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        if type(x) is Tensor:
            lengths.append(x.shape[-1])
        mask = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.bool).tril().triu(-599)
        for _ in range(3):
            y = F.scaled_dot_product_attention(y, y, y, attn_mask=mask)
        return y.transpose(1, 2)

    assert convert(Function(banded), 4).history == 3 * 599
    assert max(lengths) == 1024
