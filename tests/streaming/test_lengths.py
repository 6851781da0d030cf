"""What a module computes from a length: right at every length, also where it falls, or grows at another rate than what it cuts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.streaming import NotStreamable, convert, verify
from service.streaming.graph import Graph, View
from service.streaming.timeline import MOST_FRAMES, Count
from tests.streaming.operators import Function
from tests.streaming.refusal import told

CONV = nn.Conv1d(3, 3, 9)


def filled_up(x: Tensor) -> Tensor:
    need = 9 - x.shape[-1]
    if need > 0:
        x = F.pad(x, (0, need))
    return CONV(x)


def checked(x: Tensor) -> Tensor:
    assert 20 - x.shape[-1] > 0
    return 2 * x


def in_seconds(x: Tensor) -> Tensor:
    assert 2.5 < x.shape[-1] / 4 <= 9
    assert x.shape[-1] / 4 != 4.0
    assert not x.shape[-1] / 4 < 2.75
    assert not x.shape[-1] / 4 >= 9.5
    return x


def of_some_lengths(x: Tensor) -> Tensor:
    assert abs(x.shape[-1] % 5 - 2) < 2
    return x


RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "filled up where it is short": filled_up,
    "filled up by the larger one": lambda x: CONV(F.pad(x, (0, max(0, 9 - x.shape[-1])))),
    "no longer than it may be": checked,
    "cut by what is shorter at first": lambda x: x[..., : 2 * x.shape[-1] - 30],
    "filled up by its last bits": lambda x: F.pad(x, (0, -x.shape[-1] & 3)),
    "of some lengths": of_some_lengths,
    "cut to a rounded part": lambda x: F.avg_pool1d(x, 4, ceil_mode=True)[..., : round(x.shape[-1] / 4)],
    "without the first ones, if there are any": lambda x: x.narrow(-1, 2, x.shape[-1] - 2),
    "times counted on in place": lambda x: [times := torch.arange(x.shape[-1]), times.add_(1), x + times][2],
    "cut to another value's length": lambda x: x[..., : F.interpolate(CONV(x), scale_factor=2.0).shape[-1]],
}


@pytest.mark.parametrize("name", RIGHT)
def test_it_is_right_at_every_length(name: str) -> None:
    module = Function(RIGHT[name], CONV)
    program = convert(module, 3)
    samples = torch.randn(1, 3, 70)
    accepted = [length for length in range(1, 70) if program.accepts(length)]
    assert len(accepted) >= 19
    for length in range(1, 70):
        try:
            wanted = module(samples[..., :length])
        except (RuntimeError, AssertionError):
            assert length not in accepted
        else:
            assert length not in accepted or program.total(length) == wanted.shape[-1]
    verify(program, module, lengths=accepted)


def test_a_ratio_is_compared_as_python_does_it() -> None:
    program = convert(Function(in_seconds), 1)
    assert [length for length in range(1, 70) if program.accepts(length)] == [*range(11, 16), *range(17, 37)]


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "another function of long streams": (lambda x: 3 * x if 20 - x.shape[-1] > 0 else 2 * x, "branch on the length"),
    "filled up or cut": (lambda x: F.pad(x, (0, 9 - x.shape[-1])), "used as a number"),
    "cut to nothing": (lambda x: F.pad(x, (0, -x.shape[-1])), "used as a number"),
    "twice as many, cut to as many": (lambda x: F.interpolate(CONV(x), scale_factor=2.0)[..., : x.shape[-1]], "ever more"),
    "the first half and some": (lambda x: x[..., : x.shape[-1] // 2 + 10], "ever more"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_known_in_time_is_refused(name: str) -> None:
    function, message = WRONG[name]
    with pytest.raises(NotStreamable) as caught:
        convert(Function(function, CONV), 3)
    assert message in told(caught)


def test_a_long_stream_is_verified_beyond_what_the_module_asks() -> None:
    def forward(x: Tensor) -> Tensor:
        assert x.shape[-1] != 1000
        return CONV(x)

    module = Function(forward)
    program = convert(module, 3)
    assert program.regular >= 1000
    assert verify(program, module).outputs > 1000


def test_the_numbers_of_a_value_s_frames_wait_for_no_other_value_as_long() -> None:
    def forward(x: Tensor) -> Tensor:
        later = F.conv1d(x, CONV.weight, padding=4)
        assert later.shape[-1] == x.shape[-1]
        return x * torch.arange(x.shape[-1]) + torch.ones(x.shape)

    module = Function(forward)
    program = convert(module, 3)
    assert program.delay == 0
    verify(program, module)


def test_the_lesser_of_two_that_cross_late_is_known() -> None:
    slow = Count.derive(lambda t: t // 3 + 50, Count.identity(), stride=3)
    quick = Count.derive(lambda t: t * 2 - 40, Count.identity(), empty=None)
    least = Count.derive(lambda a, b: a.clip(max=b), slow, quick, empty=None)
    frames = torch.arange(500)
    assert torch.equal(least(frames)[1:], torch.minimum(slow(frames), quick(frames))[1:])


def test_what_is_regular_too_late_is_refused() -> None:
    late = Count.derive(lambda t: t + MOST_FRAMES - t // 3, Count.identity(), stride=3)
    with pytest.raises(NotStreamable, match="same rate"):
        Count.derive(lambda t, u: t.clip(max=u), Count.identity(), late)


def test_a_rule_that_has_more_ready_than_there_will_be_is_refused() -> None:
    """No module is known that comes so far; a padding that falls is refused where it is asked for."""
    graph = Graph(1)
    falls = Count.derive(lambda t: 9 - t, Count.identity(), empty=None)
    with pytest.raises(NotStreamable, match="a longer stream shorter"):
        graph.finish(View.whole(graph.input).padded(0, falls, 0.0), "here")


class Cropped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        made = self.inner(x[..., 3:].mT)
        return made[0].mT if isinstance(made, tuple) else made


class Upsampled(nn.Upsample):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT)


@pytest.mark.parametrize("inner", [nn.GRU(2, 2, batch_first=True), Upsampled(scale_factor=2)], ids=["GRU", "Upsample"])
def test_what_raises_where_a_crop_leaves_nothing_raises_there(inner: nn.Module) -> None:
    module = Cropped(inner)
    program = convert(module, 2)
    assert [program.accepts(n) for n in range(1, 6)] == [False, False, False, True, True]
    with pytest.raises(RuntimeError):
        module(torch.randn(1, 2, 3))


class Stretched(nn.Module):
    """A recurrence at a lower rate, brought back and cut to what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv1d(1, 2, 6, 3)
        self.memory = nn.GRU(2, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.memory(self.down(x).mT)[0].mT, scale_factor=3)
        shorter = min(x.shape[-1], y.shape[-1])
        return x[..., :shorter] + y[..., :shorter]


def test_a_recurrence_at_a_lower_rate_keeps_every_length() -> None:
    module = Stretched()
    program = convert(module, 1)
    assert [n for n in range(1, 30) if program.accepts(n)] == list(range(6, 30))
    verify(program, module, lengths=list(range(6, 30)))
