"""Windows of the last frames: what they mean, at any size and at the beginning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from service.nn import ExponentialSmoothing, SlidingMax, SlidingMean, SlidingMin
from service.streaming import NotStreamable, Ragged, convert, verify

KINDS = {
    SlidingMean: lambda window: window.mean(-1),
    SlidingMax: lambda window: window.amax(-1),
    SlidingMin: lambda window: window.amin(-1),
}


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 31, 32, 33, 100, 257])
@pytest.mark.parametrize("kind", KINDS)
def test_every_output_is_the_function_of_its_window(kind: type, size: int) -> None:
    x = torch.randn(2, 3, 120)
    expected = torch.stack([KINDS[kind](x[..., max(0, j - size + 1) : j + 1]) for j in range(120)], -1)

    torch.testing.assert_close(kind(size)(x), expected)
    torch.testing.assert_close(kind(size, layout="BTC")(x.transpose(1, 2)), expected.transpose(1, 2))
    program = convert(kind(size), 3)
    made = program.step(program.new_state(2), torch.tensor([1]), Ragged(x[1].t().contiguous(), torch.tensor([120])))
    torch.testing.assert_close(made.values.t(), expected[1])


@pytest.mark.parametrize("kind", KINDS)
def test_large_windows_stream_at_the_cost_of_few_elements(kind: type) -> None:
    program = convert(kind(1000), 2)

    assert verify(program, kind(1000), lengths=[1, 999, 1000, 2500]).bit_equal
    assert program.history == 999
    assert program.receptive_field == 1000
    assert program.delay == 0
    assert sum(len(node.operator.window.offsets) for node in program.graph.nodes if hasattr(node.operator, "window")) < 40


def test_an_infinity_is_gone_once_the_window_has_passed_it() -> None:
    samples = torch.ones(60, 1)
    samples[10] = torch.inf
    program = convert(SlidingMean(20), 1)

    made = program.step(program.new_state(2), torch.tensor([1]), Ragged(samples, torch.tensor([60]))).values.flatten()

    assert made.isinf().nonzero().flatten().tolist() == list(range(10, 30))
    assert made[30:].tolist() == [1.0] * 30


def test_a_mean_does_not_drift() -> None:
    samples = torch.cat([torch.full((500, 1), 1e6), torch.full((500, 1), 1.0)])
    program = convert(SlidingMean(100), 1)

    made = program.step(program.new_state(2), torch.tensor([1]), Ragged(samples, torch.tensor([1000]))).values

    assert made[-400:].flatten().tolist() == [1.0] * 400


@pytest.mark.parametrize("module", [SlidingMean(3), ExponentialSmoothing(0.5)])
def test_a_layout_that_is_not_the_module_s_is_refused(module: nn.Module) -> None:
    with pytest.raises(NotStreamable, match=rf"{type(module).__name__} of \[B, T, C\].*It takes \[B, C, T\]"):
        convert(module, 2, layout="BTC")


def test_a_subclass_that_changes_what_is_computed_is_traced_through() -> None:
    class Doubled(SlidingMean):
        def offline(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    module = Doubled(5)

    assert verify(convert(module, 2), module).bit_equal


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlidingMean(0), "size is 0"),
        (lambda: SlidingMax(3, layout="TBC"), "layout is 'TBC'"),
        (lambda: ExponentialSmoothing(1.5), "alpha is 1.5"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
