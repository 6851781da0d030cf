"""Rates and means between two counts."""

from __future__ import annotations

import pytest

from service.demo.totals import Totals
from service.observe.metrics import Metrics


def test_what_the_worker_measured_is_read_from_its_metrics() -> None:
    metrics = Metrics()
    for keys, samples in ((3, 100), (5, 300)):
        with metrics.stepping(keys, samples):
            pass
        metrics.commit_took(0.01)
    totals = Totals.read(4.0, records=8, samples=400, predictions=7, metrics=metrics)
    assert totals.keys_per_step == 4
    assert totals.samples_per_step == 200
    assert totals.commits == 2
    assert totals.commit_ms == pytest.approx(totals.commit_seconds / 2 * 1000)
    assert (totals.records_per_second, totals.samples_per_second, totals.predictions_per_second) == (2, 100, 1.75)


def test_a_difference_is_about_what_came_between() -> None:
    before = Totals(at=1.0, records=10, steps=2, step_keys=4, commits=1, commit_seconds=0.5)
    after = Totals(at=3.0, records=30, steps=4, step_keys=14, commits=3, commit_seconds=0.51)
    lately = after - before
    assert lately.records_per_second == 10
    assert lately.keys_per_step == 5
    assert lately.commit_ms == pytest.approx(5)


def test_nothing_yet_is_no_error() -> None:
    nothing = Totals()
    assert nothing.records_per_second == 0
    assert nothing.keys_per_step == 0
    assert nothing.commit_ms is None
