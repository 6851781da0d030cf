"""Live records on their way into epochs: as many as there are slots for; one by one in quarantine; in ever smaller parts after a
step that failed."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from service.assignment import Assignment
from service.codec.interface import Reason, Refusal
from service.commits import Commits
from service.errors import EpochAborted, StepFailed
from service.feeder import Feeder
from service.portion import portion
from service.quarantine import Quarantine
from service.refused import cut
from service.scheduler import Schedule
from service.standing import Standing
from service.state import Streams
from service.task import Task
from service.transport.interface import Partition, RecordBatch

log = structlog.get_logger("penstock.intake")

_FEW = 128
"""Slots for which records are fed before the first commit after an assignment: its streams are all cold, and somebody waits for the
first prediction."""


class Intake:
    """Owns the records that wait: those of an aborted epoch, and those beyond what there were slots for. They come first."""

    def __init__(
        self,
        feeder: Feeder,
        streams: Streams,
        assignment: Assignment,
        quarantine: Quarantine,
        commits: Commits,
        standing: Standing,
    ) -> None:
        self.full = False  # some wait for slots
        self._waiting: list[RecordBatch] = []
        self._feeder = feeder
        self._streams = streams
        self._assignment = assignment
        self._quarantine = quarantine
        self._commits = commits
        self._standing = standing

    @property
    def waiting(self) -> int:
        """How many records wait."""
        return sum(map(len, self._waiting))

    def take(self) -> list[RecordBatch]:
        """All that wait; the caller sees to them now."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def wait(self, records: list[RecordBatch]) -> None:
        """These wait, behind those that do already."""
        self._waiting += records

    def drop(self, partitions: Sequence[Partition]) -> None:
        """These partitions are no longer ours."""
        self._waiting = [part for part in self._waiting if Partition(part.topic, part.partition) not in partitions]

    def feed(self) -> None:
        """As many of those that wait as there are slots for before a commit, few after an assignment. They are decoded while the
        commit before, if there is one, is still under way; then that is finished. Raises what it has raised, and `StepFailed` where
        no record is at fault."""
        room = self._streams.slots if self._commits.settling else self._streams.room
        records, rest = portion(self._waiting, min(room, _FEW) if self._commits.fresh else room)
        schedule = self._decode(records)
        self._commits.finish()
        self._waiting = rest
        self._feed(records, schedule)

    def feed_all(self) -> None:
        """All that wait, with as many commits as that takes; fewer once nobody knows what became of one."""
        records = self.take()
        self._feed(records, self._decode(records))
        while self._waiting and not self._standing.unknown:
            self._commits.commit()
            records = self.take()
            self._feed(records, self._decode(records))

    def roll_back(self, error: EpochAborted) -> None:
        """The epoch at hand is void; its records wait again, before all others."""
        self._waiting = self._commits.roll_back(error) + self._waiting

    def _decode(self, records: list[RecordBatch]) -> Schedule:
        """But not what is in quarantine, since decoding may be what ends the process."""
        return self._feeder.decode(self._assignment.in_quarantine(records)[1], self._assignment.refused())

    def _feed(self, records: list[RecordBatch], schedule: Schedule) -> None:
        suspect, others = self._assignment.in_quarantine(records)
        if suspect:
            self._waiting = suspect + others + self._waiting
            self._feed_one_by_one(sum(map(len, suspect)))
            if self._standing.unknown:
                return
            records, self._waiting = others, self._waiting[len(others) :]
        records, schedule, rest = self._feeder.fitting(records, schedule, self._assignment.refused())
        self._waiting = rest + self._waiting
        self.full = bool(self._waiting)
        if records:
            try:
                self._step(records, schedule)
            except StepFailed as error:
                self._isolate(error)

    def _feed_one_by_one(self, count: int) -> None:
        """The first `count` of those that wait, of tasks in quarantine: whichever ends the process now is known to the next one.

        Only in its own step has a record made its attempt: not while another task's is stepped, nor in a commit.
        """
        tried: tuple[Task, int] | None = None
        while count and not self._standing.unknown:
            if self._streams.room < 2:  # a record takes two slots at most: of the stream that it ends, of the one that it begins
                self._outlived(tried)
                tried = None
                self._commits.commit()
            [part], rest = cut(self._waiting, 1)
            task, [offset] = self._assignment.tasks[part.partition], part.offsets
            if tried and tried[0] is not task:
                self._outlived(tried)
            refusal = self._quarantine.attempt(task.number, task.suspicion, offset)
            tried = task, offset
            if refusal:
                task.refused.records[offset] = refusal
            self._waiting = []
            try:
                self._step([part], self._feeder.decode([part], self._assignment.refused()))
            except StepFailed as error:
                self._isolate(error)
            finally:
                self._waiting += rest
            if refusal:  # at once: its attempts are forgotten with the next record's
                self._commits.commit()
            elif self._commits.due(self.full):
                self._outlived(tried)
                tried = None
                self._commits.commit()
            count -= 1
        self._outlived(tried)

    def _outlived(self, tried: tuple[Task, int] | None) -> None:
        if tried:
            task, offset = tried
            self._quarantine.outlived(task.number, task.suspicion, offset)

    def _isolate(self, failed: StepFailed | None) -> None:
        """Roll back and feed the epoch's records again, in parts that shrink at each failure and grow at each success,
        every one in a transaction of its own. A record that fails alone is at fault, and refused.

        Raises `StepFailed` where the program fails whatever it is fed; no commit may be under way.
        """
        waiting = self.take()
        try:
            while failed:
                suspects = self._commits.epoch.records
                size = sum(map(len, suspects))
                log.warning(
                    "step_failed", reason=str(failed), records=size, partition=suspects[0].partition, offset=suspects[0].offsets[0]
                )
                if size == 1:
                    self._feeder.try_out()
                    task = self._assignment.tasks[suspects[0].partition]
                    task.refused.records[suspects[0].offsets[0]] = Refusal(Reason.STEP_FAILED, str(failed))
                self.roll_back(EpochAborted(str(failed)))
                failed, size = None, max(1, size // 2)
                while self._waiting and not failed and not self._standing.unknown:
                    records, rest = cut(self._waiting, size)
                    refused = self._assignment.refused()
                    records, schedule, beyond = self._feeder.fitting(records, self._feeder.decode(records, refused), refused)
                    self._waiting = beyond + rest
                    try:
                        self._step(records, schedule)
                        self._commits.commit()
                        size *= 2
                    except StepFailed as error:
                        failed = error
        finally:
            self._waiting += waiting

    def _step(self, records: list[RecordBatch], schedule: Schedule) -> None:
        self._feeder.feed(records, schedule, self._commits.join(records))
        self._assignment.fed(records)
