"""The network that the benches run."""

import pytest
import torch

from service.bench.contenders import bench_network


@pytest.mark.parametrize(("distance", "heard"), [(0, True), (510, True), (511, False), (-1, False)])
def test_an_output_hears_exactly_the_samples_of_its_receptive_field(distance: int, heard: bool) -> None:
    network = bench_network().double()
    x = torch.randn(1, 3, 700, dtype=torch.float64)
    output = 600
    changed = x.clone()
    changed[..., output - distance] += 1
    with torch.inference_mode():
        difference = (network(x) - network(changed))[0, 0, output].abs()
    assert bool(difference > 0) == heard
    assert network.receptive_field == 511


def test_the_weights_are_the_same_at_every_run_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    first, second = bench_network(), bench_network()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.randn(3), expected)
