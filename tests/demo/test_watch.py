"""What the audience makes of predictions: scores, alarms, the fault's detection, false alarms, latency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from service.codec.interface import Prediction
from service.demo.machines import RATE, Fleet, key_of
from service.demo.view import FaultFigures
from service.demo.watch import Watch

ORIGIN = 1_700_000_000_000
FLEET = Fleet(7)
FAILING = key_of(FLEET.fault.pump)
SOUND = key_of(FLEET.fault.pump % 12 + 1)
BEGAN = FLEET.fault.begins / RATE


def prediction(key: str, seconds: float, scores: Sequence[float], alarms: Sequence[int], stream: int = 0) -> Prediction:
    y = np.array([scores, alarms], np.float32).T
    return Prediction(key, stream, 0, ORIGIN + 1000 * seconds, y, "pumps.vibration", 0, 0)


def see(watch: Watch, found: Prediction, late_ms: float = 50.0) -> None:
    watch.see(found, found.t + 8 * (len(found.y) - 1) + late_ms)


def test_a_pump_shows_its_last_score_until_it_is_silent_for_a_second() -> None:
    watch = Watch(FLEET, ORIGIN)
    see(watch, prediction(SOUND, 2.0, [0.1, 0.2, 0.3], [0, 0, 0]))
    number = int(SOUND[-2:]) - 1
    assert watch.pumps(2.5)[number].score == pytest.approx(0.3)
    assert watch.pumps(3.1)[number].score is None
    assert watch.pumps(2.5)[number - 1].score is None


def test_the_fault_is_detected_at_the_time_of_the_first_alarm_after_it_began() -> None:
    watch = Watch(FLEET, ORIGIN)
    assert watch.fault(BEGAN - 0.1) is None
    assert watch.fault(BEGAN) == FaultFigures(FAILING, BEGAN, None)
    see(watch, prediction(FAILING, BEGAN + 2.0, [0.8, 0.9, 0.9], [0, 1, 1]))
    see(watch, prediction(FAILING, BEGAN + 3.0, [0.9], [1]))
    fault = watch.fault(BEGAN + 4)
    assert fault is not None
    assert fault.delay == pytest.approx(2.008)
    assert watch.false_alarms == 0
    assert watch.pumps(BEGAN + 3.1)[FLEET.fault.pump - 1].alarm


def test_an_alarm_where_nothing_is_damaged_is_false_and_counted_once() -> None:
    watch = Watch(FLEET, ORIGIN)
    see(watch, prediction(SOUND, 1.0, [0.9, 0.9, 0.5, 0.9], [1, 1, 0, 1]))
    see(watch, prediction(SOUND, 1.032, [0.9], [1]))
    assert watch.false_alarms == 2
    see(watch, prediction(FAILING, BEGAN - 1, [0.9], [1]))
    assert watch.false_alarms == 3
    assert watch.fault(BEGAN) == FaultFigures(FAILING, BEGAN, None)


def test_a_new_stream_begins_without_alarm() -> None:
    watch = Watch(FLEET, ORIGIN)
    see(watch, prediction(SOUND, 1.0, [0.9], [1], stream=0))
    see(watch, prediction(SOUND, 1.2, [0.9], [1], stream=40))
    assert watch.false_alarms == 2


def test_the_history_holds_one_score_a_second() -> None:
    watch = Watch(FLEET, ORIGIN)
    for tenth in range(1, 45):
        see(watch, prediction(SOUND, tenth / 10, [tenth / 100], [0]))
    (pump,) = [pump for pump in watch.pumps(4.5) if pump.key == SOUND]
    assert pump.history == pytest.approx((0.01, 0.10, 0.20, 0.30, 0.40))


def test_latency_counts_from_the_last_output_to_the_arrival() -> None:
    watch = Watch(FLEET, ORIGIN)
    assert watch.latency_ms(0.5) is None
    for late in (10, 20, 90):
        see(watch, prediction(SOUND, late / 10, [0.1, 0.1], [0, 0]), late_ms=late)
    assert watch.latency_ms(0.5) == pytest.approx(20, abs=0.01)
    assert watch.latency_ms(1.0) == pytest.approx(90, abs=0.01)
    assert watch.predictions == 3
