"""How much of what was polled a step takes: an epoch changes no more streams than there are slots."""

from __future__ import annotations

from collections.abc import Sequence

from service.refused import cut
from service.transport.interface import RecordBatch


def cost(records: Sequence[RecordBatch]) -> int:
    """At most so many slots are needed by `records` before an epoch is settled, if no stream changes its rate: one for each key,
    and one more for each end of a stream, since another may begin under the same key."""
    keys: dict[int, set[bytes | None]] = {}
    for part in records:
        keys.setdefault(part.partition, set()).update(part.keys)
    return sum(map(len, keys.values())) + sum(part.values.count(None) for part in records)


class Caution:
    """How many records at a time are fed where every failure begins all of it again: a quarter after one, twice as many after some
    that have passed. With each failure those are twice as many, so that what fails for good beyond some size comes to its end."""

    def __init__(self, most: int) -> None:
        self.size = self._most = most
        self._patience = 1
        self._passed = 0

    def failed(self, size: int) -> None:
        self.size, self._patience, self._passed = max(1, size // 4), 2 * self._patience, 0

    def passed(self) -> None:
        self._passed += 1
        if self._passed >= self._patience:
            self.size, self._passed = min(2 * self.size, self._most), 0


def portion(records: Sequence[RecordBatch], room: int, at_least: int = 0) -> tuple[list[RecordBatch], list[RecordBatch]]:
    """The first records, as many as `room` slots are enough for, and the rest."""
    if sum(map(len, records)) <= at_least or cost(records) <= room:
        return list(records), []
    seen: set[tuple[int, bytes | None]] = set()
    count = needed = 0
    for part in records:
        for key, value in zip(part.keys, part.values, strict=True):
            needed += ((part.partition, key) not in seen) + (value is None)
            if needed > room:
                return cut(records, max(count, at_least))
            seen.add((part.partition, key))
            count += 1
    raise AssertionError("the cost of all is that of its records, one by one")
