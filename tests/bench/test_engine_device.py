"""`penstock bench engine --device`, on the stand-in: all that runs there gives the module's outputs; there is a line of each."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from service.bench.engine import device
from service.bench.engine.contenders import Penstock
from service.bench.engine.networks import FACTORIES
from service.bench.engine.run import Case
from service.cli import main
from service.errors import PenstockError
from service.streaming import convert
from service.streaming.device import StandIn


def stand_in(exact: bool, graphs: bool) -> StandIn:
    return StandIn(graphs)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.bench.engine.run.LEAST_SECONDS", 0.0)
    monkeypatch.setattr(device, "CASES", (Case(3, 100), Case(2, 140)))
    monkeypatch.setattr("service.bench.engine.contenders.convert", partial(convert, max_step=300))


@pytest.mark.parametrize("name", FACTORIES)
def test_a_line_for_every_way_to_run_with_the_ratio_to_graphs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert device.main("stand-in", json=True, rounds=1, networks=[name], devices=stand_in) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    own = [line for line in lines if line["run_by"].startswith("penstock")]
    assert [line["run_by"] for line in own] == 2 * ["penstock fast", "penstock fast, no graphs"] + 2 * [
        "penstock exact",
        "penstock exact, no graphs",
    ]
    for line in own:
        assert (line["times_with_graphs"] is not None) == line["run_by"].endswith("no graphs")
        assert line["samples_per_second"] > 0
        assert line["device"] == "stand-in"


def test_the_table_has_a_row_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    device.main("stand-in", rounds=1, networks=["tcn"], devices=stand_in)

    shown = capsys.readouterr().out
    assert shown.count("penstock fast, no graphs") == 2
    assert "÷ graphs" in shown


def test_other_outputs_than_the_modules_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = Penstock.outputs
    monkeypatch.setattr(Penstock, "outputs", lambda self, made: [rows + 1e-2 for rows in outputs(self, made)])
    with pytest.raises(PenstockError, match="penstock fast differs from the module"):
        device.main("stand-in", rounds=1, networks=["tcn"], devices=stand_in)


def test_it_says_clearly_that_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # where there is one, too
    result = CliRunner().invoke(main, ["bench", "engine", "--device", "cuda"])

    assert result.exit_code == 2
    assert "no CUDA device can be used here" in result.output
