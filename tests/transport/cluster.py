"""The same scenes on both transports: what a test needs beyond the contract itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Protocol

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from service.demo.broker import KafkaNode
from service.transport.interface import (
    Isolation,
    Membership,
    Partition,
    Publisher,
    RecordBatch,
    Source,
    TopicDescription,
    Transport,
)
from service.transport.kafka import KafkaTransport
from service.transport.memory import MemoryLog, MemoryTransport

_names = count(time.time_ns())
_publishers: dict[str, Publisher] = {}


class Cluster(Protocol):
    """A log that several processes share; each `transport()` stands for another process."""

    patience: float  # seconds that anything may take

    def transport(self) -> Transport: ...

    def publisher(self) -> Publisher: ...

    def delete_before(self, partition: Partition, offset: int) -> None: ...

    def let_transactions_time_out(self, seconds: float) -> None: ...


class MemoryCluster:
    def __init__(self) -> None:
        self.patience = 2.0
        self.now = 1_700_000_000.0
        self.log = MemoryLog(clock=lambda: self.now)

    def transport(self) -> Transport:
        return MemoryTransport(self.log)

    def publisher(self) -> Publisher:
        return self.transport().publisher()

    def delete_before(self, partition: Partition, offset: int) -> None:
        self.log.delete_before(partition, offset)

    def let_transactions_time_out(self, seconds: float) -> None:
        self.now += seconds + 0.1
        self.log.expire_transactions()


class KafkaCluster:
    def __init__(self, node: KafkaNode, protocol: str = "classic", **properties: str | int) -> None:
        self.patience = 20.0
        quick: dict[str, str | int] = {"topic.metadata.propagation.max.ms": 1000}
        if protocol == "classic":
            quick["heartbeat.interval.ms"] = 200
        self._properties = {"bootstrap.servers": node.bootstrap, "group.protocol": protocol, **quick, **properties}

    def transport(self) -> Transport:
        return KafkaTransport(self._properties)

    def publisher(self) -> Publisher:
        """One for all tests: an idempotent producer takes half a second to get its number."""
        bootstrap = str(self._properties["bootstrap.servers"])
        if bootstrap not in _publishers:
            _publishers[bootstrap] = self.transport().publisher()
        return _publishers[bootstrap]

    def forget(self) -> None:
        """Its broker ends, and so does the publisher of all tests on it."""
        _publishers.pop(str(self._properties["bootstrap.servers"]), None)

    def delete_before(self, partition: Partition, offset: int) -> None:
        admin = AdminClient({"bootstrap.servers": self._properties["bootstrap.servers"]})
        for done in admin.delete_records([TopicPartition(*partition, offset)]).values():
            done.result(timeout=self.patience)

    def let_transactions_time_out(self, seconds: float) -> None:
        """The broker looks once a second; the tests wait for what it does, not for a time."""


def fresh(prefix: str) -> str:
    """A name that nobody has used yet."""
    return f"{prefix}-{next(_names)}"


def topic(cluster: Cluster, partitions: int = 1) -> str:
    """A new, empty topic."""
    name = fresh("topic")
    cluster.transport().admin().create([TopicDescription(name, partitions)], cluster.patience)
    return name


def publish(cluster: Cluster, where: Partition, values: Sequence[bytes | None]) -> None:
    publisher = cluster.publisher()
    for value in values:
        publisher.publish(where.topic, value, partition=where.partition)
    publisher.flush(cluster.patience)


def visible(cluster: Cluster, where: Partition, isolation: Isolation = Isolation.READ_COMMITTED) -> list[bytes | None]:
    """All values that a reader sees up to the end of the log as it is now."""
    reader = cluster.transport().reader(isolation)
    try:
        first, end = reader.watermarks(where, cluster.patience)
        return [value for batch in reader.read(where, first, end, cluster.patience) for value in batch.values]
    finally:
        reader.close()


class Follower:
    """A listener that writes down what happens, and does what a test wants then."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[Partition]]] = []
        self.owned: set[Partition] = set()
        self.on_assigned: Callable[[Sequence[Partition]], None] = lambda partitions: None
        self.on_revoked: Callable[[Sequence[Partition]], None] = lambda partitions: None

    def assigned(self, partitions: Sequence[Partition]) -> None:
        self.events.append(("assigned", sorted(partitions)))
        self.owned.update(partitions)
        self.on_assigned(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.events.append(("revoked", sorted(partitions)))
        try:
            self.on_revoked(partitions)
        finally:
            self.owned.difference_update(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        self.events.append(("lost", sorted(partitions)))
        self.owned.difference_update(partitions)


class Member:
    """A source with its follower and what it has delivered."""

    def __init__(
        self, cluster: Cluster, group: str, topics: Sequence[str], instance: str = "one", static: bool = False, session: float = 6.0
    ) -> None:
        self.cluster = cluster
        self.follower = Follower()
        self.source: Source = cluster.transport().source(Membership(group, instance, static, session))
        self.source.subscribe(topics, self.follower)
        self.batches: list[RecordBatch] = []

    def poll(self, timeout: float = 0.05, max_records: int = 1000) -> list[RecordBatch]:
        found = self.source.poll(max_records, timeout)
        self.batches += found
        return found

    def values(self) -> list[bytes | None]:
        return [value for batch in self.batches for value in batch.values]

    def offsets(self, partition: int = 0) -> list[int]:
        return [offset for batch in self.batches if batch.partition == partition for offset in batch.offsets]

    def until(self, done: Callable[[], bool]) -> None:
        """Poll until `done`."""
        until(self.cluster, done, self)

    def join(self) -> None:
        """Poll until partitions are assigned."""
        self.until(lambda: bool(self.follower.owned))


def until(cluster: Cluster, done: Callable[[], bool], *members: Member) -> None:
    """Let the members poll in turn until `done`, with a deadline."""
    deadline = time.monotonic() + cluster.patience
    while not done():
        assert time.monotonic() < deadline, f"still waiting; {[member.follower.events for member in members]}"
        for member in members:
            member.poll()


def quiet(member: Member, polls: int = 6) -> bool:
    """Whether several polls find nothing."""
    return not any(member.poll(timeout=0.05) for _ in range(polls))


def rows(batches: Sequence[RecordBatch]) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    for batch in batches:
        yield from zip(batch.offsets, batch.keys, batch.values, strict=True)


def ends(cluster: Cluster, where: Partition) -> int:
    """The offset after the last record or marker in the log."""
    reader = cluster.transport().reader()
    try:
        return reader.watermarks(where, cluster.patience)[1]
    finally:
        reader.close()


def wait_for_end(cluster: Cluster, where: Partition, end: int) -> None:
    """Until what was produced is in the log: a client sends when it likes, and a commit answers before its markers are written."""
    deadline = time.monotonic() + cluster.patience
    reader = cluster.transport().reader()
    while (found := reader.watermarks(where, cluster.patience)[1]) < end:
        assert time.monotonic() < deadline, f"the log ends at {found}, not at {end}"
    reader.close()
    assert found == end
