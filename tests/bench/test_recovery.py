"""`penstock bench recovery` and `penstock bench keys`, on a real broker and small: their outputs are checked by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.bench.keys import crowd
from service.bench.recovery import Recovery, recover
from service.demo.broker import KafkaNode


def test_a_line_names_the_case_and_rounds_seconds() -> None:
    line = Recovery("snapshot topic", 10, 1.2345, 2.3456, 0.5, 7, 8, 900).line()
    assert (line["bench"], line["case"], line["first"], line["all"], line["keys"]) == ("recovery", "snapshot topic", 1.23, 2.35, 10)


@pytest.mark.broker
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_killed_worker_is_followed_by_one_that_replays_what_was_dirty(kafka: KafkaNode, tmp_path: Path, on_disk: bool) -> None:
    figures = recover(kafka.bootstrap, tmp_path, 100, on_disk, lambda text: None, snapshot_every="1s")
    assert 0 < figures.first <= figures.all
    assert figures.replayed_records <= 550
    assert figures.snapshots_read >= 100
    assert figures.snapshot_bytes > 100 * 511 * 3 * 4


@pytest.mark.broker
def test_far_more_keys_than_slots_have_all_their_predictions(kafka: KafkaNode, tmp_path: Path) -> None:
    figures = crowd(kafka.bootstrap, tmp_path, keys=600, slots=50, memory_bytes=20_000, chunks=3, chunk=20, say=lambda text: None)
    assert figures.records == 1800
    assert figures.disk > 0
    assert len(figures.quarters) == 4
    assert 0 < max(figures.quarters) <= 1.05 * figures.resident
