"""Keys go where the Java client puts them, on both transports."""

from __future__ import annotations

import pytest
from confluent_kafka import murmur2 as librdkafkas
from hypothesis import given
from hypothesis import strategies as st

from service.transport.interface import Partition
from service.transport.partitioning import murmur2, partition_of
from tests.transport.cluster import Cluster, fresh, rows, topic

KEYS: list[bytes | None] = [b"", b"a", b"pump-1", b"pump-2", b"pump-11", bytes(range(256)), "Mühle 7".encode(), b"\x00"]


@pytest.mark.parametrize(
    ("data", "expected"),  # Apache Kafka, clients, UtilsTest.testMurmur2
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_javas(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected & 0xFFFFFFFF


@given(st.binary(max_size=40), st.integers(1, 1000))
def test_every_key_has_librdkafkas_partition(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == librdkafkas(key, partitions)


def test_sinks_and_publishers_put_a_key_into_its_partition(cluster: Cluster) -> None:
    name = topic(cluster, 7)
    publisher = cluster.publisher()
    for key in KEYS:
        publisher.publish(name, b"published", key)
    publisher.flush(cluster.patience)
    sink = cluster.transport().sink(fresh("writer"), 30.0)
    sink.open(cluster.patience)
    sink.begin()
    sink.produce_many(name, KEYS, [b"batch"] * len(KEYS))
    for key in KEYS:
        sink.produce(name, b"single", key)
    sink.commit(cluster.patience)
    reader = cluster.transport().reader()
    found = set()
    for number in range(7):
        _, end = reader.watermarks(Partition(name, number), cluster.patience)
        for _, key, value in rows(list(reader.read(Partition(name, number), 0, end, cluster.patience))):
            found.add((number, key, value))
    assert found == {(partition_of(key or b"", 7), key, value) for key in KEYS for value in (b"published", b"batch", b"single")}
    reader.close()
    sink.close()
