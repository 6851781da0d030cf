"""Where numbers are tied, stuck, signed zeros or too large, a program still gives what its module gives, however it is chunked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.streaming import NotStreamable, Ragged, convert, verify
from service.streaming.operators import binary
from service.streaming.operators.arithmetic import maximum, minimum
from service.streaming.operators.reduction import deviation
from service.streaming.verify import same_bits
from tests.streaming.operators import Function
from tests.streaming.refusal import told


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Tolerances are tight here."""
    torch.manual_seed(0)


def streamed(function: Callable[[Tensor], Tensor], frames: Tensor, chunk: int) -> Tensor:
    """The outputs of a stream [T, C] that is fed so many frames at a time, [M, C_out]."""
    program = convert(Function(function), frames.shape[1])
    state = program.new_state(2)
    outputs = []
    for first in range(0, len(frames), chunk):
        part = frames[first : first + chunk]
        last = torch.tensor([first + chunk >= len(frames)])
        outputs.append(program.step(state, torch.tensor([1]), Ragged(part, torch.tensor([len(part)])), last).values)
    return torch.cat(outputs)


def offline(function: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    return function(frames.t().unsqueeze(0)).squeeze(0).t().float()


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("descending", [False, True])
def test_ties_are_sorted_in_the_module_s_order(stable: bool, descending: bool) -> None:
    counts = torch.randint(-2, 3, (20, 24)).float()

    def order(x: Tensor) -> Tensor:
        places = torch.argsort(x, dim=1, descending=descending, stable=stable)
        return torch.cat([torch.sort(x, dim=1, descending=descending, stable=stable).indices, places], 1)

    for chunk in (1, 7, 20):
        assert torch.equal(streamed(order, counts, chunk), offline(order, counts))


@pytest.mark.parametrize("columns", [16, 17, 24, 33, 100, 257, 1000])
def test_the_order_of_ties_does_not_depend_on_the_number_of_rows(columns: int) -> None:
    counts = torch.randint(0, 4, (41, columns)).float()
    whole = counts.sort(1).indices

    for rows in range(1, 9):
        assert torch.equal(torch.cat([part.clone().sort(1).indices for part in counts.split(rows)]), whole)


@pytest.mark.parametrize("stuck", [0.1, 3.3, 21.7, -1e-7, 1e20, 3e38])
def test_what_is_stuck_does_not_deviate(stuck: float) -> None:
    def spread(x: Tensor) -> Tensor:
        windows = x.unfold(-1, 7, 1)
        return torch.cat([windows.std(-1), windows.var(-1, correction=0)], 1)

    frames = torch.full((20, 2), stuck)

    assert torch.equal(offline(spread, frames), torch.zeros(14, 4))
    assert torch.equal(streamed(spread, frames, 3), torch.zeros(14, 4))


def test_deviations_are_torch_s_where_numbers_are_large_or_none() -> None:
    def spread(x: Tensor) -> Tensor:
        windows = x.unfold(-1, 5, 1)
        return torch.cat([windows.std(-1), windows.var(-1, unbiased=False)], 1)

    frames = torch.randn(200, 1) * 10.0 ** torch.randint(-20, 21, (200, 1)) + 1000.0
    frames[::37], frames[20::41], frames[60::67] = torch.inf, torch.nan, 1e20

    for chunk in (1, 3, 200):
        torch.testing.assert_close(streamed(spread, frames, chunk), offline(spread, frames), equal_nan=True, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("columns", [1, 2, 7, 16, 33, 129, 1025])
def test_a_deviation_does_not_depend_on_the_number_of_rows(columns: int) -> None:
    rows = torch.randn(41, columns) * 3 + 100
    whole = deviation(rows, 0.0)

    for count in (1, 2, 3, 8, 40):
        assert torch.equal(torch.cat([deviation(part.clone(), 0.0) for part in rows.split(count)]), whole)


def _assigned(x: Tensor) -> Tensor:
    flagged, within = x.clamp(-3, 3).long(), x > 0
    flagged[x.abs() > 2], within[x.abs() > 2] = 4.7, 5
    return torch.cat([flagged, within], 1)


FILLS: dict[str, Callable[[Tensor], Tensor]] = {
    "a whole number by a fraction": lambda x: (x * 3).long().masked_fill(x > 1, 2.5),
    "a whole number by less than none": lambda x: (x * 3).int().masked_fill(x > 1, -0.5),
    "a truth by a number": lambda x: (x < 0).masked_fill(x > 1, 5),
    "a number by a constant": lambda x: x.masked_fill(x > 1, torch.tensor(True)).masked_fill(x < -1, torch.tensor(0.1).double()),
    "assignments": _assigned,
}


@pytest.mark.parametrize("name", FILLS)
def test_what_is_filled_in_becomes_a_number_of_the_value_s_kind(name: str) -> None:
    frames = torch.randn(40, 2) * 2

    assert torch.equal(streamed(FILLS[name], frames, 7), offline(FILLS[name], frames))


NO_FILLS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "too large a number": (lambda x: x.long().masked_fill(x > 0, 2**24 + 1).float(), "as large as 16777217"),
    "no whole number": (lambda x: x.long().masked_fill(x > 0, torch.nan).float(), "without overflow"),
    "values": (lambda x: x.masked_fill(x > 0, x.mean(1, True)), "masked_fill with values"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", NO_FILLS)
def test_what_cannot_be_filled_in_is_refused(name: str) -> None:
    function, message = NO_FILLS[name]

    with pytest.raises(NotStreamable) as caught:
        convert(Function(function), 2)

    assert message in told(caught)


LEVELS = torch.tensor([[1.0], [-2.0]])
BLENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "all of the end": lambda x: torch.lerp(x, x.sigmoid(), 1.0),
    "most of the end": lambda x: x.lerp(end=-x, weight=0.7),
    "little of the end": lambda x: torch.lerp(input=LEVELS, end=x, weight=0.3),
    "where something is": lambda x: torch.lerp(x, LEVELS, (x.abs() > 1e6).float()),
    "by constants": lambda x: torch.lerp(x, x.tanh(), torch.tensor([[0.2], [0.9]])),
    "in place": lambda x: (x * 1).lerp_(x.tanh(), (x > 0).float()),
}


@pytest.mark.parametrize("name", BLENDS)
def test_a_blend_is_exactly_its_end_where_its_weight_is_one(name: str) -> None:
    frames = torch.randn(40, 2)
    frames[7], frames[9, 1] = 3.4e38, 1e10

    expected = offline(BLENDS[name], frames)

    for chunk in (1, 3, 40):
        torch.testing.assert_close(streamed(BLENDS[name], frames, chunk), expected, rtol=2e-6, atol=1e-7)


class Together(nn.Module):
    """A function of two values, of which a maximum over time is taken: they are remembered."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool1d(self.function(x, x.abs() + 0.5), 2, 1)


@pytest.mark.parametrize("function", [torch.atan2, torch.xlogy, torch.logaddexp, torch.hypot, torch.fmod, torch.remainder])
def test_a_function_of_two_values_may_be_remembered(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    module = Together(function)

    assert verify(convert(module, 2), module).bit_equal


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, torch.inf, -torch.inf, torch.nan, 1e-45, -1e-45, 1e-30, 0.7, 3.4e38, -3.4e38]
CHANCE = torch.Generator().manual_seed(0)
PAIRS = torch.cartesian_prod(torch.tensor(SPECIAL), torch.tensor(SPECIAL)).repeat(5, 1)[
    torch.randperm(5 * len(SPECIAL) ** 2, generator=CHANCE)
]
MAGNITUDES = torch.randn(4000, 2, generator=CHANCE) * 10.0 ** torch.randint(-44, 38, (4000, 2), generator=CHANCE)
JOINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "remainder": binary.remainder,
    "fmod": binary.fmod,
    "hypot": binary.hypot,
    "maximum": maximum,
    "minimum": minimum,
}


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("pairs", [PAIRS, MAGNITUDES], ids=["special", "of all magnitudes"])
def test_a_function_of_two_numbers_gives_them_the_same_bits_in_any_company(name: str, pairs: Tensor) -> None:
    one, other = pairs.unbind(1)
    function = JOINED[name]
    whole = function(one.clone(), other.clone())

    for rows in (1, 3, 8, 17, 100):
        parts = [function(*part.clone().unbind(1)) for part in pairs.split(rows)]
        assert same_bits(torch.cat(parts), whole)


@pytest.mark.parametrize("divisor", [0.7, -360.0, 1e-3])
def test_a_remainder_is_torch_s_and_of_the_largest_number_too(divisor: float) -> None:
    frames = torch.randn(40, 2) * 1000
    frames[5:30, 0] = 3.4e38

    def left(x: Tensor) -> Tensor:
        return torch.cat([x % divisor, torch.fmod(x, divisor), torch.remainder(x, 0.5 + x.abs())], 1)

    expected = torch.cat([offline(left, frame.unsqueeze(0)) for frame in frames])

    for chunk in (1, 3, 40):
        assert torch.equal(streamed(left, frames, chunk), expected)


ZEROS: dict[str, Callable[[Tensor], Tensor]] = {
    "the larger of two": lambda x: torch.maximum(x[:, :1], x[:, 1:]),
    "the smaller of two": lambda x: torch.min(x[:, :1], x[:, 1:]),
    "the larger of one and none": lambda x: torch.maximum(x, torch.zeros(1)) + torch.minimum(torch.tensor(-0.0), x),
    "the larger of one and constants": lambda x: torch.maximum(x, torch.tensor([[0.0], [-0.0]])),
    "within bounds that are values": lambda x: torch.cat([x[:, :1].clamp(x[:, 1:], -x[:, 1:]), x.clamp(x.flip(1), None)], 1),
    "softshrink": lambda x: torch.cat([F.softshrink(x, 0.3), F.softshrink(x)], 1),
    "running extremes": lambda x: torch.cat([x.cummax(-1).values, x.cummin(-1).values], 1),
}


@pytest.mark.parametrize("name", ZEROS)
def test_the_sign_of_a_zero_does_not_depend_on_chunks(name: str) -> None:
    frames = torch.tensor([0.0, -0.0, 0.0, -0.0, 1.0, -1.0, torch.nan, -torch.inf])[torch.randint(0, 8, (80, 2))]
    whole = streamed(ZEROS[name], frames, 80)

    torch.testing.assert_close(whole, offline(ZEROS[name], frames), equal_nan=True, rtol=0.0, atol=0.0)
    for chunk in (1, 3, 17):
        assert same_bits(streamed(ZEROS[name], frames, chunk), whole)


def test_of_zeros_the_running_extreme_is_the_module_s() -> None:
    frames = torch.tensor([0.0, -0.0])[torch.randint(0, 2, (40, 2))]

    assert same_bits(streamed(ZEROS["running extremes"], frames, 7), offline(ZEROS["running extremes"], frames).contiguous())


def test_a_hypotenuse_is_torch_s_of_the_smallest_and_the_largest_numbers() -> None:
    one, other = torch.cat([PAIRS, MAGNITUDES]).unbind(1)

    torch.testing.assert_close(binary.hypot(one, other), torch.hypot(one, other), equal_nan=True, rtol=3e-7, atol=2e-45)


SQUARE = torch.randn(2, 2)
NOTHING = torch.full((2,), torch.nan)
PRODUCTS: dict[str, Callable[[Tensor], Tensor]] = {
    "of frames by name": lambda x: torch.addmm(torch.ones(2), mat1=x.mT.reshape(-1, 2), mat2=SQUARE).view(1, -1, 2).mT,
    "of batches by name": lambda x: torch.baddbmm(input=torch.ones(1, 1, 1), batch1=x.mT, batch2=SQUARE[None], alpha=0.5).mT,
    "of frames and nothing": lambda x: torch.addmm(NOTHING, x.mT.reshape(-1, 2), SQUARE, beta=0).view(1, -1, 2).mT,
    "of batches and nothing": lambda x: torch.baddbmm(NOTHING, x.mT, SQUARE[None], beta=0.0, alpha=2).mT,
    "into what is ignored": lambda x: (x.mT.log()).baddbmm_(x.mT, SQUARE[None], beta=0).mT,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_what_a_product_is_added_to_is_ignored_times_nothing(name: str) -> None:
    frames = torch.randn(30, 2)

    made = streamed(PRODUCTS[name], frames, 7)

    torch.testing.assert_close(made, offline(PRODUCTS[name], frames))


def _added(x: Tensor) -> Tensor:
    total = torch.zeros(1, 2, 1)
    total += x
    return total


def _put(x: Tensor) -> Tensor:
    frame = torch.zeros(1, 2, 1)
    frame[:, 0:1] = x[:, 1:]
    return x + frame


def _filled(x: Tensor) -> Tensor:
    return torch.zeros(1, 2, 1).masked_fill_(x > 0, 1.0)


@pytest.mark.parametrize("function", [_added, _put, _filled], ids=lambda function: function.__name__)
def test_a_value_is_not_written_into_a_constant(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(NotStreamable) as caught:
        convert(Function(function), 2)

    assert "values written into a constant" in told(caught)
    assert "torch.zeros_like(x)" in told(caught)


NUMBERED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plus one, rounded twice": lambda x, frame: x * 0 + (frame.float() + 1) + 1,
    "minus one as a whole number": lambda x, frame: x * 0 + (frame - 1),
    "a third": lambda x, frame: x * 0 + frame / 3,
    "scaled": lambda x, frame: x * 0 + frame * 0.001 + (3 * frame).float(),
    "in turns": lambda x, frame: x * 0 + (frame + 5) % 1000 + torch.remainder(frame * 7, 50),
    "the remainder of a float32": lambda x, frame: x * 0 + frame.float() % 1000,
}


@pytest.mark.parametrize("name", NUMBERED)
def test_frames_are_numbered_as_torch_rounds_them_after_months(name: str) -> None:
    function = NUMBERED[name]
    frames = torch.randn(9, 1)

    for begun in (0, 2**24 - 3, 2**31 + 12_345):
        program = convert(Function(lambda x: function(x, torch.arange(x.shape[-1]))), 1)
        state = program.new_state(2)
        state.frames[1] = begun
        made = program.step(state, torch.tensor([1]), Ragged(frames, torch.tensor([len(frames)]))).values

        expected = function(frames.t().unsqueeze(0), torch.arange(begun, begun + len(frames)))

        assert same_bits(made, expected.squeeze(0).t())
