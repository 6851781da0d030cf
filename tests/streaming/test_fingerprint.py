"""Networks with one fingerprint give one output: else one would take over the other's states and replays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.streaming import convert
from service.streaming.fingerprint import network
from tests.streaming.operators import Function, weighted
from tests.streaming.test_contract import TABLE


@pytest.mark.parametrize("name", TABLE)
@settings(max_examples=settings.default.max_examples // 100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 2**20))
def test_networks_that_give_different_outputs_have_different_fingerprints(name: str, data: st.DataObject, seed: int) -> None:
    outputs: dict[tuple[str, int], Tensor] = {}
    for module, channels in data.draw(st.lists(TABLE[name], min_size=6, max_size=6)):
        module = weighted(module, seed)
        print_of_it = network(convert(module, channels).graph)
        signal = torch.randn(1, channels, 60, generator=torch.Generator().manual_seed(seed))
        try:
            with torch.no_grad():
                output = module(signal)
        except (RuntimeError, ValueError, AssertionError, IndexError):
            continue  # not of this length, or without such a row in its table
        first = outputs.setdefault((print_of_it, channels), output)
        assert first.shape == output.shape
        assert torch.equal(first.nan_to_num(1e9), output.nan_to_num(1e9))


def interleaved(factor: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.unflatten(1, (factor, -1)).permute(0, 2, 3, 1).flatten(2)


def in_turns(size: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x * (torch.arange(x.shape[-1]) % size)


def in_buckets(right: bool) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.bucketize(x.contiguous(), torch.tensor([0.0, 1.0]), right=right).float()


@pytest.mark.parametrize(
    "functions",
    [
        [
            lambda x: F.pad(x, (1, 0), mode="replicate"),
            lambda x: F.pad(x, (2, 0), mode="replicate"),
            lambda x: F.pad(x, (1, 2), mode="replicate"),
            lambda x: F.pad(x, (1, 2), mode="reflect"),
            lambda x: torch.cat([x[..., :1], x], -1),
        ],
        [lambda x: x[..., ::2], lambda x: x[..., ::3], lambda x: x[..., 1::3]],
        [interleaved(2), interleaved(3)],
        [in_turns(2), in_turns(3)],
        [lambda x: x.argsort(1) * 1.0, lambda x: x.argsort(1, descending=True) * 1.0],
        [in_buckets(False), in_buckets(True)],
    ],
    ids=["padding", "slices", "channels into time", "turns", "orders", "buckets"],
)
def test_what_only_numbers_tell_apart(functions: list[Callable[[Tensor], Tensor]]) -> None:
    found = {network(convert(nn.Sequential(Function(function), nn.ReLU()), 6).graph) for function in functions}
    assert len(found) == len(functions)
