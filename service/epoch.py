"""An epoch: what one Kafka transaction commits together. The transaction begins with the first thing there is to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from service.codec.interface import Refusal
from service.topics import Topics
from service.transport.interface import Committed, GroupToken, Headers, Partition, RecordBatch, Sink


@dataclass(slots=True)
class Epoch:
    """Collects one transaction. `records` are the live records it was fed, kept to be fed again after an abort."""

    sink: Sink
    topics: Topics
    letter_bytes: int = 900_000
    records: list[RecordBatch] = field(default_factory=list)
    begun_at: float = 0.0
    open: bool = False
    predictions: int = 0
    letters: int = 0
    written: list[tuple[int, bytes, bytes | None]] = field(default_factory=list)  # into the snapshot topic: task, key, value

    def begin(self, now: float) -> None:
        if not self.open:
            self.sink.begin()
            self.open = True
            self.begun_at = now

    def publish(self, keys: Sequence[bytes], values: Sequence[bytes], offsets: Int64[np.ndarray, "R"]) -> None:
        """Predictions, one per row, completed by the input records at `offsets`."""
        self.sink.produce_many(self.topics.output, keys, values)
        self.predictions += len(values)

    def dead_letter(self, records: RecordBatch, row: int, refusal: Refusal) -> None:
        """The refused record as it came, with where it came from and why it was refused.

        A value above `letter_bytes`, which the topic might refuse, is left out, and so are a key and headers above a twentieth of
        that, headers as they are in the log; their sizes and the place in the input remain.
        """
        key, value = records.keys[row], records.values[row]
        found = {
            "penstock.error": str(refusal.reason),
            "penstock.message": refusal.message,
            "penstock.app": self.topics.app,
            "penstock.topic": records.topic,
            "penstock.partition": str(records.partition),
            "penstock.offset": str(records.offsets[row]),
            "penstock.timestamp": str(records.timestamps[row]),
        }
        if value is not None and len(value) > self.letter_bytes:
            found["penstock.value_bytes"] = str(len(value))
            value = None
        if key is not None and len(key) > self.letter_bytes // 20:
            found["penstock.key_bytes"] = str(len(key))
            key = None
        headers = records.headers(row)
        if (size := _logged_bytes(headers)) > self.letter_bytes // 20:
            found["penstock.headers_bytes"] = str(size)
            headers = []
        headers = headers + [(name, text.encode()) for name, text in found.items()]
        self.sink.produce(self.topics.dead_letters, value, key=key, headers=headers)
        self.letters += 1

    def snapshot(self, task: int, key: bytes, data: bytes | None) -> None:
        """A stream's snapshot, or its tombstone."""
        self.sink.produce(self.topics.snapshots, data, key=key, partition=task)
        self.written.append((task, key, data))

    @property
    def snapshot_bytes(self) -> int:
        return sum(len(data or b"") for _, _, data in self.written)

    def send(self, offsets: Mapping[Partition, Committed], group: GroupToken) -> None:
        """Offsets go last; the membership token is as fresh as the caller's last line."""
        self.sink.send_offsets(offsets, group)

    def commit(self, timeout: float) -> None:
        self.sink.commit(timeout)

    def abort(self, timeout: float) -> None:
        if self.open:
            self.sink.abort(timeout)


def _logged_bytes(headers: Headers) -> int:
    """What headers take in a Kafka record: names and contents, each after its length."""
    return sum(_with_length(len(name.encode())) + _with_length(len(content or b"")) for name, content in headers)


def _with_length(size: int) -> int:
    """The length is written in zigzag, seven bits a byte."""
    return size + ((2 * size | 1).bit_length() + 6) // 7
