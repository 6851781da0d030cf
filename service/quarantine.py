"""Records that kill the process: nobody is left to catch anything, so each attempt is written down before it is made.

A task whose processes end one after another without a commit is in quarantine: its next records are fed one to a step, and before
each step the record's offset is written, and awaited, in the snapshot topic (partition = task, outside any transaction, which would
die with the process). A record that has ended `ATTEMPTS` of those steps is refused. Only such attempts count, never a crash with
many records in flight.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from service.codec.interface import Reason, Refusal
from service.transport.interface import Publisher

STARTS = 3
"""So many times in a row a task may go live at one offset before it is in quarantine."""

ATTEMPTS = 3
"""So many steps a record may end, alone in each, before it is refused."""

_STARTS_KEY, _ATTEMPT_KEY = b"\x00penstock.starts", b"\x00penstock.attempt"
_COUNTED = struct.Struct("<5sqI")
_MAGIC = b"PSNQ\x01"
_NOWHERE = -1

log = structlog.get_logger("penstock.quarantine")


@dataclass(slots=True)
class Suspicion:
    """What is known of one task: how often it went live at offset `started`, and how often the record at `tried` was about to be
    stepped alone. The first `reach` records are fed one by one; `counted` of them were seen, the last one at offset `seen`."""

    started: int = _NOWHERE
    starts: int = 0
    tried: int = _NOWHERE
    attempts: int = 0
    reach: int = 0
    counted: int = 0
    seen: int = _NOWHERE

    def read(self, key: bytes, value: bytes | None) -> bool:
        """Take in a record of the snapshot topic; False for one that is about something else."""
        if key not in (_STARTS_KEY, _ATTEMPT_KEY) or value is None or len(value) != _COUNTED.size:
            return False
        magic, offset, count = _COUNTED.unpack(value)
        if magic != _MAGIC:
            return False
        if key == _STARTS_KEY:
            self.started, self.starts = offset, count
        else:
            self.tried, self.attempts = offset, count
        return True

    def reaches(self, offsets: Sequence[int]) -> bool:
        """Whether these records, which may have been seen before, begin in quarantine. Offsets without records do not count."""
        fresh = offsets[bisect_right(offsets, self.seen) :][: self.reach - self.counted]
        if fresh:
            self.counted += len(fresh)
            self.seen = fresh[-1]
        return self.reach > 0 and offsets[0] <= self.seen


class Quarantine:
    """Writes `Suspicion`s down. `reach` is how many records beyond the committed offset a process may have had in its hands."""

    def __init__(self, publisher: Publisher, topic: str, reach: int, timeout: float) -> None:
        self._publisher = publisher
        self._topic = topic
        self._reach = reach
        self._timeout = timeout
        self._begun: dict[int, int] = {}
        self._tried: dict[int, tuple[int, int]] = {}

    def begin(self, task: int, suspicion: Suspicion, offset: int) -> None:
        """The task goes live at `offset`, with what the processes before have written; a process that recovers counts once, and
        what it has attempted itself has not ended it. Raises `TransportUnavailable`."""
        tried, before = self._tried.pop(task, (_NOWHERE, 0))
        if (suspicion.tried, suspicion.attempts) == (tried, before + 1):
            suspicion.attempts = before
        if self._begun.get(task) != offset:
            suspicion.starts = suspicion.starts + 1 if suspicion.started == offset else 1
            suspicion.started = offset
            self._write(task, _STARTS_KEY, offset, suspicion.starts)
            self._begun[task] = offset
        if suspicion.starts > STARTS:
            suspicion.reach = self._reach
            log.warning("quarantine", task=task, offset=offset, starts=suspicion.starts, records=self._reach)

    def attempt(self, task: int, suspicion: Suspicion, offset: int) -> Refusal | None:
        """The record at `offset` is about to be stepped alone: written down when this returns. Or it has had its attempts."""
        before = suspicion.attempts if suspicion.tried == offset else 0
        if before >= ATTEMPTS:
            return Refusal(Reason.KILLS, f"the process ended {before} times while it was stepping this record alone")
        self._tried[task] = offset, before
        self._write(task, _ATTEMPT_KEY, offset, before + 1)
        return None

    def outlived(self, task: int, suspicion: Suspicion, offset: int) -> None:
        """The process has outlived its attempts up to the record at `offset`."""
        if suspicion.tried <= offset:
            suspicion.tried, suspicion.attempts = _NOWHERE, 0
        self._write(task, _ATTEMPT_KEY, suspicion.tried, suspicion.attempts)

    def leave(self, tasks: Mapping[int, Suspicion]) -> None:
        """These tasks are left in good order: the next start is the first."""
        for task, suspicion in tasks.items():
            self._begun.pop(task, None)
            suspicion.starts = 0
            self._publish(task, _STARTS_KEY, suspicion.started, 0)
        self._publisher.flush(self._timeout)

    def _write(self, task: int, key: bytes, offset: int, count: int) -> None:
        self._publish(task, key, offset, count)
        self._publisher.flush(self._timeout)

    def _publish(self, task: int, key: bytes, offset: int, count: int) -> None:
        self._publisher.publish(self._topic, _COUNTED.pack(_MAGIC, offset, count), key=key, partition=task)
