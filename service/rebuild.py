"""Damaged snapshots: their keys alone are rebuilt from the log, where it reaches back to the beginnings of their streams.

The state is a function of the input, so nothing is lost with a snapshot but time. Records that were refused for what they did to a
step have to be known too, and the notes of them are gone where no replay could meet them any more: the dead letters tell.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import structlog

from service.begun import Begun
from service.codec.interface import Reason, Refusal
from service.errors import OperatorActionRequired, SnapshotDamaged
from service.refused import RefusedRecords, dead_letter_of
from service.topics import Topics
from service.transport.interface import Partition, Reader, RecordBatch

log = structlog.get_logger("penstock.restore")

UNKNOWN = -1
"""For a stream whose first offset cannot be read any more: it may have begun with the first record that was fed."""

_BY_THEIR_DEEDS = {Reason.STEP_FAILED, Reason.KILLS}


@dataclass(frozen=True, slots=True)
class Damage:
    """A snapshot that cannot be used: the offset of its stream's first record, or `UNKNOWN`, and why."""

    first: int
    why: SnapshotDamaged


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A task's `keys` are fed from the first offsets of their streams on; everybody else from `until`."""

    keys: Mapping[bytes, int]
    until: int

    @property
    def start(self) -> int:
        return min(self.until, *self.keys.values())

    def select(self, part: RecordBatch) -> RecordBatch:
        """Those records of the task's that are to be fed."""
        if part.offsets[0] >= self.until:
            return part
        never = self.until
        return part.take(
            [
                row
                for row, (offset, key) in enumerate(zip(part.offsets, part.keys, strict=True))
                if offset >= self.until or offset >= self.keys.get(key or b"", never)
            ]
        )


def rebuilding(
    input: Partition,
    damaged: Mapping[bytes, Damage],
    beginning: Begun | None,
    log_begins: int,
    replay_from: int,
    refused: RefusedRecords,
    topics: Topics,
    reader: Reader,
    timeout: float,
) -> Generator[None, None, Rebuild]:
    """How to rebuild these keys; what was refused of them for what it did is in `refused` then. Raises `OperatorActionRequired`
    where the log, or the dead letters, do not reach back far enough, and `TransportUnavailable` where they cannot be read now: an
    open transaction of another instance may hold them up for a while."""
    keys = {}
    for key, damage in damaged.items():
        first = damage.first if damage.first != UNKNOWN else beginning.first if beginning else 0
        if first < log_begins:
            raise _unusable(
                key,
                damage,
                f"its stream began at offset {first}, and the log begins at {log_begins}"
                if damage.first != UNKNOWN
                else f"where its stream began is not legible, and the log begins at {log_begins}",
            )
        keys[key] = first
        log.warning(
            "rebuilding", task=input.partition, key=key.decode("utf-8", "backslashreplace"), offset=first, reason=str(damage.why)
        )
    rebuild = Rebuild(keys, replay_from)
    dead_letters = topics.dead_letters
    for number in range(reader.partitions(dead_letters, timeout) or 0):
        low, high = reader.watermarks(Partition(dead_letters, number), timeout)
        reaches = 0 if low == 0 else replay_from
        for batch in reader.read(Partition(dead_letters, number), low, high, timeout):
            for row in range(len(batch)):
                letter = dead_letter_of(batch.headers(row), topics.app, input.topic)
                if letter and letter[0] == input.partition:
                    _, offset, reason = letter
                    reaches = min(reaches, offset)
                    if reason in _BY_THEIR_DEEDS:
                        refused.records.setdefault(offset, Refusal(Reason(reason), "refused before"))
            yield
        if reaches > rebuild.start:
            key, damage = min(damaged.items(), key=lambda item: item[1].first)
            raise _unusable(key, damage, f"{dead_letters} no longer tells which records of its stream were refused")
    return rebuild


def _unusable(key: bytes, damage: Damage, why_not: str) -> OperatorActionRequired:
    return OperatorActionRequired(
        f"key {key!r}: its snapshot is damaged ({damage.why}), and its state cannot be computed again: {why_not}. Publish a null "
        "value under this key to this partition of the snapshot topic, which makes the key begin anew with its next record."
    )
