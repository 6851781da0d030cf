"""Everything a worker and its surroundings ask of a log, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from service.transport.interface import Isolation, Membership, TopicDescription
from service.transport.memory.log import MemoryLog
from service.transport.memory.reader import MemoryReader
from service.transport.memory.sink import MemorySink
from service.transport.memory.source import MemorySource


class MemoryTransport:
    """Implements `Transport` on a `MemoryLog`; several transports on one log are several processes on one cluster."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def source(self, membership: Membership) -> MemorySource:
        return MemorySource(self._log, membership)

    def sink(self, transactional_id: str, transaction_timeout: float) -> MemorySink:
        return MemorySink(self._log, transactional_id, transaction_timeout)

    def reader(self, isolation: Isolation = Isolation.READ_COMMITTED) -> MemoryReader:
        return MemoryReader(self._log, isolation)

    def admin(self) -> MemoryAdmin:
        return MemoryAdmin(self._log)

    def publisher(self) -> MemoryPublisher:
        return MemoryPublisher(self._log)

    def describe(self) -> str:
        return "memory (an in-memory log in this process)"


class MemoryAdmin:
    """Implements `Admin`."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def describe(self, topics: Sequence[str], timeout: float) -> dict[str, TopicDescription | None]:
        return {topic: self._log.describe(topic) for topic in topics}

    def identity(self, topic: str, timeout: float) -> str | None:
        return self._log.identity(topic)

    def create(self, topics: Sequence[TopicDescription], timeout: float) -> None:
        for topic in topics:
            self._log.create(topic)


class MemoryPublisher:
    """Implements `Publisher`: every record is in the log at once."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def publish(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> None:
        self._log.append(topic, value, key, partition, [], timestamp)

    def flush(self, timeout: float) -> None: ...
