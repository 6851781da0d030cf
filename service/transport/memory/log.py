"""The in-memory broker: topics, transactions, groups. Its state is all behind one lock, so that several threads may use it."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto

from service.errors import EpochAborted, Fenced, OperatorActionRequired, OutcomeUnknown, TransportUnavailable
from service.transport.interface import Committed, Headers, Partition, TopicDescription
from service.transport.memory.group import Group
from service.transport.memory.partition import Entry, Fate, PartitionLog, Transaction
from service.transport.partitioning import partition_of


class Fault(Enum):
    """What a test lets go wrong, once, at the next occasion."""

    SEND_FAILS = auto()  # a produced record is refused later: the next call, at the latest the commit, must abort
    ABORT_AT_COMMIT = auto()  # the broker demands an abort when asked to commit
    COMMIT_REQUEST_LOST = auto()  # the commit never reaches the broker, and nobody learns that
    COMMIT_RESPONSE_LOST = auto()  # the transaction is committed, and nobody learns that
    ABORT_RESPONSE_LOST = auto()


class Producer:
    """A transactional id: the epoch that its present owner writes under, and the transaction in progress."""

    def __init__(self) -> None:
        self.epoch = -1
        self.transaction: Transaction | None = None


class MemoryLog:
    """Topics, transactional producers and consumer groups in this process.

    `clock` gives epoch seconds: it stamps records and times transactions out. Nothing else depends on time.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.changed = threading.Condition()
        self._clock = clock
        self._topics: dict[str, TopicDescription] = {}
        self._partitions: dict[Partition, PartitionLog] = {}
        self._producers: dict[str, Producer] = {}
        self._groups: dict[str, Group] = {}
        self._unkeyed: dict[str, int] = {}
        self._identities: dict[str, str] = {}
        self._faults: deque[Fault] = deque()

    # Topics

    def create(self, description: TopicDescription) -> None:
        """Does nothing where the topic exists."""
        with self.changed:
            if description.name not in self._topics:
                self._topics[description.name] = description
                self._identities[description.name] = secrets.token_hex(8)
                for number in range(description.partitions):
                    where = Partition(description.name, number)
                    self._partitions[where] = PartitionLog(where)
                self.changed.notify_all()

    def describe(self, topic: str) -> TopicDescription | None:
        return self._topics.get(topic)

    def identity(self, topic: str) -> str | None:
        return self._identities.get(topic)

    def count(self, topic: str) -> int:
        """How many partitions the topic has, 0 where there is none."""
        description = self._topics.get(topic)
        return description.partitions if description else 0

    def partition(self, where: Partition) -> PartitionLog:
        """Raises `TransportUnavailable` where there is no such partition."""
        log = self._partitions.get(where)
        if log is None:
            raise TransportUnavailable(f"there is no partition {where.partition} of a topic {where.topic!r}; create the topic")
        return log

    def add_partitions(self, topic: str, partitions: int) -> None:
        """As an administrator does it, to everybody's surprise."""
        with self.changed:
            before = self._topics[topic]
            for number in range(before.partitions, partitions):
                self._partitions[Partition(topic, number)] = PartitionLog(Partition(topic, number))
            self._topics[topic] = TopicDescription(topic, partitions, before.config, before.replication)
            self.changed.notify_all()

    def create_anew(self, topic: str) -> None:
        """Deleted, and created again with nothing in it."""
        with self.changed:
            self.create(self._topics.pop(topic))

    def delete_before(self, where: Partition, offset: int) -> None:
        """Records below `offset` are gone, as when retention took them."""
        with self.changed:
            self.partition(where).delete_before(offset)

    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None,
        headers: Headers,
        timestamp: int | None = None,
        transaction: Transaction | None = None,
    ) -> None:
        """One record at the end of its partition, which the key chooses where `partition` is None."""
        with self.changed:
            where = Partition(topic, self._choose(topic, key) if partition is None else partition)
            log = self.partition(where)
            stamp = self.now_ms() if timestamp is None else timestamp
            offset = log.append(Entry(stamp, key, value, headers, transaction))
            if transaction is not None:
                transaction.first.setdefault(where, offset)
            self.changed.notify_all()

    def now_ms(self) -> int:
        return int(self._clock() * 1000)

    # Transactions

    def open_producer(self, transactional_id: str) -> int:
        """The epoch of a new owner, who fences the one before; what that one had open is aborted."""
        with self.changed:
            producer = self._producers.setdefault(transactional_id, Producer())
            self._end_open(producer, Fate.ABORTED)
            producer.epoch += 1
            return producer.epoch

    def begin(self, transactional_id: str, epoch: int, timeout: float) -> Transaction:
        with self.changed:
            producer = self._owned(transactional_id, epoch, None)
            producer.transaction = Transaction(transactional_id, self._clock(), timeout)
            return producer.transaction

    def check(self, transaction: Transaction, epoch: int) -> None:
        """Raises unless this transaction may still be written: `Fenced`, or `OutcomeUnknown` where it had timed out."""
        with self.changed:
            self._owned(transaction.transactional_id, epoch, transaction)

    def end(self, transaction: Transaction, epoch: int, fate: Fate) -> None:
        """Commit or abort, with markers, records and offsets at once."""
        with self.changed:
            self._end_open(self._owned(transaction.transactional_id, epoch, transaction), fate)

    def add_offsets(
        self, transaction: Transaction, group: str, identity: str, generation: int, offsets: Mapping[Partition, Committed]
    ) -> None:
        """Offsets that become the group's when the transaction commits. Raises `EpochAborted` for a stale member."""
        with self.changed:
            members = self.group(group)
            if not members.accepts(identity, generation):
                raise EpochAborted(f"group {group}: member {identity} of generation {generation} is not its member any more")
            members.pending.setdefault(transaction, {}).update(offsets)

    def open_transactions(self) -> int:
        """How many transactions are neither committed nor aborted."""
        with self.changed:
            return sum(producer.transaction is not None for producer in self._producers.values())

    def expire_transactions(self) -> None:
        """End what is older than its timeout, as the broker does in the background; its producer is fenced."""
        with self.changed:
            for producer in self._producers.values():
                if producer.transaction is not None and producer.transaction.overdue(self._clock()):
                    self._end_open(producer, Fate.ABORTED)
                    producer.epoch += 1

    # Groups

    def group(self, name: str) -> Group:
        with self.changed:
            return self._groups.setdefault(name, Group(name, self.count))

    def expire_member(self, group: str, instance: str) -> None:
        """The session of this member ends, as some time after its process died."""
        with self.changed:
            self.group(group).expire(instance)
            self.changed.notify_all()

    def forget_offsets(self, group: str, partitions: Sequence[Partition]) -> None:
        """As when an empty group's offsets expire."""
        with self.changed:
            for partition in partitions:
                self.group(group).committed.pop(partition, None)

    # Faults

    def inject(self, fault: Fault) -> None:
        """Let this go wrong once, at the next occasion."""
        with self.changed:
            self._faults.append(fault)

    def strikes(self, fault: Fault) -> bool:
        """Whether this fault has been injected; asking uses it up."""
        with self.changed:
            if fault not in self._faults:
                return False
            self._faults.remove(fault)
            return True

    def _choose(self, topic: str, key: bytes | None) -> int:
        partitions = self.count(topic)
        if partitions == 0:
            raise TransportUnavailable(f"there is no topic {topic!r}; create it")
        if key is not None:
            return partition_of(key, partitions)
        self._unkeyed[topic] = (self._unkeyed.get(topic, -1) + 1) % partitions
        return self._unkeyed[topic]

    def _owned(self, transactional_id: str, epoch: int, transaction: Transaction | None) -> Producer:
        self.expire_transactions()
        producer = self._producers[transactional_id]
        if producer.epoch == epoch:
            return producer
        if transaction is not None and transaction.overdue(self._clock()):
            raise OutcomeUnknown(f"{transactional_id}: the transaction was older than its timeout of {transaction.timeout} s")
        raise Fenced(f"another process writes under the transactional id {transactional_id!r}")

    def _end_open(self, producer: Producer, fate: Fate) -> None:
        transaction, producer.transaction = producer.transaction, None
        if transaction is None:
            return
        transaction.fate = fate
        for where in transaction.first:
            self._partitions[where].settle(transaction, self.now_ms())
        for group in self._groups.values():
            group.settle(transaction, fate is Fate.COMMITTED)
        self.changed.notify_all()


def outside(where: Partition, position: int, log: PartitionLog) -> OperatorActionRequired:
    """The error for a position that is not in the log."""
    return OperatorActionRequired(
        f"{where.topic}[{where.partition}]: offset {position} is outside the log, which reaches from {log.start} to {log.end}"
    )
