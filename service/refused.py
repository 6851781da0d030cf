"""Records refused for what they did to a step, and how a replay knows of them.

What a record holds decides the same in every replay; whether a step fails may depend on the memory that was free. So such a
refusal is written down: a record in the snapshot topic (partition = task), in the transaction that dead-letters the record, which
tells every replay to leave it out. It goes once no replay can reach it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.codec.interface import Reason, Refusal
from service.transport.interface import Headers, RecordBatch

REFUSED = b"PSNR\x01"
"""How the value of a written refusal begins; the rest is its reason."""

_KEY = b"\x00penstock.refused."

Refusals = Mapping[int, Mapping[int, Refusal]]
"""By task, then by offset."""


@dataclass(slots=True)
class RefusedRecords:
    """Of one task, by offset. `written` are those that the snapshot topic holds."""

    records: dict[int, Refusal] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)

    def read(self, key: bytes, value: bytes | None) -> bool:
        """Take in a record of the snapshot topic; False for one that is about something else."""
        if not key.startswith(_KEY) or (value is not None and not value.startswith(REFUSED)):
            return False
        offset = int(key[len(_KEY) :])
        if value is None:
            self.records.pop(offset, None)
            self.written.discard(offset)
        else:
            self.records[offset] = Refusal(Reason(value[len(REFUSED) :].decode()), "refused before")
            self.written.add(offset)
        return True

    def owed(self, replay_from: int, next_offset: int) -> list[tuple[bytes, bytes | None]]:
        """Keys and values to write in a commit of `next_offset`, after which a replay begins at `replay_from`."""
        fresh = [at for at in self.records if replay_from <= at < next_offset and at not in self.written]
        past = [at for at in self.written if at < replay_from]
        return [(_KEY + b"%d" % at, REFUSED + self.records[at].reason.encode()) for at in fresh] + [
            (_KEY + b"%d" % at, None) for at in past
        ]

    def committed(self, replay_from: int, next_offset: int) -> None:
        """The commit for which `owed` was asked with these has happened."""
        self.records = {at: refusal for at, refusal in self.records.items() if at >= replay_from}
        self.written = {at for at in self.records if at < next_offset}


def cut(records: Sequence[RecordBatch], count: int) -> tuple[list[RecordBatch], list[RecordBatch]]:
    """The first `count` records, and the rest."""
    head, tail = [], []
    for part in records:
        taken = min(count, len(part))
        count -= taken
        if taken:
            head.append(part if taken == len(part) else part.slice(0, taken))
        if taken < len(part):
            tail.append(part.slice(taken, len(part)) if taken else part)
    return head, tail


def dead_letter_of(headers: Headers, app: str, topic: str) -> tuple[int, int, str] | None:
    """Of a dead letter: the input partition and the offset of its record, and the reason. None for what is none of this
    application's and input topic's, since others may write to the dead-letter topic too.

    The record's own headers, in whatever encoding, stand before those that say so.
    """
    found = {name: content or b"" for name, content in headers}
    if found.get("penstock.topic") != topic.encode() or found.get("penstock.app", app.encode()) != app.encode():
        return None
    try:
        return int(found["penstock.partition"]), int(found["penstock.offset"]), found["penstock.error"].decode()
    except (KeyError, ValueError):
        return None
