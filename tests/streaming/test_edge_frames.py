"""A value's first or last frame pads its own ends, and nothing else streams of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.streaming import NotStreamable, convert, verify
from tests.streaming.operators import Function
from tests.streaming.refusal import told

RNN = nn.GRU(2, 2)
REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "what has happened since": (lambda x: x - x[..., :1], "sub of a value's first or last frame"),
    "the frame less than the rest": (lambda x: x[..., -1:] * x, "mul of a value's first or last frame"),
    "an output": (lambda x: x[:, :, -1:], "an output of a value's first or last frame"),
    "of another value": (lambda x: torch.cat([F.relu(x)[..., :1], x], -1), "cat with another value"),
    "the last one before the first": (lambda x: torch.cat([x[..., -1:], x], -1), "at the other end"),
    "the first one behind the last": (lambda x: torch.cat([x, x[..., 0:1]], -1), "at the other end"),
    "between two values": (lambda x: torch.cat([x, x[..., :1], x], -1), "cat with other values or constants"),
    "beside zeros": (lambda x: torch.cat([torch.zeros(1, 2, 1), x[..., :1], x], -1), "cat with other values or constants"),
    "as a channel": (lambda x: torch.cat([x[..., :1], x], 1), "cat over channels"),
    "truths": (lambda x: [y := x > 0, torch.cat([y[..., :1], y], -1).float()][1], "Convert it with .float()"),
    "a module": (lambda x: RNN(x[..., :1].permute(2, 0, 1))[0], "permute of a value's first or last frame"),
    "more channels": (lambda x: torch.cat([x[..., :1].repeat(1, 2, 1), x], -1), "repeat to"),
    "a branch": (lambda x: x if x[..., :1] > 0 else -x, "gt of a value's first or last frame"),
    "compared": (lambda x: x if x[..., :1] == 0 else -x, "eq of a value's first or last frame"),
    "a loop": (lambda x: x if list(x[..., :1]) else -x, "a loop of a value's first or last frame"),
    "as often as there are frames": (lambda x: x * x[..., :1].expand(-1, -1, x.shape[-1]), "expand to"),
    "assigned to": (lambda x: [y := x * 2, y.__setitem__((..., slice(0, 1)), 0.0), y][2], "an assignment to some of the frames"),
    "changed in place": (lambda x: x[..., :1].mul_(2), "mul_ of a value's first or last frame"),
    "a copy of what has changed": (
        lambda x: [y := x * 2, edge := y[..., :1].clone(), y.add_(1), torch.cat([edge, y], -1)][3],
        "cat with another value",
    ),
    "a copy, perhaps, of what has changed": (
        lambda x: [y := x * 2, edge := y[..., :1].contiguous(), y.add_(1), torch.cat([edge, y], -1)][3],
        "in-place change through another view",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_all_else_is_refused_by_name(name: str) -> None:
    function, message = REFUSED[name]

    with pytest.raises(NotStreamable) as caught:
        convert(nn.Sequential(Function(function)), 2)  # type: ignore[arg-type]

    assert message in told(caught)


def test_a_value_without_a_frame_has_none_to_repeat() -> None:
    module = Function(lambda x: torch.cat([x[..., 3:][..., :1].repeat(1, 1, 2), x[..., 3:]], -1))
    program = convert(module, 1)

    assert [program.total(length) for length in (1, 3, 4, 5)] == [0, 0, 3, 4]
    assert verify(program, module, lengths=[1, 3, 4, 9]).bit_equal


def test_or_the_module_raises() -> None:
    module = Function(lambda x: torch.cat([x[..., 3:][..., :1].expand(-1, -1, 2), x[..., 3:]], -1))
    program = convert(module, 1)

    assert [program.accepts(length) for length in (1, 3, 4, 5)] == [False, False, True, True]
    assert verify(program, module, lengths=[4, 5, 9]).bit_equal


def test_a_frame_tells_its_size() -> None:
    def sized(x: Tensor) -> Tensor:
        edge = x[..., :1]
        assert edge.shape[-1] == edge.size(-1) == 1
        assert (edge.ndim, edge.dim(), edge.dtype, edge.size(1)) == (3, 3, torch.float32, 2)
        return torch.cat([edge.detach(), x], 2)

    assert convert(Function(sized), 2).delay == 0
