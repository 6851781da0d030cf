"""Recovery of one task: committed offset and metadata, then snapshots, then where to read on.

`restore` is a generator that does a little and yields, so that polling (and with it the group membership) and the other tasks
go on. Every contradiction between offsets, log and snapshots ends in `OperatorActionRequired`, never in a silent reset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from service.begun import Begun
from service.codec.interface import RESERVED_KEYS
from service.errors import OffsetsPending, OperatorActionRequired, SnapshotDamaged, SnapshotMismatch
from service.incarnation import SIGNED
from service.quarantine import Suspicion
from service.rebuild import UNKNOWN, Damage, Rebuild, rebuilding
from service.refused import RefusedRecords
from service.state import Mark, Snapshot, Streams
from service.task import OffsetMetadata, Task
from service.topics import Topics
from service.transport.interface import Committed, Partition, Reader, RecordBatch, Source

OWN_KEYS = RESERVED_KEYS
"""How the keys of the service's own records in the snapshot topic begin."""


@dataclass(frozen=True, slots=True)
class RestorePolicy:
    """What a recovery is judged against. `check` raises `SnapshotMismatch` for a state that the program cannot take; `partitions`
    and `input_id` are the input's count and id when this process started; `accept_fingerprint` lets a replay range run under
    another program. A group that never committed starts at the beginning.
    """

    topics: Topics
    fingerprint: str
    check: Callable[[bytes], None]
    partitions: int
    input_id: str | None = None
    accept_fingerprint: bool = False
    timeout: float = 10.0
    wall: Callable[[], float] = time.time

    @property
    def anew(self) -> str:
        """How to begin anew. Dead letters go too: a rebuild and an audit take them for those of the records that are there now."""
        return (
            f"use another `app` name, or delete the group's offsets and delete and create {self.topics.snapshots} and "
            f"{self.topics.dead_letters}"
        )

    @property
    def on(self) -> str:
        """How to go on from where the group stands, without the streams' states. Kafka's tool sets offsets without our metadata,
        which is what tells that there is no state to go on from; metadata of one partition that are left contradict that."""
        return (
            "to go on from offsets of your choice with every stream begun anew, set those of all partitions "
            "(kafka-consumer-groups.sh --reset-offsets --to-current, or to others), and delete and create "
            f"{self.topics.snapshots}"
        )


@dataclass(frozen=True, slots=True)
class Restored:
    """Feed from `replay_from`, publish from `live_at`, never feed `refused`. `frozen` is how many snapshots were read; None: go on
    from memory. `metadata` is what the group holds; `rebuild` are the keys whose snapshots are damaged."""

    live_at: int
    replay_from: int
    metadata: str
    frozen: int | None
    accepted_fingerprint: str | None = None
    refused: RefusedRecords = field(default_factory=RefusedRecords)
    suspicion: Suspicion = field(default_factory=Suspicion)
    rebuild: Rebuild | None = None


@dataclass(slots=True)
class _Found:
    """In a task's partition of the snapshot topic: whether the task has ever committed, the highest offset that a snapshot reaches,
    where and on which input it began, how many were read, which are damaged, and what is noted of single records."""

    begun: bool
    ahead: int
    beginning: Begun | None = None
    count: int = 0
    damaged: dict[bytes, Damage] = field(default_factory=dict)
    refused: RefusedRecords = field(default_factory=RefusedRecords)
    suspicion: Suspicion = field(default_factory=Suspicion)


class SharedReader:
    """One reader for all recoveries, one after another: a second `read` would end the first."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.busy = False

    def partitions(self, topic: str, timeout: float) -> int | None:
        return self._reader.partitions(topic, timeout)

    def watermarks(self, partition: Partition, timeout: float) -> tuple[int, int]:
        return self._reader.watermarks(partition, timeout)

    def last_stable(self, partition: Partition, timeout: float) -> int:
        return self._reader.last_stable(partition, timeout)

    def read(self, partition: Partition, start: int, stop: int, timeout: float) -> Iterator[RecordBatch]:
        self.busy = True
        try:
            yield from self._reader.read(partition, start, stop, timeout)
        finally:
            self.busy = False

    def offset_at(self, partition: Partition, timestamp: int, timeout: float) -> int:
        return self._reader.offset_at(partition, timestamp, timeout)

    def close(self) -> None:
        self._reader.close()


def restore(
    task: Task,
    source: Source,
    reader: SharedReader,
    policy: RestorePolicy,
    streams: Streams,
    left: Committed | None = None,
) -> Generator[None, None, Restored]:
    """Raises `OperatorActionRequired`; returns what the worker needs to start the task. Its snapshots lie frozen in `streams` then.

    `left` is what the group held when this process last closed the task, with memory true to it. Where the group still holds
    that, nobody has worked on the task since, and no snapshot is read.
    """
    committed = yield from _committed(task.input, source)
    low, high = source.watermarks(task.input, policy.timeout)
    partitions = reader.partitions(task.input.topic, policy.timeout)
    check_partitions(task.input.topic, partitions, policy.partitions, "when this process started")
    yield
    where = f"{task.input.topic} partition {task.input.partition}"
    if committed is not None and committed == left and low <= committed.offset <= high:
        return Restored(committed.offset, committed.offset, committed.metadata, None)
    found = yield from _snapshots(task, reader, policy, streams)
    if committed is None:
        if found.begun:
            raise OperatorActionRequired(
                f"{where}: the group has no committed offset, but {policy.topics.snapshots} says that it had one. "
                "The offsets have expired or were deleted. To begin anew and compute everything again, delete and create "
                f"{policy.topics.snapshots} and {policy.topics.dead_letters}; {policy.on}."
            )
        yield from _check_first(task, source, policy)
        return Restored(low, low, "", 0, suspicion=found.suspicion)
    if not low <= committed.offset <= high:
        side = "below the log's first offset" if committed.offset < low else "above the log's end"
        raise OperatorActionRequired(
            f"{where}: the committed offset {committed.offset} is {side} (the log holds {low} to {high}). Records were "
            "removed before they were processed, or the topic was created anew. Raise the topic's retention; to go on with what "
            f"is there, {policy.anew}."
        )
    if not committed.metadata:
        if found.begun:
            raise OperatorActionRequired(
                f"{where}: the committed offset {committed.offset} carries no metadata, but {policy.topics.snapshots} says that it "
                f"had some. Another tool has moved the offset. To begin anew, {policy.anew}; {policy.on}."
            )
        yield from _check_first(task, source, policy)
        return Restored(committed.offset, committed.offset, "", 0, suspicion=found.suspicion)
    metadata = OffsetMetadata.from_text(committed.metadata)
    _check(where, committed, metadata, found, low, task, policy)
    start, rebuild = metadata.replay_from, None
    if found.damaged:
        while reader.busy:
            yield
        rebuild = yield from rebuilding(
            task.input, found.damaged, found.beginning, low, start, found.refused, policy.topics, reader, policy.timeout
        )
        start = rebuild.start
    differs = metadata.fingerprint != policy.fingerprint and start < committed.offset
    if differs and not policy.accept_fingerprint:
        raise OperatorActionRequired(
            f"{where}: {committed.offset - start} offsets must be replayed, and were processed by another program "
            f"(fingerprint {metadata.fingerprint}, now {policy.fingerprint}): other weights, network, decoding, torch build, "
            "instruction set or thread count. Start the earlier version again and stop it cleanly (it then leaves nothing to "
            "replay), or accept that the state is rebuilt by the new program: penstock run --accept-fingerprint."
        )
    old = metadata.fingerprint if differs else None
    return Restored(committed.offset, start, committed.metadata, found.count, old, found.refused, found.suspicion, rebuild)


def _committed(partition: Partition, source: Source) -> Generator[None, None, Committed | None]:
    timeout = 0.1  # short, so that polling goes on; longer each time, in case it is the broker that is slow
    while True:
        try:
            return source.committed([partition], timeout)[partition]
        except OffsetsPending:
            timeout = min(2 * timeout, 0.5)
            yield


def _snapshots(task: Task, reader: SharedReader, policy: RestorePolicy, streams: Streams) -> Generator[None, None, _Found]:
    """Where the local disk can be trusted, only what came after its mark is read.

    The end is taken after the committed offset is known to be stable (rule 6).
    """
    partition, disk = Partition(policy.topics.snapshots, task.number), streams.cold.disk
    while reader.busy:
        yield
    low, high = reader.watermarks(partition, policy.timeout)
    streams.assign(task.number)
    mark = disk.trusted(task.number, policy.wall())
    if mark is None or not low <= mark.position <= high:
        disk.clear(task.number)
        mark = Mark(low, False, 0, 0.0)
    found = _Found(mark.begun, mark.ahead)
    refused, suspicion, damaged = found.refused, found.suspicion, found.damaged
    mismatched: dict[bytes, SnapshotMismatch] = {}
    for key, kept in disk.beginning_with(task.number, OWN_KEYS):
        found.beginning = Begun.read(key, kept) or found.beginning
        _ = suspicion.read(key, kept) or refused.read(key, kept)
    for rate in mark.rates:
        streams.note_rate(rate)
    for batch in reader.read(partition, mark.position, high, policy.timeout):
        latest, own = dict[bytes, bytes | None](), list[tuple[bytes, bytes | None]]()
        for name, value in zip(batch.keys, batch.values, strict=True):
            if value is not None and value.startswith(SIGNED):
                continue
            if suspicion.read(name or b"", value):
                own.append((name or b"", value))
                continue
            found.begun = True
            beginning = Begun.read(name or b"", value)
            found.beginning = beginning or found.beginning
            if beginning or refused.read(name or b"", value):
                own.append((name or b"", value))
            elif (name or b"").startswith(OWN_KEYS) and value is not None:
                mismatched[name or b""] = SnapshotMismatch("it is a note of the service itself that this version does not know")
            else:
                latest[name or b""] = value
        for key, data in latest.items():
            damaged.pop(key, None)
            mismatched.pop(key, None)
            if data is not None:
                try:
                    snapshot = _opened(data, policy)
                except SnapshotDamaged as error:
                    damaged[key] = Damage(_first_of(data), error)
                except SnapshotMismatch as error:
                    mismatched[key] = error
                else:
                    found.ahead = max(found.ahead, snapshot.positions[0])
                    streams.note_rate(snapshot.rate)
        disk.follow(task.number, own)
        # Nothing is known of a damaged one's key, not even what an older snapshot said.
        streams.receive(task.number, {key: None if key in damaged else value for key, value in latest.items()})
        found.count += len(latest)
        yield
    for key, why in mismatched.items():
        raise OperatorActionRequired(
            f"{partition.topic} partition {partition.partition}, key {key!r}: the snapshot cannot be used: {why}. If the "
            "network or its post-processing has another structure than before, give the application another `app` name, so that "
            "it begins anew; if a newer penstock has written it, start that one."
        ) from why
    if not damaged:  # else they are to be found again until they have been replaced
        disk.set_mark(task.number, Mark(high, found.begun, found.ahead, policy.wall(), tuple(streams.rates)))
    return found


def _opened(value: bytes, policy: RestorePolicy) -> Snapshot:
    snapshot = Snapshot.from_bytes(value)
    policy.check(snapshot.blob)
    return snapshot


def _first_of(value: bytes) -> int:
    try:
        return Snapshot.from_bytes(value).stream
    except SnapshotMismatch:
        return UNKNOWN


def _check(
    where: str,
    committed: Committed,
    metadata: OffsetMetadata,
    found: _Found,
    low: int,
    task: Task,
    policy: RestorePolicy,
) -> None:
    check_partitions(task.input.topic, policy.partitions, metadata.partitions, "when offsets were committed")
    snapshots = policy.topics.snapshots
    if not found.begun:
        raise OperatorActionRequired(
            f"{where}: the group has committed offset {committed.offset}, but {snapshots} holds nothing of it: the topic was "
            "emptied or created anew, and the states of streams that go on are gone with it. To begin anew, use another `app` "
            f"name, or delete the group's offsets and delete and create {policy.topics.dead_letters}; {policy.on}."
        )
    known = found.beginning.input_id if found.beginning else None
    if known and policy.input_id and known != policy.input_id:
        raise OperatorActionRequired(
            f"{where}: the offsets were committed for a topic of the same name that is gone (its id was {known}, now it is "
            f"{policy.input_id}). To begin anew with this one, {policy.anew}."
        )
    if metadata.replay_from < low:
        raise OperatorActionRequired(
            f"{where}: records from {metadata.replay_from} on must be replayed, but the log begins at {low}: retention has "
            "removed them. Raise the topic's retention above `state.snapshot_every`; the streams concerned cannot be rebuilt, so "
            f"begin anew: {policy.anew}."
        )
    if found.ahead > committed.offset:
        raise OperatorActionRequired(
            f"{where}: a snapshot reaches offset {found.ahead}, beyond the committed offset {committed.offset}: the offset was "
            f"moved back by another tool. To begin anew, {policy.anew}; {policy.on}."
        )


def _check_first(task: Task, source: Source, policy: RestorePolicy) -> Generator[None, None, None]:
    """For a task without metadata: its partition may have been added, and no other may be ours that would tell. The group's first
    partition tells, since every task commits as soon as it is assigned."""
    committed = yield from _committed(Partition(task.input.topic, 0), source)
    if committed is not None and committed.metadata:
        expected = OffsetMetadata.from_text(committed.metadata).partitions
        check_partitions(task.input.topic, policy.partitions, expected, "when offsets were committed")


def check_partitions(topic: str, partitions: int | None, expected: int, when: str) -> None:
    """Raises `OperatorActionRequired` where the topic has another number of partitions than it had, or is gone."""
    if partitions is None:
        raise OperatorActionRequired(
            f"{topic} is gone; it had {expected} partitions {when}, and streams that go on in them. "
            "Create a new topic and application."
        )
    if partitions != expected:
        raise OperatorActionRequired(
            f"{topic} has {partitions} partitions, but had {expected} {when}. Keys have moved to other partitions and their "
            "state would be torn apart. Create a new topic and application instead."
        )
