"""More keys than slots: streams are frozen and come back, in memory and on disk, and nothing else changes."""

from __future__ import annotations

import random

import pytest

from service.transport.memory import Fault
from tests.applications import chunk
from tests.cluster import Cluster, Room, applications, at_once, audited, when_waited_for

ROOMS = {
    "in memory": Room(slots=3, memory_bytes=1 << 20),
    "some on disk": Room(slots=4, memory_bytes=4000),
    "all on disk": Room(slots=2, memory_bytes=0),
}


@pytest.fixture(params=ROOMS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    cluster = Cluster(applications(ROOMS[request.param]))
    cluster.start("one")
    return cluster


KEYS = [b"key-%d" % number for number in range(30)]


def work(cluster: Cluster) -> None:
    """Until everything is committed; every third of a second at most, so that some streams are clean and some are not."""
    for _ in range(400):
        if not cluster.lag():
            return
        cluster.work(turns=1)
    raise AssertionError(f"{cluster.lag()} records are still not committed")


def test_every_stream_goes_on_where_it_was(cluster: Cluster) -> None:
    for samples in (7, 1, 30, 12):
        for key in KEYS:
            cluster.produce(key, samples)
        work(cluster)
    assert audited(cluster) == 4 * len(KEYS)
    streams = cluster.workers["one"].streams
    assert streams.table.used <= streams.slots < len(KEYS)
    evictions = cluster.workers["one"].metrics.registry.get_sample_value("penstock_slot_evictions_total")
    assert evictions is not None
    assert evictions > len(KEYS)


def test_a_poll_of_more_keys_than_slots_is_done_in_several_epochs(cluster: Cluster) -> None:
    for _ in range(5):
        for key in KEYS:
            cluster.produce(key, 3)
    work(cluster)
    assert audited(cluster) == 5 * len(KEYS)


def test_ends_and_changes_of_rate_take_no_more_slots_than_there_are(cluster: Cluster) -> None:
    for round_ in range(6):
        for number, key in enumerate(KEYS[:8]):
            if (number + round_) % 3 == 0:
                cluster.publish(key, None)
            value = chunk(cluster.now * 1000, 4, seed=round_)
            cluster.publish(key, value if (number + round_) % 4 else value[:-1] + b',"rate":500}')
    work(cluster)
    assert audited(cluster) == 48


def test_an_ended_stream_does_not_come_back_from_the_disk(cluster: Cluster) -> None:
    for key in KEYS:
        cluster.produce(key, 9)
    work(cluster)
    cluster.now += 3.0
    cluster.work()  # everything is clean, and all but a few are frozen
    for key in KEYS:
        cluster.publish(key, None)
        cluster.produce(key, 9)
    cluster.log.inject(Fault.ABORT_AT_COMMIT)
    work(cluster)
    audited(cluster)
    cluster.now += 3.0
    cluster.work()
    for key in KEYS:
        cluster.produce(key, 9)
    work(cluster)
    assert audited(cluster) >= 3 * len(KEYS)
    for key in KEYS:
        cluster.publish(key, None)
    work(cluster)
    cluster.now += 3.0
    cluster.work()
    for key in KEYS:
        cluster.produce(key, 9)
    work(cluster)
    audited(cluster)


def test_a_crash_replays_more_keys_than_slots(cluster: Cluster) -> None:
    for _ in range(3):
        for key in KEYS:
            cluster.produce(key, 5)
        work(cluster)
    cluster.crash("one")
    cluster.start("one")
    for key in KEYS:
        cluster.produce(key, 5)
    work(cluster)
    assert audited(cluster) == 4 * len(KEYS)


def test_a_clean_stop_snapshots_frozen_streams_as_well(cluster: Cluster) -> None:
    for key in KEYS:
        cluster.produce(key, 5)
    work(cluster)
    cluster.stop("one")
    assert len(dict(cluster.snapshots())) == len(KEYS)
    cluster.start("one")
    for key in KEYS:
        cluster.produce(key, 5)
    work(cluster)
    assert audited(cluster) == 2 * len(KEYS)


@pytest.mark.parametrize("seed", range(3))
def test_in_a_storm_of_faults_the_predictions_are_those_of_calm(cluster: Cluster, seed: int) -> None:
    choose = random.Random(seed)
    cluster.beside = choose.choice([at_once, when_waited_for])
    cluster.stop("one")
    cluster.start("one")
    for _ in range(60):
        for key in choose.sample(KEYS, choose.randint(1, 12)):
            if choose.random() < 0.15:
                cluster.publish(key, None)
            cluster.produce(key, choose.randint(1, 20))
        if choose.random() < 0.4:
            cluster.log.inject(choose.choice(list(Fault)))
        for _ in range(choose.randint(1, 8)):
            cluster.now += choose.choice([0.01, 0.06, 0.06, 0.7])
            if "one" not in cluster.workers:
                cluster.expel("one")
                cluster.start("one")
            cluster.turn("one")
        event = choose.random()
        if event < 0.08 and "one" in cluster.workers:
            cluster.crash("one")
        elif event < 0.14 and "two" not in cluster.workers:
            cluster.start("two")
        for worker in cluster.workers.values():
            worker.streams.table.check_integrity()
            worker.streams.cold.dirty.check_integrity()
        if "two" in cluster.workers:
            cluster.turn("two")
            if choose.random() < 0.2:
                cluster.stop("two")
    cluster.drain()
    audited(cluster)


def test_dirty_streams_that_fill_the_memory_are_snapshotted_with_the_next_commit() -> None:
    cluster = Cluster(applications(Room(slots=2, memory_bytes=4000)))
    cluster.start("one")
    worker = cluster.workers["one"]
    for key in KEYS:
        cluster.produce(key, 30)
    work(cluster)
    assert not worker.streams.cold.crowded
    assert worker.streams.cold.size <= 4000
    assert audited(cluster) == len(KEYS)


def test_dirty_streams_of_a_replay_are_snapshotted_for_the_sake_of_memory_alone() -> None:
    """There is no epoch to commit and nothing is overdue: all of them became dirty just now, and no input comes."""
    cluster = Cluster(applications(Room(slots=64)))
    cluster.start("one")
    for key in KEYS:
        cluster.produce(key, 30)
    cluster.work(turns=3)
    cluster.crash("one")
    cluster.applications = applications(Room(slots=2, memory_bytes=4000))
    cluster.start("one")
    cold = cluster.workers["one"].streams.cold
    fullest = 0
    for _ in range(20):
        cluster.turn("one")
        fullest = max(fullest, cold.dirty_bytes)
    assert fullest > 4000, "this is about memory that is full"
    assert cold.dirty_bytes <= 4000
    assert cold.size <= 4000
    for key in KEYS:
        cluster.produce(key, 30)
    work(cluster)
    assert audited(cluster) == 2 * len(KEYS)
