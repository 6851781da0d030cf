"""The loop, in one thread that owns all state: poll, schedule, step, publish, commit; and the ways back after failures."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from service.assignment import Assignment
from service.background import Beside, Wait, in_thread
from service.codec.interface import Encoder, Reason, Refusal
from service.epoch import Epoch, Topics
from service.errors import EpochAborted, Fenced, OutcomeUnknown, PenstockError, StepFailed, TransportUnavailable
from service.feeder import Feeder
from service.incarnation import Incarnation
from service.landmarks import Landmarks
from service.observe.metrics import Metrics
from service.portion import portion
from service.quarantine import Quarantine
from service.refused import cut
from service.restore import BEGUN, BEGUN_KEY, RestorePolicy, SharedReader
from service.scheduler import Schedule, Scheduler
from service.state import Chosen, SnapshotPolicy, Streams
from service.task import OffsetMetadata
from service.transport.interface import (
    Committed,
    Membership,
    Partition,
    RecordBatch,
    Transport,
)

log = structlog.get_logger("penstock.worker")

_FIRST = 8
"""After an assignment, a poll brings an eighth of what it may bring later."""

_ASK_EVERY = 5.0  # seconds, after a loss, whether a newer process has our name
_ASK_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What the loop needs to know; times in seconds."""

    input: str
    topics: Topics
    membership: Membership
    transactional_id: str
    partitions: int
    commit_interval: float = 0.05
    transaction_timeout: float = 15.0
    max_records: int = 4096
    max_failures: int = 20
    call_timeout: float = 30.0
    longest_poll: float = 0.1
    output_bytes: int = 900_000


@dataclass(frozen=True, slots=True)
class _Commit:
    """A commit under way: how to wait for it, and what is true once it has happened."""

    wait: Wait
    offsets: dict[Partition, Committed]
    replay_from: dict[int, int]
    snapshotted: Chosen
    tombstones: list[tuple[int, bytes]]
    begun_at: float


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
        self._settings = settings
        self._transport = transport
        self.streams = streams
        self._policy = policy
        self._recovery = recovery
        self.metrics = metrics
        self._clock = clock
        self.sleep = sleep
        self._wall = wall
        self._feeder = Feeder(scheduler, streams, encoder, metrics, clock, settings.input, settings.output_bytes)
        self._source = transport.source(settings.membership)
        self._reader = SharedReader(transport.reader())
        self._quarantine = Quarantine(
            transport.publisher, settings.topics.snapshots, 2 * settings.max_records, settings.call_timeout
        )
        self._assignment = Assignment(self._source, self._reader, streams, recovery, self._quarantine, metrics, clock)
        self._landmarks = Landmarks(self._reader, settings.topics.snapshots, streams, clock, recovery.wall)
        self._sink = transport.sink(settings.transactional_id, settings.transaction_timeout)
        self._epoch = self._new_epoch()
        self._beside = beside
        self._commit: _Commit | None = None
        self._commits = 0  # begun so far
        self._again: list[
            RecordBatch
        ] = []  # live records to be fed before new ones: of an aborted epoch, or beyond what there were slots for
        self._fresh = True  # no epoch has been committed since the last assignment
        self._full = False  # some of them wait for slots
        self._failures = 0  # transactions in a row that were aborted, or whose outcome nobody learnt
        self._tombstones: list[tuple[int, bytes]] = []  # owed for streams that ended in replay
        self._committed_at = clock()
        self._stopping = False
        self._incarnation = Incarnation(transport, settings.topics.snapshots, settings.membership.instance)
        self._fenced: Fenced | None = None
        self._lost = False  # and whether another process has our name is not known since
        self._ask_at = clock()
        self._unknown = False

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
        self._incarnation.sign(self._reader, self._settings.call_timeout)
        self._sink.open(self._settings.call_timeout)
        self._source.subscribe([self._settings.input], self)

    def turn(self) -> None:
        """One round of the loop."""
        try:
            self._assignment.advance()
            if self._assignment.replaying and self.streams.room < self.streams.slots / 2:
                self.commit()  # a replay needs slots that no epoch has changed
            polled = self._source.poll(self._appetite(), self._patience())
            records, self._again = self._again + polled, []
            replayed, live = self._assignment.split(records)
            self._replay(replayed)
            self._again = live
            settled = self._commit is not None or not self._epoch.open
            part, rest = portion(live, self.streams.slots if settled else self.streams.room)
            schedule = self._decode(part)  # while the commit before, if there is one, is still under way
            self._finish_commit()
            self._again = rest
            self._feed(part, schedule)
            if self._due():
                self._begin_commit()
            self._assignment.report_lag()
        except EpochAborted as error:
            self._count_failure(error)
            self._roll_back(error)
        except (OutcomeUnknown, Fenced) as error:
            self._note_unknown(error)
        if self._unknown:
            self._start_over()
        elif self._lost:
            self._check_loss()

    def _replay(self, records: list[RecordBatch]) -> None:
        while records:
            part, records = portion(records, self.streams.room, at_least=1)
            self._tombstones += self._feeder.replay(part, self._assignment.refused())
            self._assignment.fed(part)

    def _decode(self, records: list[RecordBatch]) -> Schedule:
        """But not what is in quarantine, since decoding may be what ends the process."""
        return self._feeder.decode(self._assignment.in_quarantine(records)[1], self._assignment.refused())

    def _feed(self, records: list[RecordBatch], schedule: Schedule) -> None:
        """As many as there are slots for before a commit; the rest waits."""
        suspect, others = self._assignment.in_quarantine(records)
        if suspect:
            self._again = suspect + others + self._again
            self._feed_one_by_one(sum(map(len, suspect)))
            if self._unknown:
                return
            records, self._again = others, self._again[len(others) :]
        records, schedule, rest = self._feeder.fitting(records, schedule, self._assignment.refused())
        self._again = rest + self._again
        self._full = bool(self._again)
        if records:
            try:
                self._step(records, schedule)
            except StepFailed as error:
                self._isolate(error)

    def _feed_one_by_one(self, count: int) -> None:
        """The first `count` of those that wait, of tasks in quarantine: whichever ends the process now is known to the next one."""
        fed = dict[int, int]()
        while count and not self._unknown:
            if self.streams.room < 2:  # a record takes two slots at most: of the stream that it ends, of the one that it begins
                self.commit()
            [part], rest = cut(self._again, 1)
            task, [offset] = self._assignment.tasks[part.partition], part.offsets
            refusal = self._quarantine.attempt(task.number, task.suspicion, offset)
            if refusal:
                task.refused.records[offset] = refusal
            self._again = []
            try:
                self._step([part], self._feeder.decode([part], self._assignment.refused()))
            except StepFailed as error:
                self._isolate(error)
            finally:
                self._again += rest
            if refusal or self._due():  # at once: its attempts are forgotten with the next record's
                self.commit()
            fed[task.number] = offset
            count -= 1
        for number, offset in fed.items():
            self._quarantine.outlived(number, self._assignment.tasks[number].suspicion, offset)

    def _step(self, records: list[RecordBatch], schedule: Schedule) -> None:
        self._epoch.records += records
        self._epoch.begin(self._clock())
        self._feeder.feed(records, schedule, self._epoch)
        self._assignment.fed(records)

    def _appetite(self) -> int:
        """How many records a poll may bring. Few after an assignment, when all streams are cold and a step thaws whomever it meets:
        so the first predictions do not wait for thousands of streams, nor the tasks that are still restoring."""
        most = self._settings.max_records
        if self._fresh or self._assignment.restoring:
            most //= _FIRST
        return max(1, most - sum(map(len, self._again)))

    def _patience(self) -> float:
        """How long a poll may wait, in seconds."""
        if self._assignment.restoring or self._again:
            return 0.0
        if not self._epoch.open:
            return self._settings.longest_poll
        return max(0.0, min(self._settings.longest_poll, self._epoch.begun_at + self._settings.commit_interval - self._clock()))

    # commits

    def _due(self) -> bool:
        now = self._clock()
        if self._epoch.open:
            return self._full or now - self._epoch.begun_at >= self._settings.commit_interval
        if any(task.live and not task.metadata for task in self._assignment.tasks.values()):
            return True
        idle = now - self._committed_at >= self._settings.commit_interval
        return self.streams.cold.crowded or (
            idle and self.streams.overdue(self._policy, self._assignment.live(), now, now - self._committed_at)
        )

    def commit(self, closing: Collection[int] = ()) -> None:
        """Commit now. Of tasks in `closing` every dirty stream is snapshotted, so that nothing needs replay."""
        self._begin_commit(closing)
        self._finish_commit()

    def _begin_commit(self, closing: Collection[int] = ()) -> None:
        """Snapshots and offsets; the commit itself goes on beside the loop. Until it is finished, nothing live is fed."""
        self._finish_commit()
        now, live = self._clock(), self._assignment.live()
        chosen = self.streams.choose(self._policy, live, now, now - self._committed_at, closing)
        tombstones = [(task, key) for task, key in self._tombstones if task in live]
        announced = all(self._assignment.tasks[task].metadata for task in live)
        if announced and not (self._epoch.open or len(chosen) or tombstones):
            return
        self._epoch.begin(now)
        for task, key in tombstones:
            self._epoch.snapshot(task, key, None)
        for task in live:
            if not self._assignment.tasks[task].metadata:
                self._epoch.snapshot(task, BEGUN_KEY, BEGUN)
        snapshots = self.streams.snapshots(chosen)
        for task, key, data in snapshots:
            self._epoch.snapshot(task, key, data)
        self._policy.wrote(len(snapshots), sum(len(data) for _, _, data in snapshots))
        offsets, starts = {}, {}
        self._commits += 1
        for number, offset in live.items():
            start = starts[number] = self.streams.replay_from(number, offset, chosen)
            for key, value in self._assignment.tasks[number].refused.owed(start, offset):
                self._epoch.snapshot(number, key, value)
            metadata = OffsetMetadata(
                start, self._settings.partitions, self._recovery.fingerprint, self._incarnation.name, self._commits
            )
            offsets[self._assignment.tasks[number].input] = Committed(offset, metadata.to_text())
        self._epoch.send(offsets, self._source.group())
        epoch, timeout = self._epoch, self._settings.transaction_timeout
        self._commit = _Commit(self._beside(lambda: epoch.commit(timeout)), offsets, starts, chosen, tombstones, now)

    def _finish_commit(self) -> None:
        """Wait for the commit under way, if there is one, and write down that it has happened. Raises what it has raised."""
        commit, self._commit = self._commit, None
        if commit is None:
            return
        commit.wait()
        self.metrics.commit_took(self._clock() - commit.begun_at)
        self.streams.committed(commit.snapshotted, self._epoch.written)
        for partition, (offset, metadata) in commit.offsets.items():
            task = self._assignment.tasks[partition.partition]
            task.committed, task.metadata = offset, metadata
            task.refused.committed(commit.replay_from[task.number], offset)
        self._landmarks.committed({partition.partition: offset for partition, (offset, _) in commit.offsets.items()})
        self.metrics.cached(self.streams.count_evictions(), self.streams.cold.size, self._policy.deferred)
        self.metrics.committed(len(self._epoch.written), self._epoch.snapshot_bytes, self.streams.table.used)
        if self._epoch.records:
            self._fresh = False
            self.metrics.waited(self._wall() - min(part.timestamps[0] for part in self._epoch.records) / 1000)
        self._epoch = self._new_epoch()
        self._failures = 0
        self._tombstones = [owed for owed in self._tombstones if owed not in commit.tombstones]
        self._committed_at = self._clock()

    # the ways back

    def _roll_back(self, error: EpochAborted) -> None:
        """Abort the transaction, put every stream back to where the epoch began, and feed the epoch's records again.

        No commit may be under way: whoever calls this has waited for it, and seen it fail.
        """
        log.warning("epoch_aborted", reason=str(error))
        self.metrics.aborted()
        epoch, self._epoch = self._epoch, self._new_epoch()
        try:
            epoch.abort(self._settings.call_timeout)
        except (OutcomeUnknown, Fenced) as unknown:
            self._note_unknown(unknown)
        self.streams.rollback()
        self._again = epoch.records + self._again
        for task in self._assignment.tasks.values():
            if task.live:
                task.next_offset = task.committed
        self._committed_at = self._clock()

    def _isolate(self, failed: StepFailed | None) -> None:
        """Roll back and feed the epoch's records again, in parts that shrink at each failure and grow at each success,
        every one in a transaction of its own. A record that fails alone is at fault, and refused.

        Raises `StepFailed` where the program fails whatever it is fed; no commit may be under way.
        """
        waiting, self._again = self._again, []
        try:
            while failed:
                suspects = self._epoch.records
                size = sum(map(len, suspects))
                log.warning(
                    "step_failed", reason=str(failed), records=size, partition=suspects[0].partition, offset=suspects[0].offsets[0]
                )
                if size == 1:
                    self._feeder.try_out()
                    task = self._assignment.tasks[suspects[0].partition]
                    task.refused.records[suspects[0].offsets[0]] = Refusal(Reason.STEP_FAILED, str(failed))
                self._roll_back(EpochAborted(str(failed)))
                failed, size = None, max(1, size // 2)
                while self._again and not failed and not self._unknown:
                    records, rest = cut(self._again, size)
                    refused = self._assignment.refused()
                    records, schedule, beyond = self._feeder.fitting(records, self._feeder.decode(records, refused), refused)
                    self._again = beyond + rest
                    try:
                        self._step(records, schedule)
                        self.commit()
                        size *= 2
                    except StepFailed as error:
                        failed = error
        finally:
            self._again += waiting

    def _count_failure(self, error: PenstockError) -> None:
        """Wait a little longer after each failure in a row; after too many, give up."""
        self._failures += 1
        if self._failures > self._settings.max_failures:
            raise TransportUnavailable(f"{self._failures} transactions in a row came to nothing; the last one because: {error}")
        if self._failures > 1:
            self.sleep(min(0.05 * 2 ** (self._failures - 2), 1.0))

    def _note_unknown(self, error: OutcomeUnknown | Fenced) -> None:
        self._unknown = True
        if isinstance(error, Fenced):
            self._fenced = error
        self.metrics.outcome_unknown()
        log.warning("outcome_unknown", reason=str(error))
        self._count_failure(error)

    def _new_epoch(self) -> Epoch:
        return Epoch(self._sink, self._settings.topics, self._settings.output_bytes)

    def _start_over(self) -> None:
        """A new producer settles what became of the old one's transaction; every task then recovers from the log.

        Raises `Fenced` where a newer process of this instance has started: the transactional id is its own then. Who was fenced
        and is the newest takes id and membership back: an older process must have woken up.
        """
        fenced, self._fenced = self._fenced, None
        self._check_name(fenced or Fenced("our transaction ended without us, and a newer process of this instance has started"))
        with contextlib.suppress(PenstockError):
            self._sink.close()
        self._sink = self._transport.sink(self._settings.transactional_id, self._settings.transaction_timeout)
        self._sink.open(self._settings.call_timeout)
        self._epoch = self._new_epoch()
        inputs = [task.input for task in self._assignment.tasks.values()]
        if fenced is None:
            self._source.pause(inputs)
            self._give_up(inputs)
            self._assignment.add(inputs)
        else:
            with contextlib.suppress(PenstockError):
                self._source.close()
            self._give_up(inputs)
            self._source = self._transport.source(self._settings.membership)
            self._assignment.source = self._source
            self._source.subscribe([self._settings.input], self)
        self._unknown = False

    def _check_name(self, error: Fenced) -> None:
        """Raises `error` where a newer process has this instance's name."""
        if self._incarnation.superseded(self._settings.call_timeout):
            raise error
        self._lost = False

    def _check_loss(self) -> None:
        """Once there are tasks again, and every few seconds until then: under KIP-848, where a newer process of our name holds our
        place in the group, there never are."""
        error = Fenced("the group gave this instance's place away, and a newer process of the same instance has started")
        if self._assignment.tasks:
            self._check_name(error)
        elif self._clock() >= self._ask_at:
            self._ask_at = self._clock() + _ASK_EVERY
            with contextlib.suppress(TransportUnavailable):
                if self._incarnation.superseded(_ASK_TIMEOUT):
                    raise error

    # tasks and rebalances

    def assigned(self, partitions: Sequence[Partition]) -> None:
        log.info("assigned", tasks=_numbers(partitions))
        self.metrics.rebalanced("assigned")
        self._assignment.add(partitions)
        self._fresh = True

    def revoked(self, partitions: Sequence[Partition]) -> None:
        log.info("revoked", tasks=_numbers(partitions))
        self.metrics.rebalanced("revoked")
        if not self._stopping and not self._unknown:
            try:
                self.commit(closing=_numbers(partitions))
                self._quarantine.leave(self._assignment.suspicions(_numbers(partitions)))
            except EpochAborted as error:
                self._roll_back(error)
            except (OutcomeUnknown, Fenced) as error:
                self._note_unknown(error)
        self._give_up(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        log.warning("lost", tasks=_numbers(partitions))
        self.metrics.rebalanced("lost")
        self._lost = True
        if not self._stopping and not self._unknown:
            try:
                self._finish_commit()
                self._roll_back(EpochAborted("the group has given our partitions to another member"))
            except EpochAborted as error:
                self._roll_back(error)
            except (OutcomeUnknown, Fenced) as error:
                self._note_unknown(error)
        self._give_up(partitions)

    def _give_up(self, partitions: Sequence[Partition]) -> None:
        if self._unknown:
            self.streams.rollback()
        numbers = _numbers(partitions)
        self._landmarks.forget(numbers)
        owed = {task for task, _ in self._tombstones}
        self._tombstones = [(task, key) for task, key in self._tombstones if task not in numbers]
        clean = set[int]() if self._stopping else set(numbers) - owed
        self._assignment.drop(partitions, clean)
        self._again = [part for part in self._again if Partition(part.topic, part.partition) not in partitions]

    # the end

    def finish(self) -> None:
        """A clean stop: whatever was aborted is fed again, every dirty stream is snapshotted, all is committed.

        Where that fails twice, the next owner replays instead.
        """
        for _ in range(2):
            try:
                self._finish_commit()
                records, self._again = self._assignment.split(self._again)[1], []
                self._feed(records, self._decode(records))
                while self._again:
                    self.commit()
                    records, self._again = self._again, []
                    self._feed(records, self._decode(records))
                self.commit(closing=self._assignment.tasks)
                self._quarantine.leave(self._assignment.suspicions(self._assignment.tasks))
                return
            except EpochAborted as error:
                self._roll_back(error)
            except OutcomeUnknown as error:
                log.warning("outcome_unknown", reason=str(error))
                return

    def close(self) -> None:
        """Leave, committing nothing more."""
        self._stopping = True
        with contextlib.suppress(PenstockError):
            self._finish_commit()
        with contextlib.suppress(PenstockError):
            self._epoch.abort(self._settings.call_timeout)
        for part in (self._source, self._reader, self._sink):
            with contextlib.suppress(PenstockError):
                part.close()
        self.streams.close()


def _numbers(partitions: Sequence[Partition]) -> list[int]:
    return [partition.partition for partition in partitions]
