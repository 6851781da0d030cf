"""What was offered: input records told apart into streams, by the plainest reading of the rules, record after record.

Deliberately shares nothing with the scheduler: this is the other opinion.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from service.codec.interface import Chunks
from service.extent import Offsets, shown
from service.transport.interface import RecordBatch


@dataclass(slots=True)
class Fed:
    """One record's part in a stream: `samples` fed at frame `first`; `ends` where it ended the stream.

    `null` tells an end that was asked for from one that a change of rate brought about.
    """

    offset: int
    first: int
    time: float
    samples: Float32[np.ndarray, "n C"]
    ends: bool = False
    null: bool = False


class Letter(NamedTuple):
    """A dead letter: of which record, and why."""

    partition: int
    offset: int
    reason: str


@dataclass(slots=True)
class OfferedStream:
    """One life of a key. `whole` is False where the log no longer shows that it begins with its first record."""

    partition: int
    key: str
    stream: int
    rate: float
    whole: bool
    records: list[Fed] = field(default_factory=list)
    raw_key: bytes = b""

    @property
    def frames(self) -> int:
        return sum(len(record.samples) for record in self.records)

    @property
    def ended(self) -> bool:
        return bool(self.records) and self.records[-1].ends

    def samples(self) -> Float32[np.ndarray, "n C"]:
        return np.concatenate([record.samples for record in self.records])


EVERYWHERE = Offsets((range(sys.maxsize),))


class Offered(NamedTuple):
    """What one partition offered: its streams in order of their first records, a letter for each refused record, how many records
    there were, and `ends`: by key, the null value that is the first the log holds of it, where it may have held more."""

    partition: int
    begins_at: int
    streams: list[OfferedStream]
    letters: list[Letter]
    records: int
    ends: dict[str, int]


def offered(
    partition: int,
    batches: Iterable[tuple[RecordBatch, Chunks]],
    begins_at: int,
    within: Offsets = EVERYWHERE,
    fresh: bool = False,
) -> Offered:
    """What one partition offered. The log begins at offset `begins_at`; `fresh`: and so did the task, whatever was there before.
    Streams and refusals without a record at the offsets `within` are left out; only records there are counted."""
    fresh = fresh or begins_at == 0
    present: dict[bytes, OfferedStream] = {}
    seen: set[bytes] = set()
    streams: dict[tuple[bytes, int], OfferedStream] = {}
    letters: list[Letter] = []
    ends: dict[str, int] = {}
    records = 0
    for batch, chunks in batches:
        position = 0
        records += sum(offset in within for offset in batch.offsets)
        for row, offset in enumerate(batch.offsets):
            length = int(chunks.lengths[row])
            samples = chunks.samples[position : position + length]
            position += length
            key = batch.keys[row]
            if row in chunks.refused:
                if offset in within:
                    letters.append(Letter(partition, offset, str(chunks.refused[row].reason)))
                continue
            assert key is not None, "a decoder refuses records without a key"
            stream = present.get(key)
            rate = float(chunks.rates[row])
            if stream is not None and (chunks.ends[row] or stream.rate != rate):
                end = Fed(offset, stream.frames, np.nan, samples[:0], ends=True, null=bool(chunks.ends[row]))
                stream.records.append(end)
                del present[key]
                if offset < within.start:
                    del streams[key, stream.stream]
                stream = None
            if chunks.ends[row]:
                if not fresh and key not in seen:
                    ends[shown(key)] = offset
                seen.add(key)
                continue
            if stream is None:
                stream = OfferedStream(partition, shown(key), offset, rate, whole=fresh or key in seen, raw_key=key)
                present[key] = stream
                streams[key, offset] = stream
            seen.add(key)
            stream.records.append(Fed(offset, stream.frames, float(chunks.times[row]), samples))
    reaching = [stream for stream in streams.values() if any(record.offset in within for record in reversed(stream.records))]
    return Offered(partition, begins_at, reaching, letters, records, ends)
