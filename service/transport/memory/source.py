"""A group member on the in-memory log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import Fenced, OffsetsPending, TransportUnavailable
from service.transport.interface import Committed, Isolation, Membership, Partition, RebalanceListener, RecordBatch
from service.transport.memory.group import Member, Standing
from service.transport.memory.log import MemoryLog, outside


@dataclass(frozen=True, slots=True)
class MemoryToken:
    """A membership as it was when asked for."""

    group: str
    identity: str
    generation: int

    @property
    def joined(self) -> bool:
        return self.generation >= 0


@dataclass(slots=True)
class _Position:
    offset: int
    paused: bool = False


class MemorySource:
    """Implements `Source`. Rebalances happen inside `poll`."""

    def __init__(self, log: MemoryLog, membership: Membership) -> None:
        self._log = log
        self._membership = membership
        self._group = log.group(membership.group)
        self._member: Member | None = None
        self._topics: tuple[str, ...] = ()
        self._listener: RebalanceListener | None = None
        self._owned: tuple[Partition, ...] = ()
        self._generation = -1
        self._positions: dict[Partition, _Position] = {}
        self._turn = 0
        self._fenced = False  # and has said so

    def subscribe(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        self._topics = tuple(topics)
        self._listener = listener

    def poll(self, max_records: int, timeout: float) -> list[RecordBatch]:
        deadline = time.monotonic() + timeout
        while True:
            self._rebalance()
            with self._log.changed:
                batches = self._fetch(max_records)
                left = deadline - time.monotonic()
                if batches or left <= 0:
                    return batches
                self._log.changed.wait(left)

    def start(self, partition: Partition, offset: int) -> None:
        if partition not in self._owned:
            raise ValueError(f"{partition} is not assigned to this member")
        self._positions[partition] = _Position(offset)

    def pause(self, partitions: Sequence[Partition]) -> None:
        for position in self._running(partitions):
            position.paused = True

    def resume(self, partitions: Sequence[Partition]) -> None:
        for position in self._running(partitions):
            position.paused = False

    def position(self, partition: Partition) -> int:
        position = self._positions.get(partition)
        return -1 if position is None else position.offset

    def committed(self, partitions: Sequence[Partition], timeout: float) -> dict[Partition, Committed | None]:
        with self._log.changed:
            deadline = time.monotonic() + timeout
            self._log.expire_transactions()
            while self._group.holds_back(partitions):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise OffsetsPending(f"group {self._group.name}: an open transaction holds offsets of {list(partitions)}")
                self._log.changed.wait(left)
                self._log.expire_transactions()
            return {partition: self._group.committed.get(partition) for partition in partitions}

    def watermarks(self, partition: Partition, timeout: float) -> tuple[int, int]:
        with self._log.changed:
            log = self._log.partition(partition)
            return log.start, log.end

    def group(self) -> MemoryToken:
        member = self._member
        return MemoryToken(self._group.name, member.identity if member else "", self._generation)

    def close(self) -> None:
        member, self._member = self._member, None
        if member is None:
            return
        if member.standing is Standing.JOINED:
            self._revoke()
        else:
            self._lose()
        if not self._membership.static:
            with self._log.changed:
                self._group.leave(member)
                self._log.changed.notify_all()

    def _rebalance(self) -> None:
        """Take part in what the group does at the moment. The listener is called without the lock."""
        member = self._member or self._join()
        if member.standing is Standing.FENCED and self._fenced:
            self._drop()  # and is silent from now on, as librdkafka's client is, of what it has lost too
        elif member.standing is Standing.FENCED:
            self._fenced = True
            raise Fenced(
                f"another process joined group {self._group.name!r} under this instance name, {self._membership.instance!r}"
            )
        if member.standing is Standing.EXPIRED:
            self._member = None
            self._lose()
            member = self._join()
        if member.standing is Standing.JOINED and self._group.rebalancing:
            self._revoke()
            with self._log.changed:
                self._group.give_up(member)
                self._log.changed.notify_all()
        if member.standing is Standing.JOINED and member.generation != self._generation:
            self._take(member)

    def _join(self) -> Member:
        with self._log.changed:
            for topic in self._topics:
                if self._log.count(topic) == 0:
                    raise TransportUnavailable(f"there is no topic {topic!r} to read; create it")
            self._member = self._group.join(self._membership.instance, self._topics, self._membership.static)
            self._group.advance()
            self._log.changed.notify_all()
            return self._member

    def _take(self, member: Member) -> None:
        self._generation, self._owned = member.generation, member.assignment
        if self._owned and self._listener is not None:
            self._listener.assigned(self._owned)

    def _revoke(self) -> None:
        try:
            if self._owned and self._listener is not None:
                self._listener.revoked(self._owned)
        finally:
            self._drop()

    def _lose(self) -> None:
        owned = self._owned
        self._drop()
        if owned and self._listener is not None:
            self._listener.lost(owned)

    def _drop(self) -> None:
        self._owned = ()
        self._generation = -1
        self._positions.clear()

    def _running(self, partitions: Sequence[Partition]) -> list[_Position]:
        return [self._positions[partition] for partition in partitions if partition in self._positions]

    def _fetch(self, max_records: int) -> list[RecordBatch]:
        batches: list[RecordBatch] = []
        self._turn += 1
        for partition in _rotated(self._owned, self._turn):
            position = self._positions.get(partition)
            if position is None or position.paused:
                continue
            log = self._log.partition(partition)
            if not log.start <= position.offset <= log.end:
                raise outside(partition, position.offset, log)
            batch, position.offset = log.read(position.offset, max_records, Isolation.READ_COMMITTED)
            if batch is not None:
                batches.append(batch)
                max_records -= len(batch)
        return batches


def _rotated(partitions: tuple[Partition, ...], turn: int) -> tuple[Partition, ...]:
    first = turn % len(partitions) if partitions else 0
    return partitions[first:] + partitions[:first]
