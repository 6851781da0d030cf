"""Which part of the input is meant: records of some keys, from one time to another."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from service.config.durations import parse_duration
from service.errors import ConfigurationError
from service.transport.interface import Partition, Reader, RecordBatch


def shown(key: bytes | None) -> str:
    """A key as predictions and messages show it."""
    return (key or b"").decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Extent:
    """Times are the records' in Kafka, in epoch milliseconds: `begin` included, `end` not; `keys` as predictions show them. None is
    no limit."""

    begin: int | None = None
    end: int | None = None
    keys: frozenset[str] | None = None

    @classmethod
    def parse(cls, begin: str | None, end: str | None, keys: Collection[str] | None, now: float | None = None) -> Extent:
        """Times as ISO 8601 (UTC unless they say otherwise) or as a duration before `now` (epoch seconds).

        Raises `ConfigurationError`.
        """
        now = time.time() if now is None else now
        found = cls(_time("--from", begin, now), _time("--to", end, now), frozenset(keys) if keys else None)
        if found.begin is not None and found.end is not None and found.begin >= found.end:
            raise ConfigurationError(f"--from {begin} is not before --to {end}")
        return found

    def offsets(self, reader: Reader, partition: Partition, low: int, stop: int, timeout: float) -> range:
        """The offsets that the times mean, within `low … stop`: from the first record that is not earlier than `begin` to the one
        before the first that is not earlier than `end`."""
        first = low if self.begin is None else reader.offset_at(partition, self.begin, timeout)
        last = stop if self.end is None else reader.offset_at(partition, self.end, timeout)
        return range(min(max(first, low), stop), min(max(last, low), stop))

    def holds(self, key: bytes | None) -> bool:
        return self.keys is None or shown(key) in self.keys

    def select(self, batch: RecordBatch) -> RecordBatch:
        """The records of the keys that are meant."""
        if self.keys is None:
            return batch
        return batch.take([row for row, key in enumerate(batch.keys) if shown(key) in self.keys])


EVERYTHING = Extent()


def _time(option: str, text: str | None, now: float) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    try:
        return int((now - parse_duration(text)) * 1000)
    except ValueError:
        raise ConfigurationError(
            f"{option} {text}: is neither a time, such as 2026-01-31T08:00 (UTC) or 2026-01-31T08:00+01:00, nor a duration before "
            "now, such as 90s or 2h"
        ) from None
