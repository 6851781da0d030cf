"""Reading without a group: to a given end, over everything that is not a record."""

from __future__ import annotations

import time

import pytest

from service.errors import OperatorActionRequired, TransportUnavailable
from service.transport.interface import Isolation, Partition
from tests.transport.cluster import Cluster, fresh, publish, topic, visible, wait_for_end


def test_a_missing_topic_has_no_partitions(cluster: Cluster) -> None:
    reader = cluster.transport().reader()
    assert reader.partitions("nobody-made-this", cluster.patience) is None
    assert reader.partitions(topic(cluster, 3), cluster.patience) == 3
    reader.close()


def test_reading_ends_exactly_where_it_was_told_to(cluster: Cluster) -> None:
    where = Partition(topic(cluster), 0)
    publish(cluster, where, [b"%d" % number for number in range(10)])
    reader = cluster.transport().reader()

    def read(start: int, stop: int) -> list[int]:
        return [offset for batch in reader.read(where, start, stop, cluster.patience) for offset in batch.offsets]

    assert read(0, 10) == list(range(10))
    assert read(3, 7) == [3, 4, 5, 6]
    assert read(9, 10) == [9]
    assert read(4, 4) == []
    reader.close()


def test_partitions_are_read_one_after_the_other(cluster: Cluster) -> None:
    name = topic(cluster, 3)
    for number in range(3):
        publish(cluster, Partition(name, number), [b"%d" % number] * (number + 1))
    reader = cluster.transport().reader()
    for number in (2, 0, 1, 2):
        batches = list(reader.read(Partition(name, number), 0, number + 1, cluster.patience))
        assert {(batch.topic, batch.partition) for batch in batches} == {(name, number)}
        assert [value for batch in batches for value in batch.values] == [b"%d" % number] * (number + 1)
    reader.close()


def test_an_end_that_holds_no_record_is_reached_all_the_same(cluster: Cluster) -> None:
    where = Partition(topic(cluster), 0)
    sink = cluster.transport().sink(fresh("writer"), 30.0)
    sink.open(cluster.patience)
    sink.begin()
    sink.produce_many(where.topic, [None] * 5, [b"lost"] * 5)
    wait_for_end(cluster, where, 5)
    sink.abort(cluster.patience)
    wait_for_end(cluster, where, 6)
    assert visible(cluster, where) == []
    sink.close()


def test_reading_waits_for_transactions_that_are_open_below_its_end(cluster: Cluster) -> None:
    where = Partition(topic(cluster), 0)
    sink = cluster.transport().sink(fresh("writer"), 30.0)
    sink.open(cluster.patience)
    publish(cluster, where, [b"before"])
    sink.begin()
    sink.produce(where.topic, b"open", partition=0)
    wait_for_end(cluster, where, 2)
    publish(cluster, where, [b"behind"])
    reader = cluster.transport().reader()
    seen: list[list[bytes | None]] = []
    with pytest.raises(TransportUnavailable, match="no progress from offset 1 to 3"):
        seen.extend(batch.values for batch in reader.read(where, 0, 3, timeout=0.5))
    assert [values for values in seen if values] == [[b"before"]]
    assert seen[-1] == []  # while it waits, the caller gets its turn
    sink.commit(cluster.patience)
    assert visible(cluster, where) == [b"before", b"open", b"behind"]
    reader.close()
    sink.close()


def test_a_start_below_the_log_is_an_error(cluster: Cluster) -> None:
    where = Partition(topic(cluster), 0)
    publish(cluster, where, [b"%d" % number for number in range(5)])
    cluster.delete_before(where, 2)
    reader = cluster.transport().reader()
    assert reader.watermarks(where, cluster.patience) == (2, 5)
    with pytest.raises(OperatorActionRequired, match="outside the log"):
        list(reader.read(where, 0, 5, cluster.patience))
    reader.close()


def test_a_missing_partition_is_an_error_that_names_it(cluster: Cluster) -> None:
    reader = cluster.transport().reader()
    with pytest.raises(TransportUnavailable, match="nobody-made-this"):
        reader.watermarks(Partition("nobody-made-this", 0), cluster.patience)
    reader.close()


def test_without_isolation_aborted_records_are_seen(cluster: Cluster) -> None:
    where = Partition(topic(cluster), 0)
    sink = cluster.transport().sink(fresh("writer"), 30.0)
    sink.open(cluster.patience)
    sink.begin()
    sink.produce(where.topic, b"aborted")
    wait_for_end(cluster, where, 1)
    sink.abort(cluster.patience)
    wait_for_end(cluster, where, 2)
    assert visible(cluster, where, Isolation.READ_UNCOMMITTED) == [b"aborted"]
    sink.close()


def test_a_time_is_an_offset(cluster: Cluster) -> None:
    where = Partition(topic(cluster), 0)
    publisher = cluster.publisher()
    for at in (1_000, 2_000, 2_000, 4_000):
        publisher.publish(where.topic, b"x", partition=where.partition, timestamp=at)
    publisher.flush(cluster.patience)
    reader = cluster.transport().reader()
    asked = [1, 1_000, 1_001, 2_000, 2_001, 4_000, 4_001]
    assert [reader.offset_at(where, at, cluster.patience) for at in asked] == [0, 0, 1, 1, 3, 3, 4]
    reader.close()


def test_what_is_stable_can_be_read_without_waiting(cluster: Cluster) -> None:
    where = Partition(topic(cluster), 0)
    publish(cluster, where, [b"before"])
    sink = cluster.transport().sink(fresh("writer"), 30.0)
    sink.open(cluster.patience)
    sink.begin()
    sink.produce(where.topic, b"open", partition=0)
    wait_for_end(cluster, where, 2)
    careful, careless = cluster.transport().reader(), cluster.transport().reader(Isolation.READ_UNCOMMITTED)
    assert careful.last_stable(where, cluster.patience) == 1
    assert careless.last_stable(where, cluster.patience) == 2
    sink.commit(cluster.patience)
    deadline = time.monotonic() + cluster.patience
    while careful.last_stable(where, cluster.patience) != 3:  # the mark is written after the commit has been answered
        assert time.monotonic() < deadline
    sink.close()
    careful.close()
    careless.close()
