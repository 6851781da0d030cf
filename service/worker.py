"""The loop, in one thread that owns all state: poll, schedule, step, publish, commit; and the ways back after failures."""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from service.assignment import Assignment
from service.codec.interface import Encoder, Predictions, Reason, Refusal
from service.emission import predictions
from service.epoch import Epoch, Topics
from service.errors import EpochAborted, OutcomeUnknown, PenstockError, TransportUnavailable
from service.observe.metrics import Metrics
from service.restore import BEGUN, BEGUN_KEY, RestorePolicy, SharedReader
from service.scheduler import Batch, DeadLetter, Scheduler
from service.state import CLEAN, SnapshotPolicy, Streams, replay_from
from service.task import OffsetMetadata
from service.transport.interface import (
    Committed,
    Membership,
    Partition,
    RecordBatch,
    Transport,
)

log = structlog.get_logger("penstock.worker")


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
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._scheduler = scheduler
        self.streams = streams
        self._encoder = encoder
        self._policy = policy
        self._recovery = recovery
        self._metrics = metrics
        self._clock = clock
        self.sleep = sleep
        self._wall = wall
        self._source = transport.source(settings.membership)
        self._reader = SharedReader(transport.reader())
        self._assignment = Assignment(self._source, self._reader, streams, recovery, metrics, clock)
        self._sink = transport.sink(settings.transactional_id, settings.transaction_timeout)
        self._epoch = self._new_epoch()
        self._again: list[RecordBatch] = []  # live records of an aborted epoch, to be fed before new ones
        self._failures = 0  # transactions in a row that were aborted, or whose outcome nobody learnt
        self._tombstones: list[tuple[int, bytes]] = []  # owed for streams that ended in replay
        self._committed_at = clock()
        self._stopping = False
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
        self._sink.open(self._settings.call_timeout)
        self._source.subscribe([self._settings.input], self)

    def turn(self) -> None:
        """One round of the loop."""
        try:
            self._assignment.advance()
            polled = self._source.poll(self._settings.max_records, self._patience())
            records, self._again = self._again + polled, []
            replayed, live = self._assignment.split(records)
            self._replay(replayed)
            self._feed(live)
            if self._due():
                self.commit()
            self._assignment.report_lag()
        except EpochAborted as error:
            self._count_failure(error)
            self._roll_back(error)
        except OutcomeUnknown as error:
            self._note_unknown(error)
        if self._unknown:
            self._start_over()

    def _replay(self, records: Sequence[RecordBatch]) -> None:
        """Feed committed input again; nothing is published."""
        for batch in self._scheduler.batches(self._scheduler.decode(records), live=False):
            self.streams.feed(batch.slots, batch.values, batch.lengths, batch.final)
            self._tombstones += self._scheduler.settle(batch, self._clock())
        for part in records:
            task = self._assignment.tasks[part.partition]
            task.next_offset = part.offsets[-1] + 1
            self._metrics.replayed(len(part))

    def _feed(self, records: list[RecordBatch]) -> None:
        """Feed new input and publish what it completes, in the epoch's transaction."""
        if not records:
            return
        self._epoch.records += records
        self._epoch.begin(self._clock())
        with self._metrics.decoding():
            schedule = self._scheduler.decode(records)
        self._metrics.consumed(self._settings.input, sum(map(len, records)), schedule.samples)
        for letter in schedule.letters:
            self._refuse(letter)
        for batch in self._scheduler.batches(schedule, live=True):
            self._step(batch, records)
        for part in records:
            self._assignment.tasks[part.partition].next_offset = part.offsets[-1] + 1

    def _step(self, batch: Batch, records: list[RecordBatch]) -> None:
        self.streams.protect(batch.slots)
        with self._metrics.stepping(len(batch.slots), len(batch.values)):
            values, lengths = self.streams.feed(batch.slots, batch.values, batch.lengths, batch.final)
        for keys, outputs in predictions(batch, values, lengths, self.streams.table, self._settings.input):
            with self._metrics.encoding(len(keys)):
                encoded = self._encoder.encode(outputs)
            if max(map(len, encoded)) > self._settings.output_bytes:
                keys, encoded = self._refuse_large(keys, encoded, outputs, records)
            self._epoch.publish(keys, encoded)
        for row in batch.illegal.tolist():
            self._drop_stream(batch, row, records)
        for task, key in self._scheduler.settle(batch, self._clock()):
            self._epoch.snapshot(task, key, None)

    def _refuse(self, letter: DeadLetter) -> None:
        self._epoch.dead_letter(letter.records, letter.row, letter.refusal)
        self._metrics.refused(letter.refusal.reason)
        log.warning(
            "dead_letter",
            reason=str(letter.refusal.reason),
            message=letter.refusal.message,
            partition=letter.records.partition,
            offset=letter.records.offsets[letter.row],
        )

    def _refuse_large(
        self, keys: list[bytes], encoded: list[bytes], outputs: Predictions, records: list[RecordBatch]
    ) -> tuple[list[bytes], list[bytes]]:
        """Predictions that their topic might refuse are not published; the records that led to them go to the dead letters."""
        limit = self._settings.output_bytes
        for value, offset in zip(encoded, outputs.offsets.tolist(), strict=True):
            if len(value) > limit:
                part, row = _find(records, outputs.partition, offset)
                message = f"its prediction has {len(value)} bytes, more than limits.output_bytes: {limit}"
                self._refuse(DeadLetter(part, row, Refusal(Reason.OUTPUT_TOO_LARGE, message)))
        kept = [row for row, value in enumerate(encoded) if len(value) <= limit]
        return [keys[row] for row in kept], [encoded[row] for row in kept]

    def _drop_stream(self, batch: Batch, row: int, records: list[RecordBatch]) -> None:
        """A stream ended at a length at which the network raises. The record that ended it goes to the dead letters, unless it
        ended it only by beginning the next one."""
        offset, frames = int(batch.rows.offsets[row]), int(batch.first[row])
        part, at = _find(records, int(batch.rows.tasks[row]), offset)
        if part.values[at] is None:
            message = f"the stream ends after {frames} samples, a length at which the network raises; the stream is dropped"
            self._refuse(DeadLetter(part, at, Refusal(Reason.LENGTH, message)))
        else:
            log.warning("stream_dropped", frames=frames, partition=part.partition, offset=offset)

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
            return now - self._epoch.begun_at >= self._settings.commit_interval
        if any(task.live and not task.metadata for task in self._assignment.tasks.values()):
            return True
        idle = now - self._committed_at >= self._settings.commit_interval
        return idle and self._policy.overdue(self.streams.table, self._assignment.live(), now)

    def commit(self, closing: Collection[int] = ()) -> None:
        """Snapshots, offsets, commit. Of tasks in `closing` every dirty stream is snapshotted, so that nothing needs replay."""
        now, table, live = self._clock(), self.streams.table, self._assignment.live()
        chosen = self._policy.choose(table, live, now, now - self._committed_at)
        if closing:
            dirty = table.dirty()
            leaving = np.isin(table.column("task")[dirty], [task for task in closing if task in live])
            chosen = np.union1d(chosen, dirty[leaving])
        if not self._epoch.open and not len(chosen) and all(self._assignment.tasks[task].metadata for task in live):
            return
        self._epoch.begin(now)
        for task, key in self._tombstones:
            self._epoch.snapshot(task, key, None)
        for task in live:
            if not self._assignment.tasks[task].metadata:
                self._epoch.snapshot(task, BEGUN_KEY, BEGUN)
        for slot, snapshot in zip(chosen.tolist(), self.streams.freeze(chosen) if len(chosen) else [], strict=True):
            self._epoch.snapshot(int(table.column("task")[slot]), table.keys[slot], snapshot.to_bytes())
        offsets = {}
        for number, offset in live.items():
            start = replay_from(table, number, offset, chosen)
            metadata = OffsetMetadata(start, self._settings.partitions, self._recovery.fingerprint)
            offsets[self._assignment.tasks[number].input] = Committed(offset, metadata.to_text())
        with self._metrics.committing():
            self._epoch.commit(offsets, self._source.group(), self._settings.transaction_timeout)
        self._settle(offsets, chosen)

    def _settle(self, offsets: dict[Partition, Committed], snapshotted: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        table = self.streams.table
        table.rows["dirty_since"][snapshotted] = CLEAN
        table.rows["snapshotted"][snapshotted] = True
        self.streams.settle()
        for partition, (offset, metadata) in offsets.items():
            task = self._assignment.tasks[partition.partition]
            task.committed, task.metadata = offset, metadata
        self._metrics.committed(self._epoch.snapshots, self._epoch.snapshot_bytes, table.used)
        if self._epoch.records:
            self._metrics.waited(self._wall() - min(part.timestamps[0] for part in self._epoch.records) / 1000)
        self._epoch = self._new_epoch()
        self._failures = 0
        self._tombstones = []
        self._committed_at = self._clock()

    # the ways back

    def _roll_back(self, error: EpochAborted) -> None:
        """Abort the transaction, put every stream back to where the epoch began, and feed the epoch's records again."""
        log.warning("epoch_aborted", reason=str(error))
        self._metrics.aborted()
        epoch, self._epoch = self._epoch, self._new_epoch()
        try:
            epoch.abort(self._settings.call_timeout)
        except OutcomeUnknown as unknown:
            self._note_unknown(unknown)
        self.streams.rollback()
        self._again = epoch.records + self._again
        for task in self._assignment.tasks.values():
            if task.live:
                task.next_offset = task.committed
        self._committed_at = self._clock()

    def _count_failure(self, error: PenstockError) -> None:
        """Wait a little longer after each failure in a row; after too many, give up."""
        self._failures += 1
        if self._failures > self._settings.max_failures:
            raise TransportUnavailable(f"{self._failures} transactions in a row came to nothing; the last one because: {error}")
        if self._failures > 1:
            self.sleep(min(0.05 * 2 ** (self._failures - 2), 1.0))

    def _note_unknown(self, error: OutcomeUnknown) -> None:
        self._unknown = True
        self._metrics.outcome_unknown()
        log.warning("outcome_unknown", reason=str(error))
        self._count_failure(error)

    def _new_epoch(self) -> Epoch:
        return Epoch(self._sink, self._settings.topics, self._settings.output_bytes)

    def _start_over(self) -> None:
        """A new producer settles what became of the old one's transaction; every task then recovers from the log."""
        with contextlib.suppress(PenstockError):
            self._sink.close()
        self._sink = self._transport.sink(self._settings.transactional_id, self._settings.transaction_timeout)
        self._sink.open(self._settings.call_timeout)
        self._epoch = self._new_epoch()
        inputs = [task.input for task in self._assignment.tasks.values()]
        self._source.pause(inputs)
        self._give_up(inputs)
        self._assignment.add(inputs)
        self._unknown = False

    # tasks and rebalances

    def assigned(self, partitions: Sequence[Partition]) -> None:
        log.info("assigned", tasks=_numbers(partitions))
        self._metrics.rebalanced("assigned")
        self._assignment.add(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        log.info("revoked", tasks=_numbers(partitions))
        self._metrics.rebalanced("revoked")
        if not self._stopping and not self._unknown:
            try:
                self.commit(closing=_numbers(partitions))
            except EpochAborted as error:
                self._roll_back(error)
            except OutcomeUnknown as error:
                self._note_unknown(error)
        self._give_up(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        log.warning("lost", tasks=_numbers(partitions))
        self._metrics.rebalanced("lost")
        if not self._stopping and not self._unknown:
            self._roll_back(EpochAborted("the group has given our partitions to another member"))
        self._give_up(partitions)

    def _give_up(self, partitions: Sequence[Partition]) -> None:
        if self._unknown:
            self.streams.rollback()
        self._assignment.drop(partitions)
        self._again = [part for part in self._again if Partition(part.topic, part.partition) not in partitions]

    # the end

    def finish(self) -> None:
        """A clean stop: whatever was aborted is fed again, every dirty stream is snapshotted, all is committed.

        Where that fails twice, the next owner replays instead.
        """
        for _ in range(2):
            try:
                records, self._again = self._again, []
                self._feed(self._assignment.split(records)[1])
                self.commit(closing=self._assignment.tasks)
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
            self._epoch.abort(self._settings.call_timeout)
        for part in (self._source, self._reader, self._sink):
            with contextlib.suppress(PenstockError):
                part.close()


def _find(records: list[RecordBatch], partition: int, offset: int) -> tuple[RecordBatch, int]:
    """The batch and the row of a record of this step."""
    part = next(part for part in records if part.partition == partition and part.offsets[0] <= offset <= part.offsets[-1])
    return part, bisect_left(part.offsets, offset)


def _numbers(partitions: Sequence[Partition]) -> list[int]:
    return [partition.partition for partition in partitions]
