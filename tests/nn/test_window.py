"""Any module on windows: what its outputs are, that they are the same bits in any company, what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.nn import SlidingWindow
from service.streaming import NotStreamable, Ragged, SnapshotMismatch, convert, verify
from tests.streaming.operators import weighted
from tests.streaming.operators_windows import BothWays, Loudest, Spectrum, pooled

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")


@pytest.mark.parametrize("layout", ["BCT", "BTC"])
def test_output_j_is_the_module_on_window_j(layout: str) -> None:
    x = torch.randn(2, 3, 50)
    expected = torch.stack([Spectrum()(x[..., start : start + 16]) for start in range(0, 50 - 15, 5)], -1)
    if layout == "BCT":
        torch.testing.assert_close(SlidingWindow(Spectrum(), 16, 5)(x), expected)
    else:

        class TimeFirst(Spectrum):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x.transpose(1, 2))

        module = SlidingWindow(TimeFirst(), 16, 5, layout="BTC")
        torch.testing.assert_close(module(x.transpose(1, 2)), expected.transpose(1, 2))
        assert verify(convert(module, 3, layout="BTC"), module, layout="BTC").bit_equal


def test_several_frames_of_a_window_follow_each_other() -> None:
    inner = BothWays(2, 4).eval()
    x = torch.randn(1, 2, 20)
    expected = torch.cat([inner(x[..., start : start + 12]) for start in (0, 4, 8)], -1)
    torch.testing.assert_close(SlidingWindow(inner, 12, 4)(x), expected)

    program = convert(SlidingWindow(inner, 12, 4), 2)

    assert (program.ready(11), program.ready(12), program.ready(16), program.decimation) == (0, 4, 8, 1.0)


def test_an_output_comes_with_the_last_frame_of_its_window() -> None:
    program = convert(SlidingWindow(Loudest(), 10, 4), 1)

    assert [program.ready(n) for n in (9, 10, 13, 14, 18)] == [0, 1, 1, 2, 3]
    assert (program.total(9), program.accepts(1), program.receptive_field) == (0, True, 10)
    assert "module on windows window 10 stride 4" in program.describe()


def test_one_window_has_the_bits_that_it_has_among_hundreds() -> None:
    module = weighted(SlidingWindow(pooled(2), 32, 8), 1)
    program = convert(module, 2)
    x = torch.randn(300, 32, 2)
    many = program.new_state(301)
    together = program.step(many, torch.arange(1, 301), Ragged(x.reshape(-1, 2), torch.full((300,), 32))).values

    for stream in (0, 150, 299):
        state = program.new_state(2)
        alone = program.step(state, torch.tensor([1]), Ragged(x[stream], torch.tensor([32]))).values
        assert torch.equal(alone[0], together[stream])


def test_a_snapshot_outlives_the_weights_but_not_the_window() -> None:
    before, after, other = (
        convert(weighted(SlidingWindow(pooled(2), size, 4), seed), 2) for size, seed in ((16, 1), (16, 2), (17, 1))
    )
    state = before.new_state(2)
    slot = torch.tensor([1])
    x = torch.randn(30, 2)
    before.step(state, slot, Ragged(x[:21], torch.tensor([21])))
    snapshot = before.freeze(state, slot)

    anew = after.new_state(2)
    after.thaw(anew, slot, snapshot)
    made = after.step(anew, slot, Ragged(x[21:], torch.tensor([9]))).values
    fresh = after.step(after.new_state(2), slot, Ragged(x, torch.tensor([30]))).values
    assert torch.equal(made, fresh[-len(made) :])
    assert before.fingerprint != after.fingerprint
    with pytest.raises(SnapshotMismatch):
        other.thaw(other.new_state(2), slot, snapshot)


def test_a_file_s_module_streams_as_the_module_does(tmp_path: Path) -> None:
    module = weighted(pooled(2), 4)
    written = io.BytesIO()
    torch.jit.save(torch.jit.script(module), written)
    written.seek(0)
    wrapped = SlidingWindow(torch.jit.load(written), 12, 6)
    x = torch.randn(1, 2, 60)

    assert verify(convert(wrapped, 2), wrapped).bit_equal
    torch.testing.assert_close(wrapped(x), SlidingWindow(module, 12, 6)(x))


class OneAtATime(nn.Module):
    """A module that takes a single window per call."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 1:
            raise ValueError("one window at a time")
        return x.mean(-1)


def test_a_module_that_takes_one_window_at_a_time_gets_one() -> None:
    module = SlidingWindow(OneAtATime(), 8, 3, batch=1)

    assert verify(convert(module, 2), module, lengths=[7, 8, 40]).bit_equal
    with pytest.raises(
        NotStreamable, match=r"does not take \[4, 8, 2\] windows.*one window at a time; it takes 1.*give that as batch"
    ):
        convert(SlidingWindow(OneAtATime(), 8, 3), 2)


class InPlace(nn.Module):
    """Overwrites its windows."""

    def forward(self, x: Tensor) -> Tensor:
        x -= x.mean(-1, keepdim=True)
        return x.abs_().amax(-1)


@pytest.mark.parametrize(("size", "hop", "layout"), [(8, 3, "BCT"), (8, 8, "BCT"), (1, 1, "BCT"), (8, 8, "BTC"), (1, 1, "BTC")])
def test_a_module_may_change_its_windows_and_nothing_else(size: int, hop: int, layout: str) -> None:
    module = SlidingWindow(InPlace(), size, hop, layout=layout)
    x = torch.randn(1, 40, 1) if layout == "BTC" else torch.randn(1, 1, 40)
    before = x.clone()

    module(x)

    assert torch.equal(x, before)
    assert verify(convert(module, 1, layout=layout), module, layout=layout).bit_equal


class Label(nn.Module):
    """Which channel is the loudest, as a whole number."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().mean(-1).argmax(1)


class Half(nn.Module):
    """Computes in another precision."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 2).to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x[:, 0].bfloat16())


class Logarithm(nn.Module):
    """NaN for most windows that have negative numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log().mean(-1)


@pytest.mark.parametrize("inner", [Label(), Half()])
def test_results_of_any_real_type_come_out_as_float32(inner: nn.Module) -> None:
    module = SlidingWindow(inner, 8, 3)
    x = torch.randn(1, 2, 8)

    assert verify(convert(module, 2), module).bit_equal
    assert torch.equal(module(x)[..., 0], inner(x).float().reshape(1, -1))


def test_results_may_be_nan() -> None:
    program = convert(SlidingWindow(Logarithm(), 4, 4), 1)
    samples = torch.tensor([1.0, 1, 1, 1, -1, 1, 1, 1]).unsqueeze(1)

    made = program.step(program.new_state(2), torch.tensor([1]), Ragged(samples, torch.tensor([8]))).values.flatten()

    assert made[0] == 0
    assert made[1].isnan()


@pytest.mark.parametrize(
    ("due", "portions"),
    [
        (1, [1]),
        (4, [4]),
        (5, [4, 1]),
        (8, [4, 4]),
        (9, [9]),
        (16, [16]),
        (17, [17]),
        (32, [32]),
        (41, [32, 9]),
        (70, [32, 32, 4, 2]),
    ],
)
def test_windows_go_in_batches_that_are_mostly_full(due: int, portions: list[int]) -> None:
    operator = convert(SlidingWindow(Loudest(), 8, 3), 1).graph.nodes[0].operator
    operator.batches = (4, 16, 32)

    assert list(operator.portions(due)) == portions


class Told(nn.Module):
    """Does what it was told, which no source and no weight shows."""

    def __init__(self, what: object) -> None:
        super().__init__()
        self.what = [what]

    def forward(self, x: Tensor) -> Tensor:
        return self.what[0](x).mean(-1)

    def extra_repr(self) -> str:
        return ""


def test_what_code_elsewhere_does_enters_the_fingerprint() -> None:
    one, two, one_again = (convert(SlidingWindow(Told(what), 8, 4), 1) for what in (torch.sin, torch.cos, torch.sin))

    assert one.fingerprint == one_again.fingerprint != two.fingerprint
    assert one.state_fingerprint == two.state_fingerprint


@pytest.mark.parametrize(("size", "hop", "batch"), [(0, 1, None), (4, 0, None), (4, 1, 0)])
def test_a_window_has_at_least_one_frame(size: int, hop: int, batch: int | None) -> None:
    with pytest.raises(ValueError, match="they are at least 1"):
        SlidingWindow(Loudest(), size, hop, batch=batch)


def test_memory_for_windows_does_not_grow_with_their_number() -> None:
    program = convert(SlidingWindow(Loudest(), 512, 1), 4)
    state = program.new_state(2)

    made = program.step(state, torch.tensor([1]), Ragged(torch.randn(2000, 4), torch.tensor([2000])))

    assert len(made.values) == 2000 - 511
    assert state.scratch.rows(0, 1, 1).untyped_storage().size() <= 64 * 512 * 4 * 4 * 1.25


def test_a_round_is_as_short_as_the_windows_of_other_operators_are_large() -> None:
    assert convert(nn.MaxPool1d(4096, 1), 8).max_step == 1024
    assert convert(nn.MaxPool1d(4096, 4096), 8).max_step == 16384
