"""The loop, in one thread that owns all state: poll, schedule, step, publish, commit; and the ways back after failures."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import structlog

from service.assignment import Assignment
from service.background import Beside, in_thread
from service.codec.interface import Encoder
from service.commits import Commits
from service.errors import EpochAborted, Fenced, OutcomeUnknown, PenstockError, StepFailed, TransportUnavailable
from service.feeder import Feeder
from service.incarnation import Incarnation
from service.intake import Intake
from service.landmarks import Landmarks
from service.observe.metrics import Metrics
from service.portion import Caution, portion
from service.quarantine import Quarantine
from service.refused import cut
from service.restore import RestorePolicy, SharedReader
from service.scheduler import Scheduler
from service.settings import WorkerSettings
from service.standing import Standing
from service.state import SnapshotPolicy, Streams
from service.task import Phase
from service.transport.interface import Partition, RecordBatch, Transport

log = structlog.get_logger("penstock.worker")

_FIRST = 8
"""After an assignment, a poll brings an eighth of what it may bring later."""


class Worker:
    """One group member. `run` returns after a clean stop; it raises `Fenced` and every other error that it cannot mend."""

    def __init__(
        self,
        settings: WorkerSettings,
        transport: Transport,
        scheduler: Scheduler,
        streams: Streams,
        encoder: Encoder,
        policy: SnapshotPolicy,
        recovery: RestorePolicy,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall: Callable[[], float] = time.time,
        beside: Beside = in_thread,
    ) -> None:
        self.streams = streams
        self.metrics = metrics
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._stopping = False
        self._occupied = False  # there were records in the last turn
        self._caution = Caution(settings.max_records)
        self._reader = SharedReader(transport.reader())
        self._feeder = Feeder(scheduler, streams, encoder, metrics, clock, settings.input, settings.output_bytes)
        self._publisher = transport.publisher()
        self._quarantine = Quarantine(self._publisher, settings.topics.snapshots, 2 * settings.max_records, settings.call_timeout)
        source = transport.source(settings.membership)
        self._assignment = Assignment(source, self._reader, streams, recovery, self._quarantine, metrics, clock)
        self._incarnation = Incarnation(transport, settings.topics.snapshots, settings.membership.instance)
        self.standing = Standing(
            self._incarnation, settings.max_failures, settings.call_timeout, settings.outage, metrics, clock, sleep
        )
        self.commits = Commits(
            settings,
            transport,
            self._assignment,
            streams,
            policy,
            recovery.fingerprint,
            self._incarnation.name,
            Landmarks(self._reader, settings.topics.snapshots, streams, clock, recovery.wall),
            self.standing,
            metrics,
            clock,
            wall,
            beside,
        )
        self._intake = Intake(self._feeder, streams, self._assignment, self._quarantine, self.commits, self.standing)

    # the loop

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then finish the epoch, snapshot every dirty stream, commit and leave the group."""
        try:
            self.open()
            while not stop.is_set():
                self.turn()
            self.finish()
        finally:
            self.close()

    def open(self) -> None:
        self._incarnation.sign(self._reader, self._publisher, self._settings.call_timeout)
        self.commits.open()
        self._assignment.source.subscribe([self._settings.input], self)

    def turn(self) -> None:
        """One round of the loop; while nobody knows what became of a transaction, an attempt to find out."""
        try:
            if not self.standing.unknown:
                self._go_on()
            if self.standing.unknown:
                self._start_over()
            elif self.standing.lost:
                self.standing.check_loss(bool(self._assignment.tasks))
        except TransportUnavailable as error:
            self.standing.note_outage(error)

    def _go_on(self) -> None:
        try:
            self._assignment.advance(hurried=self._occupied and self.commits.fresh)
            self._make_way()
            polled = self._assignment.source.poll(self._appetite(), self._patience())
            replayed, live = self._assignment.split(self._intake.take() + polled)
            self._occupied = bool(replayed or live)
            self._intake.wait(live)
            self._replay(replayed)
            self._intake.feed()
            if not self._intake.waiting:
                self._assignment.pass_gaps()
            if self.commits.due(self._intake.full):
                self.commits.begin()
            self._assignment.report_lag()
            self._assignment.count_partitions()
        except EpochAborted as error:
            self.standing.count_failure(error)
            self._intake.roll_back(error)
        except (OutcomeUnknown, Fenced) as error:
            self.standing.note_unknown(error)

    def _make_way(self) -> None:
        """A replay needs slots that no epoch has changed."""
        if self._assignment.replaying and self.streams.room < self.streams.slots / 2:
            self.commits.commit()

    def _replay(self, records: list[RecordBatch]) -> None:
        """These records have passed before, if in smaller parts where there was not the memory for more. So where some fail, all
        that is replayed recovers anew, in smaller parts. Raises `StepFailed` where a single record fails."""
        tasks = {part.partition for part in records}
        if not (tasks or self._assignment.replaying or self._assignment.restoring):
            self._caution = Caution(self._settings.max_records)
        while records:
            part, rest = portion(records, self.streams.room, at_least=1)
            part, more = cut(part, self._caution.size)
            size = sum(map(len, part))
            try:
                self.commits.tombstones += self._feeder.replay(part, self._assignment.refused())
            except StepFailed as error:
                if size == 1:
                    raise
                self._caution.failed(size)
                log.warning("replay_failed", reason=str(error), records=size, next=self._caution.size)
                self._recover(tasks)
                return
            self._caution.passed()
            self._assignment.fed(part)
            records = more + rest

    def _recover(self, tasks: Collection[int]) -> None:
        """These and all others that are replayed begin again with what is committed; what memory has of them is half done."""
        inputs = [task.input for task in self._assignment.tasks.values() if task.number in tasks or task.phase is Phase.REPLAYING]
        self._assignment.source.pause(inputs)
        self.commits.forget(_numbers(inputs))
        self._assignment.drop(inputs)
        self._intake.drop(inputs)
        self._assignment.add(inputs)

    def _appetite(self) -> int:
        """How many records a poll may bring. Few after an assignment, when all streams are cold and a step thaws whomever it meets:
        so the first predictions do not wait for thousands of streams, nor the tasks that are still restoring."""
        most = self._settings.max_records
        if self.commits.fresh or self._assignment.restoring:
            most //= _FIRST
        return max(1, most - self._intake.waiting)

    def _patience(self) -> float:
        """How long a poll may wait, in seconds."""
        if self._assignment.restoring or self._intake.waiting:
            return 0.0
        epoch = self.commits.epoch
        if not epoch.open:
            return self._settings.longest_poll
        return max(0.0, min(self._settings.longest_poll, epoch.begun_at + self._settings.commit_interval - self._clock()))

    def _start_over(self) -> None:
        """A new producer settles what became of the old one's transaction; every task then recovers from the log.

        Raises `Fenced` where a newer process of this instance has started: the transactional id is its own then. Who was fenced
        and is the newest takes id and membership back: an older process must have woken up.
        """
        with contextlib.suppress(PenstockError):
            self.commits.finish()
        fenced = self.standing.confirm()
        self.commits.replace_producer()
        source, inputs = self._assignment.source, [task.input for task in self._assignment.tasks.values()]
        if fenced:
            with contextlib.suppress(PenstockError):
                source.close()
            self._give_up(inputs)
            self._assignment.source = self._transport.source(self._settings.membership)
            self._assignment.source.subscribe([self._settings.input], self)
        else:
            source.pause(inputs)
            self._give_up(inputs)
            self._assignment.add(inputs)
        self.standing.settled()

    # rebalances

    def assigned(self, partitions: Sequence[Partition]) -> None:
        log.info("assigned", tasks=_numbers(partitions))
        self.metrics.rebalanced("assigned")
        self._assignment.add(partitions)
        self.commits.fresh = True

    def revoked(self, partitions: Sequence[Partition]) -> None:
        log.info("revoked", tasks=_numbers(partitions))
        self.metrics.rebalanced("revoked")
        if not self._stopping and not self.standing.unknown:
            with self._to_the_end():
                self.commits.commit(closing=_numbers(partitions))
                self._quarantine.leave(self._assignment.suspicions(_numbers(partitions)))
        self._give_up(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        log.warning("lost", tasks=_numbers(partitions))
        self.metrics.rebalanced("lost")
        self.standing.lost = True
        if not self._stopping and not self.standing.unknown:
            with self._to_the_end():
                self.commits.finish()
                raise EpochAborted("the group has given our partitions to another member")
        self._give_up(partitions)

    @contextlib.contextmanager
    def _to_the_end(self) -> Iterator[None]:
        """A rebalance goes on whatever becomes of the epoch: the partitions are no longer ours."""
        try:
            try:
                yield
            except EpochAborted as error:
                self._intake.roll_back(error)
        except (OutcomeUnknown, Fenced) as error:
            self.standing.note_unknown(error)
        except TransportUnavailable as error:
            self.standing.note_away(error)

    def _give_up(self, partitions: Sequence[Partition]) -> None:
        if self.standing.unknown:
            self.streams.rollback()
        settled = self.commits.forget(_numbers(partitions))
        self._assignment.drop(partitions, () if self._stopping else settled)
        self._intake.drop(partitions)

    # the end

    def finish(self) -> None:
        """A clean stop: whatever was aborted is fed again, every dirty stream is snapshotted, all is committed.

        Where that fails twice, or the broker was not to be reached before, the next owner replays instead.
        """
        for _ in range(0 if self.standing.unknown else 2):
            try:
                self.commits.finish()
                self._intake.wait(self._assignment.split(self._intake.take())[1])
                self._intake.feed_all()
                self.commits.commit(closing=self._assignment.tasks)
                try:
                    self._quarantine.leave(self._assignment.suspicions(self._assignment.tasks))
                except TransportUnavailable as error:  # all is committed; at worst the next owner is more careful
                    log.warning("quarantine_not_left", reason=str(error))
                return
            except EpochAborted as error:
                self._intake.roll_back(error)
            except OutcomeUnknown as error:
                log.warning("outcome_unknown", reason=str(error))
                return

    def close(self) -> None:
        """Leave, committing nothing more."""
        self._stopping = True
        self.commits.end()
        for part in (self._assignment.source, self._reader, self.commits):
            with contextlib.suppress(PenstockError):
                part.close()
        self.streams.close()


def _numbers(partitions: Sequence[Partition]) -> list[int]:
    return [partition.partition for partition in partitions]
