"""What the worker asks of a log: partitioned topics, groups, transactions.

Two implementations pass one contract suite (`tests/transport/`): `KafkaTransport` and `MemoryTransport`. Everything is called
from one thread. Records travel as columns, one `RecordBatch` per partition and poll, because nothing may cost per record what
it can cost per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

Headers = list[tuple[str, bytes | None]]


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Committed(NamedTuple):
    """An offset committed by the group: the first record *not* yet processed, and the metadata committed with it."""

    offset: int
    metadata: str = ""


def _no_headers(row: int) -> Headers:
    return []


@dataclass(frozen=True, slots=True)
class _Headers:
    """The headers of some rows of a larger batch; of a part of those, no deeper."""

    of: Callable[[int], Headers]
    rows: Sequence[int]

    def __call__(self, row: int) -> Headers:
        return self.of(self.rows[row])


def _part(headers: Callable[[int], Headers], rows: Sequence[int]) -> _Headers:
    if not isinstance(headers, _Headers):
        return _Headers(headers, rows)
    whole = headers.rows
    return _Headers(headers.of, whole[rows.start : rows.stop] if isinstance(rows, range) else [whole[row] for row in rows])


@dataclass(slots=True)
class RecordBatch:
    """Records of one partition in offset order (offsets may have gaps), as columns of equal length.

    `timestamps` are Kafka's, in epoch milliseconds (−1 where a record has none). `headers(row)` reads a record's headers only
    when somebody asks, since only dead letters need them.
    """

    topic: str
    partition: int
    offsets: list[int]
    timestamps: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: Callable[[int], Headers] = field(default=_no_headers)

    def __len__(self) -> int:
        return len(self.offsets)

    def slice(self, begin: int, end: int) -> RecordBatch:
        """Rows `begin … end − 1`, as a batch of their own."""
        return RecordBatch(
            topic=self.topic,
            partition=self.partition,
            offsets=self.offsets[begin:end],
            timestamps=self.timestamps[begin:end],
            keys=self.keys[begin:end],
            values=self.values[begin:end],
            headers=_part(self.headers, range(begin, end)),
        )

    def take(self, rows: Sequence[int]) -> RecordBatch:
        """These rows, in the order given, as a batch of their own."""
        return RecordBatch(
            topic=self.topic,
            partition=self.partition,
            offsets=[self.offsets[row] for row in rows],
            timestamps=[self.timestamps[row] for row in rows],
            keys=[self.keys[row] for row in rows],
            values=[self.values[row] for row in rows],
            headers=_part(self.headers, rows),
        )


class RebalanceListener(Protocol):
    """Called from inside `Source.poll` (and `Source.close`), never from another thread."""

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """These are new; they deliver nothing until `Source.start`. Must not block."""

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """These go to another member when this returns; a transaction may still be committed in here."""

    def lost(self, partitions: Sequence[Partition]) -> None:
        """These belong to somebody else already: abort, never commit."""


class GroupToken(Protocol):
    """The group membership as of now, passed on to `Sink.send_offsets`. Never kept."""

    @property
    def joined(self) -> bool:
        """False before the member has joined: the broker would accept its offsets unfenced, so they are never sent."""


class Source(Protocol):
    """A group member that reads input partitions. Offsets are never committed through it, only through a `Sink`."""

    def subscribe(self, topics: Sequence[str], listener: RebalanceListener) -> None: ...

    def poll(self, max_records: int, timeout: float) -> list[RecordBatch]:
        """Records of the started partitions, at most one batch per partition; `[]` after `timeout` seconds without any.

        Raises `Fenced` when another process took this instance's membership, `OperatorActionRequired` when a position lies
        outside the log, `TransportUnavailable` on errors that retrying cannot mend. Passing broker trouble raises nothing.
        """

    def start(self, partition: Partition, offset: int) -> None:
        """Deliver from `offset` on, whatever was delivered before, even if paused before."""

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Deliver nothing of these until `resume`, then go on where it was. Does nothing to those that are not started."""

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Does nothing to those that are not started."""

    def position(self, partition: Partition) -> int:
        """Everything below this offset that will ever be delivered has been, since `start`: at the end of what can be read, it lies
        beyond aborted records, and beyond those that compaction has removed. −1 where that is not known."""

    def committed(self, partitions: Sequence[Partition], timeout: float) -> dict[Partition, Committed | None]:
        """The group's stable committed offsets; None where it never committed one. Raises `OffsetsPending` while an open
        transaction holds them back. Never called in a rebalance callback."""

    def watermarks(self, partition: Partition, timeout: float) -> tuple[int, int]:
        """First offset still in the log, and the offset after its last record (`read_uncommitted`)."""

    def group(self) -> GroupToken:
        """The membership right now."""

    def close(self) -> None:
        """Leave the group (a static member keeps its place until its session ends). `revoked` may be called from here, and
        the token may not be `joined` any more then; so commit before."""


class Sink(Protocol):
    """One transactional producer. `open` comes first and fences every earlier producer of the same transactional id.

    Every method raises `EpochAborted` where the transaction must be aborted, `Fenced` where another instance has taken over,
    `TransportUnavailable` where retrying within its bounds did not help. The first error of an asynchronous send is kept and
    raised at the next call, at the latest by `commit`.
    """

    def open(self, timeout: float) -> None: ...

    def begin(self) -> None: ...

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
    ) -> None: ...

    def produce_many(self, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> None:
        """Rows without headers, partitioned by key (murmur2, as the Java client does)."""

    def send_offsets(self, offsets: Mapping[Partition, Committed], group: GroupToken) -> None:
        """Refuses a token that is not `joined` with `EpochAborted`, before anything is sent."""

    def commit(self, timeout: float) -> None:
        """Raises `OutcomeUnknown` when the outcome could not be learnt within `timeout` seconds: the sink is then unusable."""

    def abort(self, timeout: float) -> None: ...

    def close(self) -> None: ...


class Isolation(Enum):
    READ_COMMITTED = "read_committed"
    READ_UNCOMMITTED = "read_uncommitted"


class Reader(Protocol):
    """Reads partitions without a group: snapshots, audits, tails. Commits nothing."""

    def partitions(self, topic: str, timeout: float) -> int | None:
        """How many partitions the topic has; None where there is no such topic."""

    def watermarks(self, partition: Partition, timeout: float) -> tuple[int, int]:
        """First offset, and the offset after the last record, open transactions included (`read_uncommitted`)."""

    def last_stable(self, partition: Partition, timeout: float) -> int:
        """The offset up to which `read` does not have to wait: before it, under `read_committed`, no transaction is open."""

    def read(self, partition: Partition, start: int, stop: int, timeout: float) -> Iterator[RecordBatch]:
        """Records from `start` until the position has reached `stop`, under this reader's isolation.

        Under `read_committed` that waits for transactions open below `stop`; while it waits, and beyond aborted records, it
        yields empty batches, so that the caller can go on with other work. Raises `TransportUnavailable` when the position makes
        no progress for `timeout` seconds. One `read` at a time: the next one ends the one before.
        """

    def offset_at(self, partition: Partition, timestamp: int, timeout: float) -> int:
        """Of the first record whose Kafka timestamp (epoch milliseconds) is not lower; the log's end where there is none."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """What a topic is, or should be. `config` holds only the settings that matter to penstock."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)
    replication: int | None = None


class Admin(Protocol):
    def describe(self, topics: Sequence[str], timeout: float) -> dict[str, TopicDescription | None]:
        """Each topic as it is (with its `cleanup.policy` where that may be read), None where there is none."""

    def identity(self, topic: str, timeout: float) -> str | None:
        """What tells the topic from one of the same name made later; None where the broker gives topics no ids, or does not tell
        us. Raises `TransportUnavailable`, since later it may."""

    def create(self, topics: Sequence[TopicDescription], timeout: float) -> None:
        """Raises `OperatorActionRequired` where the broker refuses. A topic that exists already is no error."""


class Publisher(Protocol):
    """A plain idempotent producer outside any transaction: simulators and `penstock produce`."""

    def publish(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> None: ...

    def flush(self, timeout: float) -> None:
        """Raises `TransportUnavailable` unless everything published has been acknowledged; whether the rest is in the log nobody
        knows then, and it is not sent any more."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Who reads, for a `Source`: the group, the stable name of this instance, the broker's session timeout in seconds."""

    group: str
    instance: str
    static: bool = True
    session_timeout: float = 10.0


class Transport(Protocol):
    """Makes everything above for one cluster."""

    def source(self, membership: Membership) -> Source: ...

    def sink(self, transactional_id: str, transaction_timeout: float) -> Sink: ...

    def reader(self, isolation: Isolation = Isolation.READ_COMMITTED) -> Reader: ...

    def admin(self) -> Admin: ...

    def publisher(self) -> Publisher: ...

    def describe(self) -> str:
        """For people: the kind of broker and where it is, for example `kafka at 127.0.0.1:9092 (librdkafka 2.16.0)`."""
