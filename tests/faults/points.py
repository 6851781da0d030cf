"""Named points at which a worker dies, put around its transport: production code knows nothing of them.

A process of its own is killed (`Sigkill`); a worker on the in-memory log is abandoned where it stands (`Abandon`), which is
what the log sees of a process that was killed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

from service.restore import OWN_KEYS
from service.transport.interface import Committed, GroupToken, Headers, Partition, RecordBatch, Sink, Source, Transport


class Point(Enum):
    BEFORE_BEGIN = "before begin"
    PRODUCING = "in the middle of producing"
    SNAPSHOTS = "in the middle of snapshots"
    BEFORE_OFFSETS = "before the offsets"
    AFTER_OFFSETS = "after the offsets"
    DURING_COMMIT = "during commit"
    AFTER_COMMIT = "after commit"
    REPLAY = "during replay"


class Death(Protocol):
    def now(self) -> None: ...

    def during(self, commit: Callable[[], None]) -> None: ...


class Sigkill:
    """The end of this process, by the kernel."""

    def now(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def during(self, commit: Callable[[], None]) -> None:
        """Somewhere in the milliseconds that a commit takes."""
        threading.Timer(random.uniform(0, 0.006), self.now).start()
        commit()
        self.now()


class Killed(BaseException):
    """Not an `Exception`: nothing between here and the test may stop it."""


class Abandon:
    """The end of a worker in this process. A commit has not reached the log then; for the other case, see `AFTER_COMMIT`."""

    def now(self) -> None:
        raise Killed

    def during(self, commit: Callable[[], None]) -> None:
        raise Killed


class Trap:
    """Death at the `nth` pass of a point."""

    def __init__(self, point: Point, nth: int, death: Death) -> None:
        self.point = point
        self.sprung = False
        self._left = nth
        self._death = death

    def passes(self, point: Point) -> None:
        if self._reached(point):
            self._death.now()

    def during(self, point: Point, call: Callable[[], None]) -> None:
        if self._reached(point):
            self._death.during(call)
        else:
            call()

    def _reached(self, point: Point) -> bool:
        if point is self.point:
            self._left -= 1
        self.sprung = self.sprung or (point is self.point and self._left == 0)
        return self.sprung and point is self.point


class Interposed:
    """A transport whose sinks and sources are put into something else, which passes on what does not concern it."""

    def __init__(
        self,
        inner: Transport,
        sink: Callable[[Sink], Any] = lambda sink: sink,
        source: Callable[[Source], Any] = lambda source: source,
    ) -> None:
        self._inner = inner
        self._around_sink = sink
        self._around_source = source

    def sink(self, transactional_id: str, transaction_timeout: float) -> Any:
        return self._around_sink(self._inner.sink(transactional_id, transaction_timeout))

    def source(self, membership: Any) -> Any:
        return self._around_source(self._inner.source(membership))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Around:
    """What stands in front of `inner` and changes nothing."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Sink(Around):
    def __init__(self, inner: Sink, trap: Trap) -> None:
        super().__init__(inner)
        self._trap = trap

    def begin(self) -> None:
        self._trap.passes(Point.BEFORE_BEGIN)
        self.inner.begin()

    def produce_many(self, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> None:
        half = (len(keys) + 1) // 2 if self._trap.point is Point.PRODUCING else 0
        self.inner.produce_many(topic, keys[:half], values[:half])
        self._trap.passes(Point.PRODUCING)
        self.inner.produce_many(topic, keys[half:], values[half:])

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
    ) -> None:
        self.inner.produce(topic, value, key=key, partition=partition, headers=headers)
        if partition is not None and key is not None and not key.startswith(OWN_KEYS):  # a snapshot, or its tombstone
            self._trap.passes(Point.SNAPSHOTS)

    def send_offsets(self, offsets: Mapping[Partition, Committed], group: GroupToken) -> None:
        self._trap.passes(Point.BEFORE_OFFSETS)
        self.inner.send_offsets(offsets, group)
        self._trap.passes(Point.AFTER_OFFSETS)

    def commit(self, timeout: float) -> None:
        self._trap.during(Point.DURING_COMMIT, lambda: self.inner.commit(timeout))
        self._trap.passes(Point.AFTER_COMMIT)


class _Source(Around):
    """Between two polls, after the first of them has delivered what was committed already."""

    def __init__(self, inner: Source, trap: Trap) -> None:
        super().__init__(inner)
        self._trap = trap
        self._stable: dict[Partition, int] = {}
        self._replaying = False

    def committed(self, partitions: Sequence[Partition], timeout: float) -> dict[Partition, Committed | None]:
        found: dict[Partition, Committed | None] = self.inner.committed(partitions, timeout)
        self._stable |= {partition: committed.offset for partition, committed in found.items() if committed}
        return found

    def start(self, partition: Partition, offset: int) -> None:
        if offset >= self._stable.get(partition, 0):
            self._stable.pop(partition, None)
        self.inner.start(partition, offset)

    def poll(self, max_records: int, timeout: float) -> list[RecordBatch]:
        if self._replaying:
            self._trap.passes(Point.REPLAY)
        found: list[RecordBatch] = self.inner.poll(max_records, timeout)
        self._replaying = any(part.offsets[0] < self._stable.get(Partition(part.topic, part.partition), 0) for part in found)
        return found


def trapped(transport: Transport, trap: Trap) -> Any:
    """The transport, with death waiting at one point."""
    return Interposed(transport, lambda sink: _Sink(sink, trap), lambda source: _Source(source, trap))
