"""Any module on windows: what its outputs are, that they are the same bits in any company, what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.nn import SlidingWindow
from service.streaming import NotStreamable, Ragged, SnapshotMismatch, convert, verify
from tests.streaming.operators import weighted

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")


class Spectrum(nn.Module):
    """Whole windows in the frequency domain: nothing that could be streamed."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x, dim=-1).abs().mean(-1)


class BothWays(nn.Module):
    """A bidirectional LSTM, of which the last `kept` frames of each window come out."""

    def __init__(self, channels: int, kept: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, 3, bidirectional=True, batch_first=True)
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.transpose(1, 2))[0].transpose(1, 2)[..., -self.kept :]


class Loudest(nn.Module):
    """One number per window."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).abs().amax(1)


def pooled(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(channels, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["pooled", "spectrum", "both ways", "loudest"]),
    channels=st.integers(1, 3),
    size=st.integers(3, 12),
    hop=st.integers(1, 14),
    around=st.booleans(),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    max_step=st.sampled_from([5, 8192]),
    seed=st.integers(0, 2**20),
)
def test_streamed_is_offline_whatever_the_chunks_and_the_company(
    kind: str, channels: int, size: int, hop: int, around: bool, lengths: list[int], max_step: int, seed: int
) -> None:
    inner = {"pooled": pooled(channels), "spectrum": Spectrum(), "both ways": BothWays(channels, 3), "loudest": Loudest()}[kind]
    module: nn.Module = SlidingWindow(inner, size, hop)
    if around:
        module = nn.Sequential(nn.Conv1d(channels, channels, 3, padding=1), module, nn.ReLU())
    module = weighted(module, seed)

    assert verify(convert(module, channels, max_step=max_step), module, lengths=lengths, seed=seed).bit_equal


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


class Centred(nn.Module):
    """Takes the mean of all windows of the batch away."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)).mean(-1)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1) + torch.rand(1)


class Both(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(-1), x


class OneAtATime(nn.Module):
    """A module that takes a single window per call."""

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == 1, "one window at a time"
        return x.mean(-1)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (Centred(), "mixes the windows of a batch"),
        (Noisy(), "draws random numbers"),
        (Both(), "the module gives tuple for .* windows; one float32 tensor"),
        (nn.Conv1d(5, 1, 3), "does not take .* windows.*expected input"),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 1)), "does not take"),
    ],
)
@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_what_cannot_run_on_windows_is_refused(inner: nn.Module, message: str, numerics: str) -> None:
    with pytest.raises(NotStreamable, match=message):
        convert(SlidingWindow(inner, 8, 4), 3, numerics=numerics)


def test_a_module_that_takes_one_window_at_a_time_gets_one() -> None:
    module = SlidingWindow(OneAtATime(), 8, 3)

    program = convert(module, 2)
    made = program.step(program.new_state(2), torch.tensor([1]), Ragged(torch.ones(20, 2), torch.tensor([20]))).values

    assert made.tolist() == [[1.0, 1.0]] * 5


@pytest.mark.parametrize(("size", "hop"), [(0, 1), (4, 0)])
def test_a_window_has_at_least_one_frame(size: int, hop: int) -> None:
    with pytest.raises(ValueError, match="both are at least 1"):
        SlidingWindow(Loudest(), size, hop)


def test_a_round_is_as_short_as_its_windows_are_large() -> None:
    assert convert(SlidingWindow(Loudest(), 4096, 1), 8).max_step == 1024
    assert convert(SlidingWindow(Loudest(), 4096, 4096), 8).max_step == 16384
