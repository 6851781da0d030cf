"""Rows 8 to 11 and 18: aborts, timeouts, steps that fail, other people's open transactions, and no input at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import orjson
import pytest
import torch

from service.errors import EpochAborted
from service.state import Packed
from service.task import Phase
from service.transport.interface import Isolation, Partition, Sink
from service.worker import Worker
from tests.faults.conftest import Judged, Rounds, Scenes
from tests.faults.points import Around, Interposed
from tests.faults.scene import PARTITIONS

pytestmark = pytest.mark.broker


class AbortsSoon(Around):
    """Demands an abort right after the first record, in every other transaction."""

    def __init__(self, inner: Sink) -> None:
        super().__init__(inner)
        self.transactions = 0
        self.aborts = 0
        self._fresh = False

    def begin(self) -> None:
        self.inner.begin()
        self.transactions += 1
        self._fresh = self.transactions % 2 == 0

    def produce_many(self, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> None:
        self.inner.produce_many(topic, keys[:1], values[:1])
        if self._fresh:
            self._fresh = False
            self.aborts += 1
            raise EpochAborted("an abort is demanded (injected)")
        self.inner.produce_many(topic, keys[1:], values[1:])


def test_an_abort_right_after_the_first_record(scenes: Scenes, rounds: Rounds, judged: Judged) -> None:
    aborts = rounds(10, 1_000)
    sinks: list[AbortsSoon] = []

    def around(sink: Sink) -> AbortsSoon:
        sinks.append(AbortsSoon(sink))
        return sinks[-1]

    with scenes(snapshots="2s") as play:
        worker = play.worker(around=lambda transport: Interposed(transport, around))
        while sum(sink.aborts for sink in sinks) < aborts:
            play.publish(50)
            play.work_off(worker)
        play.leave(worker)
        assert len(sinks) == 1, "an abort must not cost the producer"
        judged(play, 8, "abort right after the first record", sinks[0].aborts)


def test_a_step_that_outlasts_its_transaction(scenes: Scenes, rounds: Rounds, judged: Judged) -> None:
    """The broker ends the transaction meanwhile, and the fence that the worker then meets is its own."""
    stalls = rounds(3, 20)
    sinks: list[Sink] = []

    def around(sink: Sink) -> Sink:
        sinks.append(sink)
        return sink

    with scenes(transaction="1s", interval="200ms") as play:
        worker = play.worker(around=lambda transport: Interposed(transport, around))
        feed = worker.streams.feed
        for _ in range(stalls):
            play.publish(150)
            play.work_off(worker)
            play.publish(150)
            worker.streams.feed = _stalling(worker, feed, 2.0)  # type: ignore[method-assign]
            play.work_off(worker)
        play.leave(worker)
        assert len(sinks) == stalls + 1, "each time a new producer"
        judged(play, 9, "a step that outlasts its transaction", stalls)


def _stalling(worker: Worker, feed: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Stands still once, in an epoch that has published something: before that the broker knows of no transaction."""
    left = [seconds]

    def stalled(packed: Packed) -> Any:
        if left and worker.commits.epoch.predictions:
            threading.Event().wait(left.pop())
        return feed(packed)

    return stalled


def test_a_record_that_fails_its_step(scenes: Scenes, rounds: Rounds, judged: Judged) -> None:
    """Found in memory, dead-lettered, and left out by those who replay; everybody else's predictions are what they would be."""
    records = rounds(3, 20)
    with scenes() as play:
        worker = play.worker()
        worker.streams.feed = _failing(worker.streams.feed)  # type: ignore[method-assign]
        for number in range(records):
            play.publish(100)
            play.publish_one(b"key-%03d" % number, b'{"t":1700000000000,"x":[[0.5,0.5],[%d,0.5]]}' % BAD)
            play.publish(100)
            play.work_off(worker)
        play.close()  # without a clean stop
        play.publish(100)
        successor = play.process()
        play.wait_for(play.published, successor)
        successor.stop()
        report = play.verdict()
        assert report.on_trust == records
        judged(play, 10, "a record that fails its step", records)


BAD = 77


def _failing(feed: Callable[..., Any]) -> Callable[..., Any]:
    def fails(packed: Packed) -> Any:
        if (packed.values == BAD).any():
            raise torch.OutOfMemoryError("no memory left for this batch")
        return feed(packed)

    return fails


def test_a_hand_over_behind_somebodys_open_transaction(scenes: Scenes, rounds: Rounds, judged: Judged) -> None:
    """The snapshots of a clean stop lie behind a transaction that is still open. Who reads only to the last stable offset finds
    none of them, and nothing tells. The next owner has to wait."""
    times = rounds(3, 20)
    with scenes(static=False) as play:
        for _ in range(times):
            play.publish(100)
            first = play.worker("one")
            play.work_off(first)
            stranger = _holding(play.transport, play.config.snapshot_topic)
            play.publish(100)
            play.work_off(first)
            play.leave(first)
            play.publish(100)
            second = play.worker("two")
            play.turn(second, until=partial(_holds_all, second))
            for _ in range(12):
                second.turn()
                assert {task.phase for task in second._assignment.tasks.values()} == {Phase.RESTORING}
            stranger.abort(10.0)
            stranger.close()
            play.work_off(second)
            play.leave(second)
        judged(play, 11, "hand-over behind an open transaction", times)


def _holds_all(worker: Worker) -> bool:
    return len(worker._assignment.tasks) == PARTITIONS


def _holding(transport: Any, topic: str) -> Sink:
    """A transaction with a record in every partition of `topic`."""
    sink: Sink = transport.sink(f"stranger-{time.time_ns()}", 60.0)
    reader = transport.reader(Isolation.READ_UNCOMMITTED)
    places = [Partition(topic, number) for number in range(PARTITIONS)]
    before = [reader.watermarks(place, 10.0)[1] for place in places]
    sink.open(10.0)
    sink.begin()
    for place in places:
        sink.produce(topic, b"never committed", key=b"stranger", partition=place.partition)
    deadline = time.monotonic() + 10.0
    while any(reader.watermarks(place, 10.0)[1] == end for place, end in zip(places, before, strict=True)):
        assert time.monotonic() < deadline
    reader.close()
    return sink


def test_no_input_for_longer_than_the_replay_bound(scenes: Scenes, judged: Judged) -> None:
    """Snapshots and metadata are committed all the same, and who starts after a kill then has nothing to replay."""
    with scenes(snapshots="1s") as play:
        play.publish(200)
        worker = play.worker()
        play.work_off(worker)

        def nothing_to_replay() -> bool:
            found = [committed for committed in play.committed().values() if committed]
            return all(orjson.loads(committed.metadata)["replay_from"] == committed.offset for committed in found)

        play.turn(worker, until=nothing_to_replay, seconds=10.0)
        successor = play.process()
        with pytest.raises(Exception, match=r"newer process|another process"):
            play.turn(worker, until=lambda: False, seconds=30.0)
        play.publish(100)
        play.wait_for(play.published, successor)
        assert "replaying" not in successor.said
        successor.stop()
        judged(play, 18, "no input beyond the replay bound", 1)
