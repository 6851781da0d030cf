"""The kernels of our own: against float64, against torch's way, and every row against itself alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from service.bench.network import Network
from service.streaming import Program, Ragged, convert
from service.streaming import program as programs
from service.streaming.execution import Step
from service.streaming.native import Library, Multiplication, Packed, library, torch_alone

FOUND = library()
pytestmark = pytest.mark.skipif(FOUND is None, reason="there are no kernels for this processor")


@pytest.fixture
def own() -> Library:
    assert FOUND is not None
    return FOUND


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 70), st.integers(1, 70))
"""Rows, taps, depth, columns."""


class Case:
    """Random operands; results go into the middle of a larger tensor, of which nothing else may change."""

    def __init__(self, rows: int, taps: int, depth: int, columns: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.source = self.random(60, depth + 3)[:, 1 : depth + 1]
        self.at = torch.randint(0, 60, (rows * taps,), generator=self.generator, dtype=torch.int32)
        self.windows = self.source[self.at.long()].view(rows, taps, depth)
        self.around = torch.full((rows + 2, columns + 5), 7.0)
        self.out = self.around[1 : rows + 1, 2 : columns + 2]
        self.bias = self.random(columns)
        self.added = self.random(rows, columns + 1)[:, :columns]

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def check(self, expected: Tensor, made: Tensor) -> None:
        torch.testing.assert_close(made, expected.float(), rtol=1e-4, atol=1e-4)
        inside = self.out.clone()
        self.out.fill_(7.0)
        assert torch.equal(self.around, torch.full_like(self.around, 7.0)), "something beside the result was written"
        self.out.copy_(inside)


def finished(sums: Tensor, case: Case, first: bool, adds: bool, then: bool) -> Tensor:
    sums = torch.relu(sums) if first else sums
    sums = sums + case.added if adds else sums
    return torch.relu(sums) if then else sums


@given(sizes=SIZES, seed=st.integers(0, 1000), first=st.booleans(), adds=st.booleans(), then=st.booleans())
def test_a_product_of_windows_where_they_lie(
    sizes: tuple[int, int, int, int], seed: int, first: bool, adds: bool, then: bool
) -> None:
    assert FOUND is not None
    rows, taps, depth, columns = sizes
    case = Case(*sizes, seed)
    weight = case.random(taps * depth, columns)
    by, added = [Multiplication(FOUND.panels(weight), case.bias, False, first)], case.added if adds else None

    made = FOUND.multiply(by, case.source, case.at, case.out, added, then)

    case.check(finished(case.windows.flatten(1).double() @ weight.double() + case.bias, case, first, adds, then), made)
    for row in range(rows):
        part = slice(row, row + 1)
        addend = None if added is None else added[part]
        alone = FOUND.multiply(by, case.source, case.at[row * taps : (row + 1) * taps], torch.empty(1, columns), addend, then)
        assert torch.equal(alone, made[part]), "a row's bits depend on its company"
        beside = FOUND.multiply(by, case.windows[row].reshape(1, -1), None, torch.empty(1, columns), addend, then)
        assert torch.equal(beside, made[part]), "a row's bits depend on where it lies"


@given(sizes=SIZES, seed=st.integers(0, 1000), first=st.booleans(), adds=st.booleans(), then=st.booleans())
def test_a_depthwise_product(sizes: tuple[int, int, int, int], seed: int, first: bool, adds: bool, then: bool) -> None:
    assert FOUND is not None
    rows, taps, depth, _ = sizes
    case = Case(rows, taps, depth, depth, seed)
    weight, added = case.random(taps, depth), case.added if adds else None
    by = [Multiplication(weight, case.bias, True, first)]

    made = FOUND.multiply(by, case.source, case.at, case.out, added, then)

    case.check(finished((case.windows.double() * weight).sum(1) + case.bias, case, first, adds, then), made)
    for row in range(rows):
        part, at = slice(row, row + 1), case.at[row * taps : (row + 1) * taps]
        addend = None if added is None else added[part]
        alone = FOUND.multiply(by, case.source, at, torch.empty(1, depth), addend, then)
        assert torch.equal(alone, made[part])


def test_large_products_are_cut_into_blocks_and_shared_by_threads(own: Library) -> None:
    generator = torch.Generator().manual_seed(0)
    for rows, depth, columns in [(5000, 96, 32), (700, 700, 90), (3, 5000, 20)]:
        source, weight = torch.randn(rows, depth, generator=generator), torch.randn(depth, columns, generator=generator)
        bias = torch.randn(columns, generator=generator)
        made = own.multiply([Multiplication(own.panels(weight), bias, False, False)], source, None, torch.empty(rows, columns))
        torch.testing.assert_close(made.double(), source.double() @ weight.double() + bias, rtol=1e-4, atol=1e-3)


def test_nan_passes_a_relu_and_a_sum(own: Library) -> None:
    source = torch.tensor([[torch.nan, 1.0], [-1.0, 1.0], [torch.inf, -1.0]])
    by = [Multiplication(own.panels(torch.ones(2, 1)), torch.zeros(1), False, rectified=True)]
    made = own.multiply(by, source, None, torch.empty(3, 1), torch.zeros(3, 1), rectified=True)
    assert made.flatten().tolist()[1:] == [0.0, torch.inf]
    assert made[0].isnan()


@given(
    depth=st.sampled_from([1, 2, 4, 16]),
    channels=st.integers(1, 9),
    fed=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 40)), min_size=1, max_size=5),
)
def test_what_a_ring_takes_in(depth: int, channels: int, fed: list[tuple[int, int]]) -> None:
    assert FOUND is not None
    start, lengths = (torch.tensor(column) for column in zip(*fed, strict=True))
    rows = torch.arange(float(lengths.sum()) * channels).view(-1, channels) + 1
    slots = torch.arange(len(fed)).flip(0) + 1
    ring = torch.zeros((len(fed) + 2) * depth, channels)
    expected = ring.clone()
    packed = lengths.cumsum(0) - lengths
    for slot, first, length, offset in zip(slots.tolist(), start.tolist(), lengths.tolist(), packed.tolist(), strict=True):
        for element in range(length):
            expected[slot * depth + (first + element) % depth] = rows[offset + element]

    FOUND.retire(rows, ring, depth, Packed(slots, start, start + lengths, packed))

    assert torch.equal(ring, expected)


class Residual(nn.Module):
    """Sums in both orders, a relu before and one behind, and a sum that must not be computed with its product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv1d(6, 6, 3, dilation=dilation) for dilation in (1, 2, 4))
        self.last = nn.Conv1d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x + self.first(nn.functional.pad(x, (2, 0))))
        x = torch.relu(self.second(nn.functional.pad(x, (4, 0)))) + x
        y = self.third(nn.functional.pad(x, (8, 0)))
        return self.last(y + x[..., : y.shape[-1]]) + y


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_a_sum_computed_with_its_product_has_the_same_bits(numerics: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    module = Residual().eval()
    together = convert(module, 6, numerics=numerics)
    with monkeypatch.context() as patch:
        patch.setattr(programs, "fused", lambda steps: steps)
        apart = convert(module, 6, numerics=numerics)
    assert sum(len(step.parts) for step in together.steps) == 7
    assert not any(step.parts for step in apart.steps)
    assert torch.equal(_streamed(together), _streamed(apart))


def test_torch_alone_computes_the_same_but_for_the_last_bits() -> None:
    torch.manual_seed(4)
    module = Network().eval()
    program = convert(module, 3)
    with torch_alone():
        plain = convert(module, 3)
    assert plain.fingerprint != program.fingerprint
    assert plain.state_fingerprint == program.state_fingerprint
    torch.testing.assert_close(_streamed(program), _streamed(plain), rtol=1e-4, atol=1e-5)


def _streamed(program: Program) -> Tensor:
    """Three streams in uneven chunks, one of which ends in the middle, frozen and thawed now and then; all outputs in order."""
    generator = torch.Generator().manual_seed(5)
    state, made = program.new_state(5), []
    slots = torch.tensor([2, 4, 1])
    for lengths in ([1, 0, 3], [30, 2, 1], [1, 1, 1], [0, 70, 5], [300, 3, 9]):
        chunks = Ragged(torch.randn(sum(lengths), program.channels, generator=generator), torch.tensor(lengths))
        program.thaw(state, slots, program.freeze(state, slots))
        made.append(program.step(state, slots, chunks, torch.tensor([False, lengths[0] == 0, False])).values)
    return torch.cat(made)


def test_only_neighbours_are_computed_together() -> None:
    step = next(step for step in convert(Residual().eval(), 6).steps if step.parts)
    assert isinstance(step, Step)
    assert [part.node.operator.name for part in step.parts] == ["conv1d", "add", "relu"]


def test_arguments_may_lie_anyhow() -> None:
    torch.manual_seed(6)
    module = nn.Sequential(nn.Conv1d(4, 4, 1, groups=4), nn.Conv1d(4, 3, 2)).eval()
    program = convert(module, 4)
    values, slots, lengths = torch.randn(4, 12).t(), torch.arange(1, 9)[::3], torch.tensor([[5, 0], [3, 0], [4, 0]])[:, 0]
    state, other = program.new_state(9), program.new_state(9)
    first = program.step(state, slots, Ragged(values, lengths)).values
    torch.testing.assert_close(first[:4], module(values[None, :5].transpose(1, 2))[0].t())
    assert torch.equal(first, program.step(other, slots.clone(), Ragged(values.contiguous(), lengths.clone())).values)
    second = program.step(state, slots.flip(0), Ragged(values, lengths)).values
    assert torch.equal(second, program.step(other, slots.flip(0), Ragged(values, lengths)).values)
