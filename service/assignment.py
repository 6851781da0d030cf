"""The tasks that this process holds at the moment, and how each gets from its assignment to live."""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Generator, Sequence

import structlog

from service.errors import TransportUnavailable
from service.observe.metrics import Metrics
from service.quarantine import Quarantine, Suspicion
from service.refused import Refusals
from service.restore import Restored, RestorePolicy, SharedReader, check_partitions, restore
from service.state import Streams
from service.task import Phase, Task
from service.transport.interface import Partition, RecordBatch, Source

log = structlog.get_logger("penstock.assignment")

_LAG_EVERY = 1.0  # seconds
_COUNT_EVERY = 10.0
_PAUSE = 0.2  # seconds
_SELDOM = 16
"""After an assignment, until something is committed: in every sixteenth turn those that are restored already let others be."""


class Assignment:
    """Owns the tasks. Restoring goes on a little at each `advance`, so that polling and the running tasks go on too."""

    def __init__(
        self,
        source: Source,
        reader: SharedReader,
        streams: Streams,
        policy: RestorePolicy,
        quarantine: Quarantine,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.tasks: dict[int, Task] = {}
        self._closed: dict[int, Task] = {}  # clean, their streams still in memory, until the next assignment
        self._restoring: dict[int, Generator[None, None, Restored]] = {}
        self._assigned_at: dict[int, float] = {}
        self._inputs: set[str] = set()  # topics of all tasks so far
        self.source = source
        self._reader = reader
        self._streams = streams
        self._policy = policy
        self._quarantine = quarantine
        self._metrics = metrics
        self._clock = clock
        self._lag_at = self._counted_at = clock()
        self._hurried = 0  # turns in a row

    @property
    def restoring(self) -> bool:
        return bool(self._restoring)

    @property
    def replaying(self) -> bool:
        return any(task.phase is Phase.REPLAYING for task in self.tasks.values())

    def live(self) -> dict[int, int]:
        """The next offset of each live task."""
        return {number: task.next_offset for number, task in self.tasks.items() if task.live}

    def refused(self) -> Refusals:
        """Records that must not be fed, of the tasks that have any."""
        return {number: task.refused.records for number, task in self.tasks.items() if task.refused.records}

    def in_quarantine(self, records: Sequence[RecordBatch]) -> tuple[list[RecordBatch], list[RecordBatch]]:
        """Those of `records` that must be fed one by one, and the others."""
        suspect = [self.tasks[part.partition].suspicion.reaches(part.offsets) for part in records]
        return (
            [part for part, one_by_one in zip(records, suspect, strict=True) if one_by_one],
            [part for part, one_by_one in zip(records, suspect, strict=True) if not one_by_one],
        )

    def suspicions(self, numbers: Collection[int]) -> dict[int, Suspicion]:
        """Of those among these tasks that are restored."""
        known = (Phase.REPLAYING, Phase.LIVE)
        return {
            number: self.tasks[number].suspicion for number in numbers if number in self.tasks and self.tasks[number].phase in known
        }

    def fed(self, records: Sequence[RecordBatch]) -> None:
        """These have been fed: their tasks go on behind them, or where they are already."""
        for part in records:
            task = self.tasks[part.partition]
            task.next_offset = max(task.next_offset, part.offsets[-1] + 1)

    def pass_gaps(self) -> None:
        """Once all that was delivered has been fed: live tasks go on behind offsets without records, such as the marks that input
        transactions end with. Retention will take those too, and an offset before them would lie below the log then."""
        for task in self.tasks.values():
            if task.live:
                task.next_offset = max(task.next_offset, self.source.position(task.input))

    def behind(self) -> bool:
        """Whether a live task has gone on without a record to commit."""
        return any(task.live and task.next_offset > task.committed for task in self.tasks.values())

    def add(self, partitions: Sequence[Partition]) -> None:
        """New tasks. Streams of tasks that this process had before, and that do not come back now, are forgotten."""
        before, self._closed = self._closed, {}
        for partition in partitions:
            self._inputs.add(partition.topic)
            task = Task(partition.partition, partition)
            task.enter(Phase.RESTORING)
            self.tasks[task.number] = task
            closed = before.pop(task.number, None)
            left = closed.left() if closed else None
            if closed and left:  # as long as memory is what goes on
                task.refused, task.suspicion, task.rebuild = closed.refused, closed.suspicion, closed.rebuild
            self._restoring[task.number] = restore(task, self.source, self._reader, self._policy, self._streams, left)
            self._assigned_at[task.number] = self._clock()
        for number in before:
            self._streams.drop(number)
        self._count()

    def drop(self, partitions: Sequence[Partition], clean: Collection[int] = ()) -> None:
        """These tasks are no longer ours; nothing of them may be unsettled. Where memory is what is committed (`clean`), the
        streams of a live task stay until the next assignment, in case it brings the task back."""
        for partition in partitions:
            task = self.tasks.pop(partition.partition, None)
            if task is None:
                continue
            if task.number in self._restoring:
                self._restoring.pop(task.number).close()
            if task.live and task.number in clean:
                task.enter(Phase.CLOSED_CLEAN)
                self._closed[task.number] = task
            else:
                task.enter(Phase.CLOSED_DIRTY)
                self._streams.drop(task.number)
            self._metrics.forget(partition.topic, partition.partition)
        self._count()

    def report_lag(self) -> None:
        """Records between each live task's committed offset and the end of its partition; not known while the broker is away."""
        now = self._clock()
        if now - self._lag_at < _LAG_EVERY:
            return
        self._lag_at = now
        with contextlib.suppress(TransportUnavailable):
            for task in self.tasks.values():
                if task.live:
                    _, end = self.source.watermarks(task.input, timeout=0.5)
                    self._metrics.lagging(task.input.topic, task.number, max(end - task.committed, 0))

    def count_partitions(self) -> None:
        """Now and then. Raises `OperatorActionRequired` where somebody has added some, which incremental rebalances do not tell, or
        has deleted the input, which leaves the group with nothing to do."""
        now = self._clock()
        if now - self._counted_at < _COUNT_EVERY or self.restoring:
            return
        self._counted_at = now
        with contextlib.suppress(TransportUnavailable):
            for topic in self._inputs:
                partitions = self._reader.partitions(topic, timeout=0.5)
                check_partitions(topic, partitions, self._policy.partitions, "when this process started")

    def advance(self, hurried: bool = False) -> None:
        """Go on with restoring, a little for each task in turn, so that live tasks wait no longer than `_PAUSE`; `hurried`: only
        now and then, since those that are restored have something to do and nothing has come of it yet.

        Raises what `restore` raises. A task is live as well when nothing is left to replay although its last committed record was
        never seen: compaction may have removed it.
        """
        for task in self.tasks.values():
            if task.phase is Phase.REPLAYING and self.source.position(task.input) >= task.live_at:
                self._go_live(task)
        self._hurried = self._hurried + 1 if hurried else 0
        if self._hurried % _SELDOM:
            return
        until = self._clock() + (0.0 if hurried else _PAUSE)
        for number in list(self._restoring):
            recovery = self._restoring.pop(number)
            try:
                next(recovery)
            except StopIteration as finished:
                self._begin(self.tasks[number], finished.value)
            else:
                self._restoring[number] = recovery  # at the end of the queue
            if self._clock() > until:
                return

    def split(self, records: Sequence[RecordBatch]) -> tuple[list[RecordBatch], list[RecordBatch]]:
        """Committed records to replay, and live ones; what belongs to no task falls out. A task that has them all is live."""
        replayed, live = [], []
        for part in records:
            task = self.tasks.get(part.partition)
            if task is None or task.phase not in (Phase.REPLAYING, Phase.LIVE) or not len(part):
                continue
            end = part.offsets[-1] + 1
            if task.rebuild:
                part = task.rebuild.select(part)
            cut = 0 if task.live else bisect_left(part.offsets, task.live_at)
            if cut:
                replayed.append(part.slice(0, cut))
            if cut < len(part):
                live.append(part.slice(cut, len(part)) if cut else part)
            if task.phase is Phase.REPLAYING and end >= task.live_at:
                self._go_live(task)
        return replayed, live

    def _begin(self, task: Task, restored: Restored) -> None:
        if restored.frozen is not None:
            task.refused, task.suspicion, task.rebuild = restored.refused, restored.suspicion, restored.rebuild
            self._quarantine.begin(task.number, task.suspicion, restored.live_at)
        task.committed, task.live_at, task.next_offset = restored.live_at, restored.live_at, restored.replay_from
        task.metadata = restored.metadata
        if restored.accepted_fingerprint is not None:
            log.warning("fingerprint_accepted", task=task.number, was=restored.accepted_fingerprint)
        log.info(
            "restored",
            task=task.number,
            snapshots=restored.frozen,
            replay_from=restored.replay_from,
            live_at=restored.live_at,
        )
        if restored.replay_from < restored.live_at:
            task.enter(Phase.REPLAYING)
            self._count()
        else:
            self._go_live(task)
        self.source.start(task.input, restored.replay_from)

    def _go_live(self, task: Task) -> None:
        task.enter(Phase.LIVE)
        task.next_offset = task.live_at  # which may lie beyond the last record that was seen
        self._count()
        seconds = self._clock() - self._assigned_at.pop(task.number)
        self._metrics.restored(seconds)
        log.info("live", task=task.number, offset=task.live_at, seconds=round(seconds, 3))

    def _count(self) -> None:
        present = [task.phase for task in self.tasks.values()]
        held = (Phase.RESTORING, Phase.REPLAYING, Phase.LIVE)
        self._metrics.tasks({phase.value: present.count(phase) for phase in held})
