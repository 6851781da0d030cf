"""The demo's network is causal and reaches back exactly as far as it says."""

from __future__ import annotations

import torch

from service.demo.network import BearingNet

FRAMES = 1600


def outputs_that_depend_on(frame: int) -> torch.Tensor:
    torch.manual_seed(0)
    network = BearingNet().eval()
    x = torch.randn(1, 3, FRAMES)
    x[..., frame] = torch.nan
    with torch.inference_mode():
        return network(x)[0, 0].isnan().nonzero().flatten()


def test_an_output_depends_on_its_own_sample_and_none_after_it() -> None:
    decimation = BearingNet.decimation
    for frame in range(640, 640 + decimation):
        first = int(outputs_that_depend_on(frame)[0])
        assert first == -(-frame // decimation)


def test_an_output_depends_on_exactly_its_receptive_field() -> None:
    last = 150
    oldest = last * BearingNet.decimation - BearingNet.receptive_field + 1
    assert last in outputs_that_depend_on(oldest)
    assert last not in outputs_that_depend_on(oldest - 1)


def test_scores_are_probabilities_125_times_a_second() -> None:
    with torch.inference_mode():
        scores = BearingNet().eval()(torch.randn(4, 3, 1000))
    assert scores.shape == (4, 1, 125)
    assert ((scores >= 0) & (scores <= 1)).all()
