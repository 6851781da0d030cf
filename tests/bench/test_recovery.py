"""`penstock bench recovery` and `penstock bench keys`, on a real broker and small: their outputs are checked by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.bench.feed import Feed
from service.bench.interruption import aborts, kills, resumption
from service.bench.keys import crowd
from service.bench.load import Load
from service.bench.measure import Progress
from service.bench.recovery import Recovery, recover
from service.demo.broker import KafkaNode
from service.errors import PenstockError


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


def test_what_the_killed_process_committed_at_last_is_no_resumption() -> None:
    looks = [Progress(1.0, 90), Progress(1.1, 100), Progress(1.2, 100), Progress(9.0, 101), Progress(9.1, 150)]
    assert resumption(iter(looks), published=100) == Progress(9.0, 101)


class Topic:
    """A publisher that notes what it is given."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes | None, bytes | None]] = []
        self.flushed = 0

    def publish(
        self, topic: str, value: bytes | None, key: bytes | None = None, partition: int | None = None, timestamp: int | None = None
    ) -> None:
        self.records.append((key, value))

    def flush(self, timeout: float) -> None:
        self.flushed = len(self.records)


def test_a_feed_that_has_flowed_goes_on_where_it_was() -> None:
    load, topic = Load(records=400, keys=100), Topic()
    feed = Feed(topic, "topic", load)
    feed.publish(150)
    with feed.flowing() as expect_flowing:
        while feed.published < 160:
            expect_flowing()
    feed.publish()
    assert topic.records == list(load)
    assert topic.flushed == feed.published == 400


def test_a_feed_that_runs_dry_says_so() -> None:
    feed = Feed(Topic(), "topic", Load(records=10, keys=10))
    feed.publish()
    with feed.flowing() as expect_flowing, pytest.raises(PenstockError, match="all 10 records are published"):
        _for_ever(expect_flowing)


def _for_ever(call: Callable[[], None]) -> None:
    while True:
        call()


@pytest.mark.broker
def test_a_kill_under_load_interrupts_for_as_long_as_a_start_takes(kafka: KafkaNode, tmp_path: Path) -> None:
    line = kills(kafka, tmp_path, "classic", "static", keys=20, times=1, say=lambda text: None, snapshot_every="500ms")
    seconds = line.pop("seconds")
    assert isinstance(seconds, float)
    assert seconds > 0.1
    assert line == {
        "bench": "recovery",
        "case": "kill",
        "protocol": "classic",
        "membership": "static",
        "keys": 20,
        "session_timeout": 10.0,
        "each": [seconds],
    }


@pytest.mark.broker
def test_after_an_abort_everything_is_committed_after_all(kafka: KafkaNode, tmp_path: Path) -> None:
    line = aborts(kafka, tmp_path, keys=50, times=2, say=lambda text: None)
    assert (line["case"], line["keys"]) == ("abort", 50)
    each = line["each"]
    assert isinstance(each, list)
    assert len(each) == 2
    assert min(each) > 0


@pytest.mark.broker
def test_far_more_keys_than_slots_have_all_their_predictions(kafka: KafkaNode, tmp_path: Path) -> None:
    figures = crowd(kafka.bootstrap, tmp_path, keys=600, slots=50, memory_bytes=20_000, chunks=3, chunk=20, say=lambda text: None)
    assert figures.records == 1800
    assert figures.disk > 0
    assert len(figures.quarters) == 4
    assert 0 < max(figures.quarters) <= 1.05 * figures.resident
