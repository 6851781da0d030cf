"""How an epoch ends: snapshots, offsets and commit, or the way back to where it began."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from service.assignment import Assignment
from service.background import Beside, Wait
from service.begun import BEGUN_KEY, Begun
from service.epoch import Epoch
from service.errors import EpochAborted, Fenced, OutcomeUnknown, PenstockError
from service.landmarks import Landmarks
from service.observe.metrics import Metrics
from service.settings import WorkerSettings
from service.standing import Standing
from service.state import Chosen, SnapshotPolicy, Streams
from service.task import OffsetMetadata
from service.transport.interface import Committed, Partition, RecordBatch, Sink, Transport

log = structlog.get_logger("penstock.commits")


@dataclass(frozen=True, slots=True)
class _Commit:
    """A commit under way: how to wait for it, and what is true once it has happened."""

    wait: Wait
    offsets: dict[Partition, Committed]
    replay_from: dict[int, int]
    snapshotted: Chosen
    tombstones: list[tuple[int, bytes]]
    begun_at: float


class Commits:
    """Owns the producer, the epoch at hand and the commit under way. `writer` and `fingerprint` stand beside each offset."""

    def __init__(
        self,
        settings: WorkerSettings,
        transport: Transport,
        assignment: Assignment,
        streams: Streams,
        policy: SnapshotPolicy,
        fingerprint: str,
        writer: str,
        landmarks: Landmarks,
        standing: Standing,
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
        beside: Beside,
    ) -> None:
        self.fresh = True  # no epoch with records has been committed since the last assignment
        self.tombstones: list[tuple[int, bytes]] = []  # owed for streams that ended in replay: task, key
        self._settings = settings
        self._transport = transport
        self._assignment = assignment
        self._streams = streams
        self._policy = policy
        self._fingerprint = fingerprint
        self._writer = writer
        self.landmarks = landmarks
        self._standing = standing
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._beside = beside
        self._under_way: _Commit | None = None
        self._count = 0  # begun so far
        self._committed_at = clock()
        self._sink = self._new_sink()
        self.epoch = self._new_epoch()

    def open(self) -> None:
        """Take the transactional id. Raises what `Sink.open` raises."""
        self._sink.open(self._settings.call_timeout)

    def replace_producer(self) -> None:
        """A new producer settles what became of the old one's transaction; the epoch at hand is void."""
        with contextlib.suppress(PenstockError):
            self._sink.close()
        self._sink = self._new_sink()
        self._sink.open(self._settings.call_timeout)
        self.epoch = self._new_epoch()

    @property
    def settling(self) -> bool:
        """Once what is under way is finished, no epoch has changed any slot."""
        return self._under_way is not None or not self.epoch.open

    def join(self, records: list[RecordBatch]) -> Epoch:
        """The epoch at hand, which these records are about to be fed into; it begins with them, if it has not begun."""
        self.epoch.records += records
        self.epoch.begin(self._clock())
        return self.epoch

    def due(self, full: bool = False) -> bool:
        """Whether to commit now; `full`: records wait for slots."""
        now = self._clock()
        if self.epoch.open:
            return full or now - self.epoch.begun_at >= self._settings.commit_interval
        if any(task.live and (not task.metadata or task.rebuild) for task in self._assignment.tasks.values()):
            return True
        idle = now - self._committed_at
        if idle >= self._policy.every and self._assignment.behind():
            return True
        return self._streams.cold.crowded or (
            idle >= self._settings.commit_interval
            and self._streams.overdue(self._policy, self._assignment.live(), now, now - self._committed_at)
        )

    def commit(self, closing: Collection[int] = ()) -> None:
        """Commit now. Of tasks in `closing` every dirty stream is snapshotted, so that nothing needs replay."""
        self.begin(closing)
        self.finish()

    def begin(self, closing: Collection[int] = ()) -> None:
        """Snapshots and offsets; the commit itself goes on beside the loop. Until it is finished, nothing live is fed."""
        self.finish()
        now, live = self._clock(), self._assignment.live()
        rebuilt = {number: found.keys for number in live if (found := self._assignment.tasks[number].rebuild)}
        closing = {*closing, *rebuilt}  # nobody may find the damaged snapshots again
        chosen = self._streams.choose(self._policy, live, now, now - self._committed_at, closing)
        tombstones = [(task, key) for task, key in self.tombstones if task in live]
        tombstones += [(task, key) for task, keys in rebuilt.items() for key in keys if not self._streams.holds(task, key)]
        announced = all(self._assignment.tasks[task].metadata for task in live)
        if announced and not (self.epoch.open or len(chosen) or tombstones or self._assignment.behind()):
            return
        self.epoch.begin(now)
        for task, key in tombstones:
            self.epoch.snapshot(task, key, None)
        for task in live:
            if not self._assignment.tasks[task].metadata:
                begun = Begun(self._assignment.tasks[task].live_at, self._settings.input_id)
                self.epoch.snapshot(task, BEGUN_KEY, begun.to_bytes())
        snapshots = self._streams.snapshots(chosen)
        for task, key, data in snapshots:
            self.epoch.snapshot(task, key, data)
        self._policy.wrote(len(snapshots), sum(len(data) for _, _, data in snapshots))
        offsets, starts = {}, {}
        self._count += 1
        for number, offset in live.items():
            start = starts[number] = self._streams.replay_from(number, offset, chosen)
            for key, value in self._assignment.tasks[number].refused.owed(start, offset):
                self.epoch.snapshot(number, key, value)
            metadata = OffsetMetadata(start, self._settings.partitions, self._fingerprint, self._writer, self._count)
            offsets[self._assignment.tasks[number].input] = Committed(offset, metadata.to_text())
        self.epoch.send(offsets, self._assignment.source.group())
        epoch, timeout = self.epoch, self._settings.transaction_timeout
        self._under_way = _Commit(self._beside(lambda: epoch.commit(timeout)), offsets, starts, chosen, tombstones, now)

    def finish(self) -> None:
        """Wait for the commit under way, if there is one, and write down that it has happened. Raises what it has raised."""
        commit, self._under_way = self._under_way, None
        if commit is None:
            return
        commit.wait()
        self._metrics.commit_took(self._clock() - commit.begun_at)
        self._streams.committed(commit.snapshotted, self.epoch.written)
        for partition, (offset, metadata) in commit.offsets.items():
            task = self._assignment.tasks[partition.partition]
            task.committed, task.metadata, task.rebuild = offset, metadata, None
            task.refused.committed(commit.replay_from[task.number], offset)
        self.landmarks.committed({partition.partition: offset for partition, (offset, _) in commit.offsets.items()})
        self._metrics.cached(self._streams.count_evictions(), self._streams.cold.size, self._policy.deferred)
        self._metrics.committed(len(self.epoch.written), self.epoch.snapshot_bytes, self._streams.table.used)
        if self.epoch.records:
            self.fresh = False
            self._metrics.waited(self._wall() - min(part.timestamps[0] for part in self.epoch.records) / 1000)
        self.epoch = self._new_epoch()
        self._standing.note_commit()
        paid = set(commit.tombstones)
        self.tombstones = [owed for owed in self.tombstones if owed not in paid]
        self._committed_at = self._clock()

    def roll_back(self, error: EpochAborted) -> list[RecordBatch]:
        """Abort the transaction and put every stream back to where the epoch began; the epoch's records are to be fed again.

        No commit may be under way: whoever calls this has waited for it, and seen it fail.
        """
        log.warning("epoch_aborted", reason=str(error))
        self._metrics.aborted()
        epoch, self.epoch = self.epoch, self._new_epoch()
        try:
            epoch.abort(self._settings.call_timeout)
        except (OutcomeUnknown, Fenced) as unknown:
            self._standing.note_unknown(unknown)
        self._streams.rollback()
        for task in self._assignment.tasks.values():
            if task.live:
                task.next_offset = task.committed
        self._committed_at = self._clock()
        return epoch.records

    def forget(self, tasks: Collection[int]) -> set[int]:
        """These tasks go. Returns those of them for which no tombstone was owed."""
        self.landmarks.forget(tasks)
        owed = {task for task, _ in self.tombstones}
        self.tombstones = [(task, key) for task, key in self.tombstones if task not in tasks]
        return set(tasks) - owed

    def end(self) -> None:
        """Wait for what is under way, and commit nothing more."""
        with contextlib.suppress(PenstockError):
            self.finish()
        with contextlib.suppress(PenstockError):
            self.epoch.abort(self._settings.call_timeout)

    def close(self) -> None:
        """Let the producer go; after `end`."""
        self._sink.close()

    def _new_sink(self) -> Sink:
        return self._transport.sink(self._settings.transactional_id, self._settings.transaction_timeout)

    def _new_epoch(self) -> Epoch:
        return Epoch(self._sink, self._settings.topics, self._settings.output_bytes)
