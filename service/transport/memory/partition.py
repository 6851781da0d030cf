"""One partition's log: records and transaction markers in offset order."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from service.transport.interface import Headers, Isolation, Partition, RecordBatch


class Fate(Enum):
    """What became of a transaction."""

    OPEN = auto()
    COMMITTED = auto()
    ABORTED = auto()


@dataclass(eq=False, slots=True)
class Transaction:
    """One transaction: who writes it, since when, where, and the offsets that it carries for groups."""

    transactional_id: str
    began: float
    timeout: float
    fate: Fate = Fate.OPEN
    first: dict[Partition, int] = field(default_factory=dict)

    def overdue(self, now: float) -> bool:
        return now - self.began > self.timeout


class Entry(NamedTuple):
    """A record, or the marker of a transaction's end. Its offset is its place in the log."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    transaction: Transaction | None
    marker: bool = False


class Slice(NamedTuple):
    """What a read found, and the offset to go on from: beyond markers and aborted records as well."""

    batch: RecordBatch | None
    position: int


class PartitionLog:
    """An append-only list of entries. Offsets below `start` have been deleted."""

    def __init__(self, where: Partition) -> None:
        self.where = where
        self.start = 0
        self._entries: list[Entry] = []
        self._open: dict[Transaction, int] = {}

    @property
    def end(self) -> int:
        """The offset after the last entry."""
        return self.start + len(self._entries)

    @property
    def last_stable(self) -> int:
        """Every transaction with an entry below this offset has ended."""
        return min(self._open.values(), default=self.end)

    def append(self, entry: Entry) -> int:
        offset = self.end
        if entry.transaction is not None and not entry.marker:
            self._open.setdefault(entry.transaction, offset)
        self._entries.append(entry)
        return offset

    def offset_at(self, timestamp: int) -> int:
        """Of the first record that is not earlier, `end` where there is none."""
        later = (at for at, entry in enumerate(self._entries, self.start) if not entry.marker and entry.timestamp >= timestamp)
        return next(later, self.end)

    def settle(self, transaction: Transaction, timestamp: int) -> None:
        """Write the marker of a transaction that has ended, if it wrote here."""
        if self._open.pop(transaction, None) is not None:
            self.append(Entry(timestamp, None, None, [], transaction, marker=True))

    def delete_before(self, offset: int) -> None:
        """As retention does it."""
        if not self.start <= offset <= self.end:
            raise ValueError(f"{self.where}: {offset} is not in the log, which reaches from {self.start} to {self.end}")
        del self._entries[: offset - self.start]
        self.start = offset

    def remove(self, offset: int) -> None:
        """As compaction does it: the offset stays, without a record."""
        self._entries[offset - self.start] = self._entries[offset - self.start]._replace(marker=True)

    def limit(self, isolation: Isolation) -> int:
        """The offset that a reader cannot pass at the moment."""
        return self.end if isolation is Isolation.READ_UNCOMMITTED else self.last_stable

    def read(self, position: int, max_records: int, isolation: Isolation, stop: int | None = None) -> Slice:
        """At most `max_records` visible records from `position`, which must lie in the log, up to `stop`."""
        offsets: list[int] = []
        found: list[Entry] = []
        limit = self.limit(isolation) if stop is None else min(stop, self.limit(isolation))
        while position < limit and len(found) < max_records:
            entry = self._entries[position - self.start]
            if not entry.marker and not _hidden(entry, isolation):
                offsets.append(position)
                found.append(entry)
            position += 1
        return Slice(self._batch(offsets, found) if found else None, position)

    def _batch(self, offsets: list[int], entries: list[Entry]) -> RecordBatch:
        return RecordBatch(
            topic=self.where.topic,
            partition=self.where.partition,
            offsets=offsets,
            timestamps=[entry.timestamp for entry in entries],
            keys=[entry.key for entry in entries],
            values=[entry.value for entry in entries],
            headers=lambda row: list(entries[row].headers),
        )


def _hidden(entry: Entry, isolation: Isolation) -> bool:
    aborted = entry.transaction is not None and entry.transaction.fate is Fate.ABORTED
    return aborted and isolation is Isolation.READ_COMMITTED
