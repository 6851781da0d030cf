"""Branches on the length: what is put together, and what is refused with the line of the first question."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.streaming import NotStreamable, Ragged, StreamLengthError, convert, verify
from tests.streaming.operators import Function
from tests.streaming.refusal import told


def filled(x: Tensor) -> Tensor:
    if x.shape[-1] % 2:
        x = F.pad(x, (0, 1), value=7.0)
    return F.max_pool1d(x, 2)


def test_the_way_is_taken_when_the_stream_ends_and_not_before() -> None:
    program = convert(Function(filled), 1)
    state, slots = program.new_state(3), torch.tensor([1, 2])
    frames = torch.arange(6.0).unsqueeze(1)

    made = program.step(state, slots, Ragged(torch.cat([frames[:3], frames[:4]]), torch.tensor([3, 4])))
    assert made.values.flatten().tolist() == [1.0, 1.0, 3.0]
    rest = program.step(state, slots, Ragged(frames[:0], torch.tensor([0, 0])), torch.tensor([True, True]))
    assert rest.values.flatten().tolist() == [7.0]
    assert [program.total(n) for n in range(6)] == [0, 1, 1, 2, 2, 3]


def test_lengths_at_which_a_way_raises_are_refused_and_the_others_are_not() -> None:
    def raising(x: Tensor) -> Tensor:
        y = F.pad(x, (0, 2)) if x.shape[-1] % 3 else x
        assert y.shape[-1] % 3 != 1, "neither"
        return y

    program = convert(Function(raising), 1)

    assert [program.accepts(n) for n in range(1, 7)] == [True, False, True, True, False, True]
    with pytest.raises(StreamLengthError):
        program.step(program.new_state(2), torch.tensor([1]), Ragged(torch.ones(2, 1), torch.tensor([2])), torch.tensor([True]))


def test_only_the_ways_that_some_length_takes_are_gone() -> None:
    ways: list[int] = []

    def counted(x: Tensor) -> Tensor:
        for divisor in (2, 4, 8):
            if x.shape[-1] % divisor:
                x = F.pad(x, (0, divisor - x.shape[-1] % divisor))
        ways.append(x.ndim)
        return x

    convert(Function(counted), 1)

    # Odd or not, then two more or not, then four; the first way again, to see whether it remembers anything; four whole streams.
    assert len(ways) == 8 + 1 + 4


def shortened(x: Tensor) -> Tensor:
    while x.shape[-1] > 1:
        x = F.max_pool1d(x, 2)
    return x


ANSWERS = "a branch on the length"
REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "another computation": (lambda x: x if x.shape[-1] > 5 else x * 2, ANSWERS),
    "other weights": (lambda x: F.conv1d(x, torch.ones(1, 1, 1) * (2 if x.shape[-1] % 2 else 3)), ANSWERS),
    "another beginning": (lambda x: x if x.shape[-1] % 2 else F.pad(x, (1, 0)), ANSWERS),
    "another number to pad with": (lambda x: F.pad(x, (0, 1), value=1.0 if x.shape[-1] % 2 else 2.0), ANSWERS),
    "mirrored by another amount": (lambda x: F.pad(x, (0, 1 + x.shape[-1] % 2), mode="reflect"), ANSWERS),
    "other nodes": (lambda x: F.max_pool1d(x, 3 if x.shape[-1] % 2 else 2), ANSWERS),
    "padding on the left": (lambda x: F.pad(x, (x.shape[-1] % 2, 0)), "padding on the left"),
    "a few at the beginning": (lambda x: x[..., : x.shape[-1] % 2], "slice of time that ends at"),
    "fewer from more": (lambda x: x[..., : x.shape[-1] + x.shape[-1] % 2 * 4], "end it earlier"),
    "fewer with padding": (lambda x: F.pad(x, (0, x.shape[-1] % 2 * 3)), "longer streams shorter"),
    "a loop until it is short": (shortened, "branches in a row"),
    "a length as a number": (lambda x: x[:, : int(x.shape[-1])], "used as a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_put_together_is_refused(name: str) -> None:
    function, message = REFUSED[name]

    with pytest.raises(NotStreamable, match=r"test_paths\.py:\d+") as caught:
        convert(Function(function), 1)

    assert message in told(caught)


def test_a_module_that_raises_on_every_way_is_refused() -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x if x.shape[-1] % 2 else x[..., :-2]
            return y + F.pad(x, (0, 1))

    with pytest.raises(NotStreamable, match="raises at every length"):
        convert(Never(), 1)


def not_less(x: Tensor) -> Tensor:
    if not (x.shape[-1] >= 5):
        raise ValueError("short")
    return 2 * x


def asserted_not(x: Tensor) -> Tensor:
    assert not x.shape[-1] < 5
    return 2 * x


def both(x: Tensor) -> Tensor:
    if x.shape[-1] >= 5 and x.shape[-1] % 2:
        raise ValueError("odd")
    return 2 * x


def either(x: Tensor) -> Tensor:
    assert x.shape[-1] >= 5 or x.shape[-1] % 2 == 0
    return 2 * x


def between(x: Tensor) -> Tensor:
    assert 5 <= x.shape[-1] <= 30, "neither short nor long"
    return 2 * x


def outside(x: Tensor) -> Tensor:
    if 5 <= x.shape[-1] <= 30:
        raise ValueError("neither short nor long")
    return 2 * x


def kept_for_later(x: Tensor) -> Tensor:
    even = x.shape[-1] % 2 == 0
    if not even:
        raise ValueError("odd")
    return 2 * x


def one_after_the_other(x: Tensor) -> Tensor:
    if x.shape[-1] % 2 == 1:
        raise ValueError("odd")
    if x.shape[-1] > 50:
        raise ValueError("long")
    return 2 * x


@pytest.mark.parametrize("function", [not_less, asserted_not, both, either, between, outside, kept_for_later, one_after_the_other])
def test_a_module_refuses_lengths_in_whatever_words(function: Callable[[Tensor], Tensor]) -> None:
    program = convert(Function(function), 1)
    for length in range(1, 70):
        try:
            function(torch.ones(1, 1, length))
        except (ValueError, AssertionError):
            assert not program.accepts(length), length
        else:
            assert program.accepts(length), length


def test_what_goes_wrong_on_one_way_is_not_taken_for_a_refusal() -> None:
    def wrong(x: Tensor) -> Tensor:
        if x.shape[-1] % 2:
            return [x][int("7")]
        return x

    with pytest.raises(NotStreamable, match="tracing the module raised IndexError"):
        convert(Function(wrong), 1)


def test_a_module_that_refuses_every_length_is_refused() -> None:
    def never(x: Tensor) -> Tensor:
        if x.shape[-1] % 2:
            raise ValueError("odd")
        raise ValueError("even")

    with pytest.raises(NotStreamable, match="raises at every length") as caught:
        convert(Function(never), 1)
    assert "even" in told(caught) or "odd" in told(caught)


@pytest.mark.parametrize("name", ["cummax", "cummin", "logcumsumexp"])
def test_what_a_recurrence_begins_with_is_the_same_on_all_ways(name: str) -> None:
    """As two halves of a float64, minus infinity is no number."""

    def running(x: Tensor) -> Tensor:
        y = getattr(x, name)(-1)
        return filled(y if isinstance(y, Tensor) else y[0])

    module = Function(running)
    assert verify(convert(module, 1), module).outputs > 0
