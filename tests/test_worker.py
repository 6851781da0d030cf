"""What a worker does on ordinary days, on the in-memory log."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import orjson
import pytest

from service.task import Phase
from service.transport.interface import Committed, Partition
from service.transport.partitioning import partition_of
from tests.applications import chunk
from tests.cluster import PARTITIONS, Cluster, audited, same_partition


def test_every_record_that_completes_outputs_gets_one_prediction(cluster: Cluster) -> None:
    for round_ in range(3):
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, samples=5 + round_)
    cluster.work()
    assert audited(cluster) == 9
    found = cluster.predictions()
    assert {prediction["key"] for prediction in found} == {"a", "b", "c"}
    assert sorted(prediction["index"] for prediction in found if prediction["key"] == "a") == [0, 5, 11]


def test_a_prediction_says_where_and_when(cluster: Cluster) -> None:
    cluster.publish(b"a", chunk(1_700_000_000_000, 4, seed=1))
    cluster.publish(b"a", chunk(1_700_000_000_004, 3, seed=2))
    cluster.work()
    second = next(prediction for prediction in cluster.predictions() if prediction["index"] == 4)
    assert second["t"] == 1_700_000_000_004
    assert second["topic"] == "in"
    assert (second["stream"], np.shape(second["y"])) == (0, (3, 2))


def test_nothing_is_visible_before_the_commit(cluster: Cluster) -> None:
    cluster.produce(b"a", 5)
    cluster.turn("one")
    cluster.turn("one")
    assert cluster.predictions() == []
    cluster.work()
    assert audited(cluster) == 1


def test_a_null_value_ends_the_stream_and_the_next_record_begins_another(cluster: Cluster) -> None:
    cluster.produce(b"a", 5)
    cluster.publish(b"a", None)
    cluster.produce(b"a", 5)
    cluster.work()
    assert audited(cluster) == 2
    assert {(prediction["stream"], prediction["index"]) for prediction in cluster.predictions()} == {(0, 0), (2, 0)}


def test_a_changed_rate_ends_the_stream_and_begins_another(cluster: Cluster) -> None:
    cluster.produce(b"a", 5)
    cluster.publish(b"a", chunk(cluster.now * 1000, 5, seed=3)[:-1] + b',"rate":500}')
    cluster.work()
    assert audited(cluster) == 2
    assert {prediction["stream"] for prediction in cluster.predictions()} == {0, 1}


def test_a_clean_stop_leaves_nothing_to_replay(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    cluster.produce(b"b", 7)
    cluster.work()
    cluster.stop("one")
    for number in range(PARTITIONS):
        committed = cluster.log.group("app").committed[Partition("in", number)]
        assert orjson.loads(committed.metadata)["replay_from"] == committed.offset
    assert {key for key, _ in cluster.snapshots()} == {b"a", b"b"}
    cluster.produce(b"a", 7)
    cluster.start("one")
    cluster.work()
    assert audited(cluster) == 3


def test_a_join_hands_streams_over_without_replay(cluster: Cluster) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        cluster.produce(key, 7)
    cluster.work()
    cluster.start("two")
    for _ in range(10):
        cluster.now += 0.06
        cluster.turn("one")
        cluster.turn("two")
    for key in (b"a", b"b", b"c", b"d"):
        cluster.produce(key, 7)
    for _ in range(5):
        cluster.now += 0.06
        cluster.turn("one")
        cluster.turn("two")
    assert audited(cluster) == 8


def test_running_tasks_go_on_while_another_waits_for_its_offsets(cluster: Cluster) -> None:
    """Somebody's open transaction holds the offsets of partition 0; its task restores, turn after turn, and delivers nothing."""
    here, there = same_partition(1)[0], next(key for key in (b"%d" % n for n in range(99)) if partition_of(key, PARTITIONS) == 1)
    cluster.work()
    cluster.crash("one")
    cluster.start("one")
    cluster.produce(here, 7)
    cluster.produce(there, 7)
    cluster.turn("one")  # joins
    stranger = cluster.transport.sink("stranger", 600.0)
    stranger.open(1.0)
    stranger.begin()
    stranger.send_offsets({Partition("in", 0): Committed(0, "")}, cluster.workers["one"]._assignment.source.group())
    cluster.work(turns=4)
    states = {number: task.phase for number, task in cluster.workers["one"]._assignment.tasks.items()}
    assert states == {0: Phase.RESTORING, 1: Phase.LIVE}
    assert [prediction["key"] for prediction in cluster.predictions()] == [there.decode()]
    stranger.abort(1.0)
    cluster.work()
    assert audited(cluster) == 2


def test_those_restored_first_have_the_first_turns_until_something_is_committed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def endless() -> Iterator[None]:
        nonlocal steps
        while True:
            steps += 1
            yield

    key = same_partition(1)[0]
    there = partition_of(key, PARTITIONS)
    worker, assignment = cluster.workers["one"], cluster.workers["one"]._assignment
    while not (there in assignment.tasks and assignment.tasks[there].live):
        cluster.turn("one")
    cluster.work()
    begun = iter(range(10**6))
    monkeypatch.setattr(assignment, "_clock", lambda: float(next(begun)))  # whatever is done takes a second
    assignment._restoring[there + PARTITIONS] = endless()  # type: ignore[assignment]
    worker.commits.fresh = True

    def turns(count: int, records: bool) -> int:
        nonlocal steps
        steps = 0
        for _ in range(count):
            if records:
                cluster.produce(key, samples=1)
            cluster.turn("one")
        return steps

    assert turns(4, records=False) == 4
    assert turns(1, records=True) == 1
    assert turns(32, records=True) == 2
    worker.commits.fresh = False
    assert turns(4, records=True) == 4


def test_the_first_commit_after_an_assignment_waits_neither_for_many_streams_nor_for_its_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.intake._FEW", 3)
    for number in range(10):
        cluster.produce(b"%d" % number, samples=5)
    committed = []
    for _ in range(20):
        cluster.turn("one")  # no time passes
        committed.append(sum(at.offset for at in cluster.log.group("app").committed.values()))
    assert min(filter(None, committed)) == 3
    assert committed[-1] < 10, "what follows waits for its time"
    cluster.now += 1.0
    cluster.work()
    assert audited(cluster) == 10
