"""Which part of the input is meant: records of some keys, from one time to another."""

from __future__ import annotations

import time
from bisect import bisect_right
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
class Offsets:
    """Offsets of one partition, as runs in order, none of them empty."""

    runs: tuple[range, ...]

    @property
    def start(self) -> int:
        return self.runs[0].start if self.runs else 0

    @property
    def stop(self) -> int:
        """After the last of them."""
        return self.runs[-1].stop if self.runs else 0

    def __bool__(self) -> bool:
        return bool(self.runs)

    def __contains__(self, offset: int) -> bool:
        at = bisect_right(self.runs, offset, key=lambda run: run.start)
        return at > 0 and offset in self.runs[at - 1]


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

    def offsets(self, reader: Reader, partition: Partition, low: int, stop: int, timeout: float) -> Offsets:
        """The offsets within `low … stop` of the records that the times mean.

        Each record is told by its own time, since times in a log need not be in order: one clock that is wrong moves only its own
        records in or out. So the log is read to its end, from the first record on that is not earlier than `begin`.
        """
        edges = [low] if self.begin is None else []  # where runs begin and end, in turn
        if self.begin is not None or self.end is not None:
            first = low if self.begin is None else max(low, reader.offset_at(partition, self.begin, timeout))
            for batch in reader.read(partition, first, stop, timeout):
                for offset, at in zip(batch.offsets, batch.timestamps, strict=True):
                    if self._covers(at) != len(edges) % 2:
                        edges.append(offset)
        if len(edges) % 2:
            edges.append(stop)
        runs = (range(begin, end) for begin, end in zip(edges[::2], edges[1::2], strict=True))
        return Offsets(tuple(run for run in runs if run))

    def _covers(self, timestamp: int) -> bool:
        return (self.begin is None or timestamp >= self.begin) and (self.end is None or timestamp < self.end)

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
