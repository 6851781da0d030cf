"""Training: examples that say what is damaged and what counts, and the same network for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.demo.network import BearingNet
from service.demo.train import Examples, examples, train


@pytest.fixture(scope="module")
def data() -> Examples:
    return examples(16, np.random.default_rng(0))


def test_half_of_the_windows_are_healthy_and_count_throughout(data: Examples) -> None:
    assert not data.damaged[::2].any()
    assert data.counts[::2].all()
    assert data.damaged[1::2].any()


def test_a_damaged_pump_counts_once_a_receptive_field_of_it_was_heard(data: Examples) -> None:
    heard = -(-BearingNet.receptive_field // BearingNet.decimation)
    damaged = data.damaged.bool()
    assert not (damaged & data.counts.bool())[..., :heard].any()
    assert data.counts.bool()[..., heard:][damaged[..., heard:]].all()


def test_faults_too_weak_to_hear_do_not_count(data: Examples) -> None:
    assert not data.counts[1::2].all(dim=-1).all()


def test_the_same_seed_trains_the_same_network(data: Examples) -> None:
    first, second, other = (train(data, seed) for seed in (1, 1, 2))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not first.training
