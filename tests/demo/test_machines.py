"""The simulated pumps: the same signal however it is cut, a fault where the seed puts it, records as a sensor sends them."""

from __future__ import annotations

from itertools import pairwise, takewhile

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from service.demo.machines import PUMPS, RATE, Fault, Fleet, Pump, Record, key_of

SECONDS = 25


def records(fleet: Fleet, until: int = SECONDS * RATE) -> list[Record]:
    return list(takewhile(lambda record: record.stop <= until, fleet.records()))


@given(
    seed=st.integers(0, 50),
    faulty=st.booleans(),
    cuts=st.lists(st.integers(1, 3999), min_size=0, max_size=6, unique=True).map(sorted),
)
def test_the_signal_does_not_depend_on_how_it_is_cut(seed: int, faulty: bool, cuts: list[int]) -> None:
    pump = Pump.build(seed, number=3)
    fault = Fault(pump=3, begins=700, growth=1000) if faulty else None
    whole = pump.vibration(0, 4000, fault)
    bounds = [0, *cuts, 4000]
    pieces = [pump.vibration(start, stop, fault) for start, stop in pairwise(bounds)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_the_same_seed_makes_the_same_records_and_another_one_others() -> None:
    def sent(seed: int) -> list[tuple[str, bytes | None]]:
        return [(record.key, record.encode(0)) for record in records(Fleet(seed), until=2 * RATE)]

    assert sent(1) == sent(1)
    assert sent(1) != sent(2)


def test_every_pump_is_an_individual() -> None:
    signals = [pump.vibration(0, RATE) for pump in Fleet(1).pumps]
    for first in range(PUMPS):
        for second in range(first):
            assert abs(np.corrcoef(signals[first].ravel(), signals[second].ravel())[0, 1]) < 0.9


def test_every_pump_has_noise_of_its_own() -> None:
    above_all_lines = slice(470 * 10, 500 * 10)
    one, two = (np.fft.rfft(pump.vibration(0, 10 * RATE)[:, 0])[above_all_lines] for pump in Fleet(1).pumps[:2])
    assert abs(np.vdot(one, two)) < 0.2 * np.linalg.norm(one) * np.linalg.norm(two)


def test_a_fault_changes_one_pump_from_its_beginning_on_and_grows() -> None:
    fleet = Fleet(5)
    fault = fleet.fault
    for pump in fleet.pumps:
        difference = pump.vibration(0, 20 * RATE, fault) - pump.vibration(0, 20 * RATE)
        if pump.number != fault.pump:
            assert not difference.any()
            continue
        assert not difference[: fault.begins].any()
        seconds = difference[fault.begins : fault.begins + fault.growth].reshape(fault.growth // RATE, -1).std(axis=1)
        assert (np.diff(seconds) > 0).all()


def test_the_impacts_come_at_the_defect_frequency() -> None:
    pump = Pump.build(8, number=1)
    fault = Fault(pump=1, begins=-10 * RATE, growth=1)
    impacts = np.abs(pump.vibration(0, 20 * RATE, fault) - pump.vibration(0, 20 * RATE)).sum(axis=1)
    spectrum = np.abs(np.fft.rfft(impacts - impacts.mean()))
    frequency = np.fft.rfftfreq(len(impacts), 1 / RATE)
    turned = pump.revolutions(np.array([0, 20 * RATE]))
    expected = pump.defect * (turned[1] - turned[0]) / 20
    near = np.abs(frequency - expected) < 2
    assert spectrum[near].max() > 5 * np.median(spectrum)


def test_fault_and_stop_hit_different_pumps_within_the_first_seconds() -> None:
    fleets = [Fleet(seed) for seed in range(200)]
    assert all(fleet.fault.pump != fleet.stopped for fleet in fleets)
    assert {fleet.fault.pump for fleet in fleets} == set(range(1, PUMPS + 1))
    assert all(6 * RATE <= fleet.fault.begins < 10 * RATE for fleet in fleets)


def test_records_are_in_the_order_in_which_they_are_complete_and_of_unequal_length() -> None:
    sent = records(Fleet(2))
    stops = [record.stop for record in sent]
    assert stops == sorted(stops)
    lengths = {len(record.samples) for record in sent if record.samples is not None}
    assert len(lengths) > 100
    assert max(lengths) <= 400


def test_a_pump_sends_every_sample_once_and_the_stopped_one_ends_its_stream_and_begins_again() -> None:
    fleet = Fleet(2)
    for pump in fleet.pumps:
        own = [record for record in records(fleet) if record.key == key_of(pump.number)]
        ends = [place for place, record in enumerate(own) if record.samples is None]
        assert len(ends) == (pump.number == fleet.stopped)
        gaps = [place for place, (one, two) in enumerate(pairwise(own)) if one.stop != two.start]
        assert gaps == ends
        assert all(own[place].stop == fleet.stops for place in ends)
        for record in own:
            if record.samples is not None:
                assert np.array_equal(record.samples, pump.vibration(record.start, record.stop, fleet.fault))


def test_a_record_is_json_with_its_time_and_its_samples() -> None:
    record = next(Fleet(3).records())
    value = record.encode(1_700_000_000_000)
    assert value is not None
    assert record.samples is not None
    assert orjson.loads(value) == {"t": 1_700_000_000_000 + record.start, "x": record.samples.tolist()}
    assert Record("pump-01", 40, 40, None).encode(0) is None
