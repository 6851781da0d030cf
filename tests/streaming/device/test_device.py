"""Steps on static buffers, as a GPU takes them: the same law, and the same bits as the ordinary path."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.nn import SlidingWindow
from service.streaming import Program, Ragged, convert, verify
from service.streaming.device.tables import Tables
from service.streaming.native import torch_alone
from tests.streaming import networks
from tests.streaming.device.recorder import Recorder
from tests.streaming.operators import weighted
from tests.streaming.test_contract import TABLE

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


class Windowed(nn.Module):
    """A convolution on what any module makes of windows: the module's work depends on how many are complete."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = SlidingWindow(nn.Sequential(nn.Flatten(), nn.Linear(24, 4)), size=8, hop=3)
        self.after = nn.Conv1d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.after(self.windows(x))
        return made


class Stacked(nn.Module):
    """Recurrences side by side and one after the other, with a strided convolution before and a skip around."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv1d(3, 4, 3, stride=2, padding=1)
        self.one, self.two = nn.GRU(4, 4, batch_first=True), nn.RNN(4, 4, num_layers=2, batch_first=True)
        self.out = nn.Conv1d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x).transpose(1, 2)
        made = torch.cat([self.one(y)[0] + y, self.two(y)[0].cumsum(1)], 2).transpose(1, 2)
        out: Tensor = self.out(made)
        return out


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "tcn": (lambda: networks.tcn(networks.PaddedBlock), 3),
    "chomped tcn": (lambda: networks.tcn(networks.ChompedBlock), 3),
    "wavenet": (networks.WaveNet, 1),
    "u-net": (networks.UNet, 2),
    "deep u-net": (networks.DeepUNet, 2),
    "cnn and lstm": (networks.ConvLstm, 3),
    "stacked recurrences": (Stacked, 3),
    "resnet": (networks.resnet, 3),
    "autoencoder": (networks.autoencoder, 2),
    "strided": (networks.StridedWithMemory, 3),
    "attention": (networks.Conformer, 3),
    "windows": (Windowed, 3),
    "nothing": (nn.Identity, 2),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the contract test: tensors are tiny here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def nan_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fills up a round's samples is NaN, and so is what the host's staging memory holds before anybody has written there."""
    ask = Tables.ask

    def with_nan(self: Tables, key: Any, shape: Any, source: Any, dtype: torch.dtype, pad: float = 0) -> Tensor:
        return ask(self, key, shape, source, dtype, float("nan") if key == "values" else pad)

    monkeypatch.setattr(Tables, "ask", with_nan)


def network(name: str) -> tuple[nn.Module, int]:
    make, channels = NETWORKS[name]
    torch.manual_seed(3)
    return make().eval(), channels


@pytest.mark.usefixtures("nan_padding")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("numerics", "max_step"), [("exact", 7), ("fast", 1024)])
def test_captured_once_and_replayed_a_network_is_itself_offline(name: str, numerics: str, max_step: int) -> None:
    module, channels = network(name)
    program = convert(module, channels, numerics=numerics, max_step=max_step, device=Recorder())

    verified = verify(program, module, lengths=[24, 16, 40, 56, 16], seed=5)

    assert verified.outputs > 0


@pytest.mark.usefixtures("nan_padding")
@pytest.mark.parametrize("name", TABLE)
@settings(max_examples=settings.default.max_examples * 2 // 100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), lengths=st.lists(st.integers(1, 40), min_size=2, max_size=3), seed=st.integers(0, 2**20))
def test_every_operator_of_the_table_can_be_captured(name: str, data: st.DataObject, lengths: list[int], seed: int) -> None:
    module, channels = data.draw(TABLE[name])
    module = weighted(module, seed)
    program = convert(module, channels, max_step=5, device=Recorder())

    assert verify(program, module, lengths=lengths, seed=seed).bit_equal


@pytest.mark.parametrize("name", NETWORKS)
def test_the_bits_are_those_of_the_ordinary_path_through_freeze_thaw_rollback_and_growth(name: str) -> None:
    module, channels = network(name)
    with torch_alone():
        program = convert(module, channels, max_step=40)
    ordinary = _life(program)
    padded = _life(convert(module, channels, max_step=40, device=Recorder()))

    assert all(torch.equal(made, wanted) for made, wanted in zip(padded, ordinary, strict=True))


def _life(program: Program) -> list[Tensor]:
    """Ten streams, fed unevenly; some are frozen, moved, rolled back, end; the arena grows. All outputs in order."""
    chance = random.Random(8)
    generator = torch.Generator().manual_seed(8)
    state = program.new_state(slots=14)
    slots = torch.arange(1, 11)
    made = []
    for turn in range(8):
        lengths = torch.tensor([chance.choice([0, 1, 3, 16, 24]) for _ in slots])
        chunk = Ragged(torch.randn(int(lengths.sum()), program.channels, generator=generator), lengths)
        if turn == 2:
            picture = program.checkpoint(state, slots[:5])
            program.step(state, slots[:5], Ragged(torch.randn(200, program.channels), torch.full((5,), 40)))
            program.rollback(state, picture)
        if turn == 4:
            moved = program.freeze(state, slots[3:6])
            program.reset(state, slots[3:6])
            slots = torch.cat([slots[:3], torch.tensor([13, 12, 11]), slots[6:]])
            program.thaw(state, slots[3:6], moved)
        if turn == 6:
            program.resize(state, 20)
        after = program.positions(state, slots) + lengths
        final = program.accepts(after) & (torch.arange(10) % 4 == turn % 4) if turn > 4 else None
        out = program.step(state, slots, chunk, final)
        assert out.start is not None
        made += [out.values, out.lengths, out.start]
    return made
