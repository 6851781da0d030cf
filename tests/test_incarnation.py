"""The register of an instance's processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from service.errors import TransportUnavailable
from service.incarnation import Incarnation
from service.transport.interface import Partition, Publisher, RecordBatch, TopicDescription
from service.transport.memory import MemoryLog, MemoryTransport
from service.transport.memory.reader import MemoryReader


class Deaf:
    """A publisher that gets no acknowledgement the first few times."""

    def __init__(self, publisher: Publisher, times: int, written: bool) -> None:
        self.left = times
        self._publisher = publisher
        self._written = written

    def publish(self, *args: Any, **kwargs: Any) -> None:
        if self._written or not self.left:
            self._publisher.publish(*args, **kwargs)

    def flush(self, timeout: float) -> None:
        if self.left:
            self.left -= 1
            raise TransportUnavailable("no answer")


@pytest.mark.parametrize("written", [False, True])
def test_who_hears_nothing_of_its_signature_signs_again(written: bool) -> None:
    transport = MemoryTransport(MemoryLog())
    transport.admin().create([TopicDescription("snapshots", 1)], 1.0)
    reader, publisher = transport.reader(), transport.publisher()
    older, newer = (Incarnation(transport, "snapshots", "one") for _ in range(2))
    older.sign(reader, publisher, 1.0)
    newer.sign(reader, Deaf(publisher, 2, written), 1.0)
    assert older.superseded(1.0)
    assert not newer.superseded(1.0)
    with pytest.raises(TransportUnavailable):
        older.sign(reader, Deaf(publisher, 3, written), 1.0)


def test_the_newest_is_found_and_nothing_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    read = MemoryReader.read

    def noted(self: MemoryReader, partition: Partition, start: int, stop: int, timeout: float) -> Iterator[RecordBatch]:
        starts.append(start)
        return read(self, partition, start, stop, timeout)

    monkeypatch.setattr(MemoryReader, "read", noted)
    transport = MemoryTransport(MemoryLog())
    transport.admin().create([TopicDescription("snapshots", 1)], 1.0)
    reader, publisher = transport.reader(), transport.publisher()
    publisher.publish("snapshots", b"a snapshot", key=b"a")
    older, other = (Incarnation(transport, "snapshots", name) for name in ("one", "two"))
    older.sign(reader, publisher, 1.0)
    other.sign(reader, publisher, 1.0)
    for _ in range(5):
        publisher.publish("snapshots", b"a snapshot", key=b"a")
    assert not older.superseded(1.0)
    publisher.publish("snapshots", b"a snapshot", key=b"a")
    assert not older.superseded(1.0)
    assert starts == [1, 8]
    newer = Incarnation(transport, "snapshots", "one")
    newer.sign(reader, publisher, 1.0)
    assert older.superseded(1.0)
    assert older.superseded(1.0)
    assert not newer.superseded(1.0)
    assert not other.superseded(1.0)
