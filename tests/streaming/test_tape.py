"""A step as one call: the same bits as call by call, whatever grows, moves or stays away in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.bench.network import Network
from service.streaming import Program, Ragged, convert
from service.streaming import program as programs
from service.streaming.arena import State
from service.streaming.native import library
from service.streaming.tape import Tape

pytestmark = pytest.mark.skipif(library() is None, reason="there are no kernels for this processor")


class Branches(nn.Module):
    """Strides, padding, groups, depthwise filters, values that no ring keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(3, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8), nn.ReLU())
        self.depthwise = nn.Conv1d(8, 8, 7, groups=8)
        self.pointwise = nn.Conv1d(8, 8, 1)
        self.wide = nn.Conv1d(8, 40, 1)
        self.narrow = nn.Conv1d(40, 8, 3, dilation=9, groups=4)
        self.head = nn.Conv1d(8, 2, 3, stride=3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.pointwise(self.depthwise(F.pad(x, (6, 0)))))
        return self.head(x + self.narrow(F.pad(torch.relu(self.wide(x)), (18, 0))))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "residual tcn": lambda: Network(3, 12, 5),
    "branches": Branches,
    "one layer": lambda: nn.Conv1d(3, 2, 4),
}


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each step that was one call."""
    counts: list[int] = []
    whole = Tape.run

    def counted(self: Tape, *arguments: object) -> Tensor:
        made = whole(self, *arguments)  # type: ignore[arg-type]
        counts.append(made.shape[0])
        return made

    monkeypatch.setattr(Tape, "run", counted)
    return counts


@pytest.mark.parametrize("numerics", ["exact", "fast"])
@pytest.mark.parametrize("name", MODULES)
def test_one_call_gives_the_bits_of_many(name: str, numerics: str, taped: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    module = MODULES[name]().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.running_mean)
    whole = convert(module, 3, numerics=numerics, max_step=64)
    with monkeypatch.context() as patch:
        patch.setattr(programs, "suits", lambda *_: False)
        apart = convert(module, 3, numerics=numerics, max_step=64)

    made = _life(whole)
    steps, taped[:] = len(taped), []
    wanted = _life(apart)

    assert steps > 20
    assert not taped
    assert all(torch.equal(one, other) for one, other in zip(made, wanted, strict=True))
    assert sum(rows.shape[0] for rows in made) > 50


def _life(program: Program) -> list[Tensor]:
    """Streams come and go, are frozen, rolled back and moved; the arena grows and so do chunks; all outputs in order."""
    generator = torch.Generator().manual_seed(2)
    state, other, made = program.new_state(5), program.new_state(9), []

    def feed(slots: list[int], lengths: list[int], final: list[bool] | None = None, where: State = state) -> None:
        values = torch.randn(sum(lengths), 3, generator=generator)
        ends = None if final is None else torch.tensor(final)
        made.append(
            program.step(
                where, torch.tensor(slots, dtype=torch.int64), Ragged(values, torch.tensor(lengths, dtype=torch.int64)), ends
            ).values
        )

    for each in (1, 1, 2, 3, 1, 1):
        feed([1, 2, 3], [each] * 3)
    feed([4, 2], [0, 9])
    feed([], [])
    for slot in (3, 1):  # in turns with another state of the same program
        feed([slot], [13])
        feed([slot, 8], [2, 6], where=other)
    picture = program.checkpoint(state, torch.tensor([1, 2]))
    feed([2, 1], [5, 8])
    program.rollback(state, picture)
    feed([2, 1], [5, 8])
    program.resize(state, 12)
    feed([2, 1], [5, 8])
    feed([2, 11, 1], [4, 20, 1])
    feed([2, 11, 1], [300, 2, 90])  # in several rounds
    feed([2, 11, 1], [1, 1, 1])
    feed([1, 11], [14, 9], [True, False])
    program.thaw(state, torch.tensor([1, 5]), program.freeze(state, torch.tensor([2, 11])))
    for each in (6, 6, 6):
        feed([5, 1, 2], [each, 2 * each, 1])
    return made


def test_what_was_put_out_is_not_overwritten(taped: list[int]) -> None:
    program = convert(Network(3, 4, 2).eval(), 3)
    state, slots = program.new_state(3), torch.tensor([1, 2])
    first = program.step(state, slots, Ragged(torch.randn(6, 3), torch.tensor([3, 3]))).values
    kept = first.clone()
    program.step(state, slots, Ragged(torch.randn(6, 3), torch.tensor([3, 3])))
    assert torch.equal(first, kept)
    assert taped == [6, 6]


def test_what_a_tape_does_not_know_goes_call_by_call(taped: list[int]) -> None:
    for module in (nn.Sequential(nn.Conv1d(3, 4, 3), nn.Tanh()), nn.Conv1d(3, 3, 2, padding=1, padding_mode="replicate")):
        program = convert(module.eval(), 3)
        program.step(program.new_state(2), torch.tensor([1]), Ragged(torch.randn(9, 3), torch.tensor([9])))
    assert not taped
