"""Reading the in-memory log without a group."""

from __future__ import annotations

import time
from collections.abc import Iterator

from service.errors import TransportUnavailable
from service.transport.interface import Isolation, Partition, RecordBatch
from service.transport.memory.log import MemoryLog, outside

_MAX_RECORDS = 10_000
_WAIT = 0.02


class MemoryReader:
    """Implements `Reader`."""

    def __init__(self, log: MemoryLog, isolation: Isolation) -> None:
        self._log = log
        self._isolation = isolation

    def partitions(self, topic: str, timeout: float) -> int | None:
        return self._log.count(topic) or None

    def watermarks(self, partition: Partition, timeout: float) -> tuple[int, int]:
        with self._log.changed:
            log = self._log.partition(partition)
            return log.start, log.end

    def last_stable(self, partition: Partition, timeout: float) -> int:
        with self._log.changed:
            return self._log.partition(partition).limit(self._isolation)

    def read(self, partition: Partition, start: int, stop: int, timeout: float) -> Iterator[RecordBatch]:
        position, deadline = start, time.monotonic() + timeout
        while position < stop:
            batch, reached = self._next(partition, position, stop)
            if reached > position:
                position, deadline = reached, time.monotonic() + timeout
            elif time.monotonic() > deadline:
                raise TransportUnavailable(
                    f"{partition.topic}[{partition.partition}]: no progress from offset {position} to {stop} in {timeout:.1f} s"
                )
            yield batch or RecordBatch(partition.topic, partition.partition, [], [], [], [])

    def offset_at(self, partition: Partition, timestamp: int, timeout: float) -> int:
        with self._log.changed:
            return self._log.partition(partition).offset_at(timestamp)

    def close(self) -> None: ...

    def _next(self, partition: Partition, position: int, stop: int) -> tuple[RecordBatch | None, int]:
        with self._log.changed:
            log = self._log.partition(partition)
            if not log.start <= position <= log.end:
                raise outside(partition, position, log)
            if not self._log.changed.wait_for(lambda: log.limit(self._isolation) > position, _WAIT):
                return None, position
            return log.read(position, _MAX_RECORDS, self._isolation, stop)
