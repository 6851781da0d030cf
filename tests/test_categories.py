"""A channel that says in which mode a machine runs: a mode without a row is refused with its record, and nobody else notices."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.app import Application
from service.errors import FrameRefused, StepFailed
from service.streaming import Ragged, convert, verify
from service.streaming.operators.embedding import Embedding
from tests.applications import configured
from tests.cluster import Cluster, audited, letters

MODES = 3


class Modes(nn.Module):
    """Modes are numbered from 1, so that a frame of zeros has none."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(MODES, 4)
        self.conv = nn.Conv1d(5, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        mode = (x[:, 1] - 1).long()
        return self.conv(torch.cat([x[:, :1], self.table(mode).transpose(1, 2)], 1))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    torch.manual_seed(1)
    save_file(Modes().state_dict(), tmp_path / "modes.safetensors")
    model = {"factory": "tests.test_categories:Modes", "weights": str(tmp_path / "modes.safetensors")}
    cluster = Cluster({"one": Application.from_config(configured(tmp_path, model=model))})
    cluster.start("one")
    return cluster


def publish(cluster: Cluster, key: bytes, *modes: float) -> None:
    cluster.publish(key, orjson.dumps({"t": cluster.now * 1000, "x": [[0.5, mode] for mode in modes]}))


def test_only_the_record_with_an_unknown_mode_is_refused(cluster: Cluster) -> None:
    for round_ in range(4):
        for key in (b"a", b"b", b"c"):
            publish(cluster, key, 1, 2, 3, 1, 2)
        if round_ == 2:
            publish(cluster, b"b", 2, 4, 1)
    publish(cluster, b"d", 0)
    cluster.work(turns=12)

    assert sorted(letters(cluster)) == [(b"b", b"step_failed"), (b"d", b"step_failed")]
    messages = {key: headers["penstock.message"] or b"" for key, _, headers in cluster.read("app.dead-letters")}
    assert b"index 3 has no row" in messages[b"b"]
    assert b"rows 0 \xe2\x80\xa6 2" in messages[b"b"]
    assert b"[0.5, 4]" in messages[b"b"]
    assert b"index -1 has no row" in messages[b"d"]
    assert audited(cluster) == 12


def test_a_network_that_fails_for_other_reasons_is_found_out_with_a_frame_that_it_could_take(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = cluster.applications["one"].program
    assert program.admission.harmless.tolist() == [[1.0, 1.0]]
    publish(cluster, b"a", 1, 2)

    def broken(*_: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(program.admission, "check", broken)
    with pytest.raises(StepFailed, match=r"harmless frame.*device lost"):
        cluster.work()
    assert letters(cluster) == []


@pytest.mark.parametrize("mode", [float("nan"), float("inf"), -1.0, 0.0, 3.9999, 4.0, 1e30])
def test_what_has_no_row_is_found_before_anything_changes(mode: float) -> None:
    module = Modes()
    program = convert(module, 2)
    state, slots = program.new_state(5), torch.tensor([3, 1])
    good = Ragged(torch.tensor([[0.5, 1.0]] * 9), torch.tensor([4, 5]))
    program.step(state, slots, good)
    expected = program.freeze(state, slots)
    bad = good.values.clone()
    bad[6, 1] = mode
    fits = 1 <= mode < 4

    if fits:
        program.step(state, slots, Ragged(bad, good.lengths))
    else:
        with pytest.raises(FrameRefused, match=r"has no row: embedding in .*test_categories\.py") as caught:
            program.step(state, slots, Ragged(bad, good.lengths))
        assert (caught.value.slot, caught.value.frame) == (1, 7)
        assert program.freeze(state, slots) == expected
    with torch.no_grad():
        try:
            module(bad.t().unsqueeze(0))
        except IndexError:
            assert not fits
        else:
            assert fits


def test_a_step_of_several_rounds_is_looked_at_as_a_whole() -> None:
    program = convert(Modes(), 2, max_step=4)
    state, slots = program.new_state(2), torch.tensor([1])
    frames = torch.ones(20, 2)
    frames[19, 1] = 7

    with pytest.raises(FrameRefused, match=r"index 6 .* frame 19 "):
        program.step(state, slots, Ragged(frames, torch.tensor([20])))

    assert program.positions(state, slots).tolist() == [0]


def test_memory_that_is_nobody_s_may_hold_anything() -> None:
    module = nn.Sequential(Modes(), nn.Conv1d(1, 2, 7, padding=3))
    program = convert(module, 2)
    state = program.new_state(4)
    for store in state.stores.values():
        store.rows[store.stage_at :] = float("nan")

    made = program.step(state, torch.tensor([2]), Ragged(torch.ones(12, 2), torch.tensor([12])), torch.tensor([True]))

    assert not made.values.isnan().any()
    assert verify(program, module).bit_equal


def test_rows_that_nobody_reads_are_looked_up_without_harm() -> None:
    table = torch.arange(6.0).view(3, 2)
    nobody_s = [float("nan"), float("inf"), float("-inf"), -7.0, 1e9]

    made = Embedding("embedding", 1, table, checked=True).compute([torch.tensor([*nobody_s, 2.0]).unsqueeze(1)], None)

    assert made[-1].tolist() == [4.0, 5.0]
