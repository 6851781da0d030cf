"""The shipped weights: every fault is heard within seconds, and no sound pump raises an alarm."""

from __future__ import annotations

import numpy as np
import pytest

from service import model
from service.config import load
from service.demo.machines import Fleet
from service.demo.trial import SETTINGS, WEIGHTS, judge, report, trial


@pytest.mark.parametrize("seed", [0, 7, 11, 106, 108, 119])
def test_the_fault_is_detected_within_seconds_and_nothing_else_is(seed: int) -> None:
    found = trial(model.build(load(SETTINGS, environment={})), seed, seconds=14)
    assert found.delay is not None
    assert 0.5 < found.delay < 4.0
    assert found.false_alarms == 0
    assert found.healthy_peak < 0.75


def test_an_untrained_network_hears_nothing() -> None:
    module = model.build(load(SETTINGS, environment={}))
    for parameter in module[1].parameters():
        parameter.data.zero_()
    assert trial(module, seed=0, seconds=12).delay is None


def outputs(seconds: float) -> np.ndarray:
    return np.zeros((12, 2, int(seconds * 125)), np.float32)


def test_delays_count_from_the_beginning_of_the_fault() -> None:
    fleet, y = Fleet(0), outputs(20)
    first = -(-fleet.fault.begins // 8) + 100
    y[fleet.fault.pump - 1, :, first:] = [[0.95], [1.0]]
    found = judge(fleet, y)
    assert found.delay == pytest.approx((first * 8 - fleet.fault.begins) / 1000)
    assert found.false_alarms == 0


def test_alarms_on_sound_pumps_and_before_the_fault_are_false() -> None:
    fleet, y = Fleet(0), outputs(20)
    y[fleet.fault.pump - 1, 1, 100:110] = 1.0
    y[fleet.fault.pump % 12, 1, [5, 6, 7, 50]] = 1.0
    y[fleet.fault.pump % 12, 0, 50] = 0.6
    found = judge(fleet, y)
    assert found.false_alarms == 3
    assert found.delay is None
    assert found.healthy_peak == pytest.approx(0.6)
    assert "0 of 1 faults detected" in report([found])


def test_the_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size < 1_000_000
