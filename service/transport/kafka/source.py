"""A group member on Kafka.

New partitions are assigned paused, and `start` makes them deliver. How that is done rests on three properties of librdkafka
(docs/adr/0004-transport-start.md). A partition is paused before it is assigned, or a fetch from its provisional offset could
outrun the pause. `seek` fails until an assignment has been served, and is tried again. What one `consume` call has collected
when it runs a callback it returns afterwards, so a start from inside a callback takes effect after the call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from service.errors import OffsetsPending, OperatorActionRequired, PenstockError, TransportUnavailable
from service.transport.interface import Committed, Isolation, Membership, Partition, RebalanceListener, RecordBatch
from service.transport.kafka.columns import as_batch, by_partition, split_errors
from service.transport.kafka.configuration import KafkaProperties, client
from service.transport.kafka.errors import OUTSIDE, Trouble, instance_in_use, instance_taken, reason, refused, source_error
from service.transport.kafka.group import KafkaToken
from service.transport.kafka.patience import GONE
from service.transport.kafka.reader import KafkaReader

_LOG = logging.getLogger("penstock.kafka")
_RETRY_START = 0.01  # seconds
_JOIN_AGAIN = 1.0
_WAKE = 0.25  # seconds; a request that times out costs the connection

_COORDINATOR_AWAY = {
    *GONE,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._WAIT_COORD,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}


class KafkaSource:
    """Implements `Source`."""

    def __init__(self, properties: KafkaProperties, membership: Membership) -> None:
        self._properties = properties
        self._membership = membership
        self._trouble = Trouble(properties.bootstrap)
        self._consumer = self._connect()
        self._topics: list[str] = []
        self._log_ends: KafkaReader | None = None
        self._listener: RebalanceListener | None = None
        self._assigned: set[Partition] = set()
        self._started: set[Partition] = set()
        self._paused: set[Partition] = set()
        self._starts: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}  # where delivery has come to an end of the partition, since its start
        self._raised: BaseException | None = None
        self._lost = False  # and not assigned anything since
        self._join_again_at = 0.0

    def subscribe(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        self._topics, self._listener = list(topics), listener
        self._join()

    def poll(self, max_records: int, timeout: float) -> list[RecordBatch]:
        deadline = time.monotonic() + timeout
        while True:
            self._join_again(deadline)
            self._apply_starts()
            left = max(0.0, deadline - time.monotonic())
            batches = self._deliver(self._consume(max_records, min(left, _RETRY_START) if self._starts else left))
            if batches or time.monotonic() >= deadline:
                return batches

    def start(self, partition: Partition, offset: int) -> None:
        if partition not in self._assigned:
            raise ValueError(f"{partition} is not assigned to this member")
        self._starts[partition] = offset
        self._ends.pop(partition, None)
        self._paused.discard(partition)

    def pause(self, partitions: Sequence[Partition]) -> None:
        self._paused.update(partitions)
        self._consumer.pause(_plain(self._started.difference(self._starts).intersection(partitions)))

    def resume(self, partitions: Sequence[Partition]) -> None:
        self._paused.difference_update(partitions)
        self._resume(_plain(self._started.difference(self._starts).intersection(partitions)))

    def position(self, partition: Partition) -> int:
        return self._ends.get(partition, -1)

    def committed(self, partitions: Sequence[Partition], timeout: float) -> dict[Partition, Committed | None]:
        try:
            found = self._consumer.committed(_plain(partitions), timeout)
        except KafkaException as error:
            if reason(error).code() in _COORDINATOR_AWAY or reason(error).retriable():
                raise OffsetsPending(
                    f"group {self._membership.group}: no stable offsets within {timeout:.1f} s: an open transaction holds them,"
                    f" or the group's coordinator does not answer ({reason(error).str()})"
                ) from None
            raise self._trouble.unavailable(f"committed offsets of group {self._membership.group}", reason(error)) from None
        return {Partition(at.topic, at.partition): _as_committed(at) for at in found}

    def watermarks(self, partition: Partition, timeout: float) -> tuple[int, int]:
        # Under read_committed, librdkafka's watermark would be the last stable offset.
        if self._log_ends is None:
            self._log_ends = KafkaReader(self._properties, Isolation.READ_UNCOMMITTED)
        return self._log_ends.watermarks(partition, timeout)

    def group(self) -> KafkaToken:
        try:
            return KafkaToken(self._consumer.consumer_group_metadata())
        except RuntimeError:  # librdkafka has none while the client is closing
            return KafkaToken(None)

    def close(self) -> None:
        self._consumer.close()
        if self._log_ends is not None:
            self._log_ends.close()
        self._reraise()

    def _connect(self) -> Any:
        return client(Consumer, self._properties.member(self._membership), error_cb=self._trouble)

    def _join(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def _join_again(self, deadline: float) -> None:
        """A new client, where the last one was refused: for a predecessor whose session has not ended, or for good."""
        if self._join_again_at:
            time.sleep(max(0.0, min(self._join_again_at, deadline) - time.monotonic()))
            if time.monotonic() >= self._join_again_at:
                self._join_again_at = 0.0
                self._consumer.close()
                if left := [TopicPartition(*where) for where in self._assigned]:
                    self._on_lost(self._consumer, left)  # a client that has given up may not have said so
                self._consumer = self._connect()
                self._join()

    def _consume(self, max_records: int, timeout: float) -> list[Message]:
        # consume() waits for the full number; so the wait is for one message, and the rest is what is there already.
        try:
            messages: list[Message] = self._consumer.consume(max_records, 0)
            if not messages and timeout > 0 and self._raised is None:
                messages = self._consumer.consume(1, timeout)
                if messages and max_records > 1 and self._raised is None:
                    messages += self._consumer.consume(max_records - 1, 0)
        except KafkaException as error:  # a fatal error
            raise self._meaning(reason(error), None) or self._trouble.unavailable("polling", reason(error)) from None
        return messages

    def _deliver(self, messages: list[Message]) -> list[RecordBatch]:
        records, errors = split_errors(messages)
        groups = {Partition(*where): group for where, group in by_partition(records).items()}
        live = self._started.difference(self._starts)
        if self._raised is not None:
            # The listener failed while this call had records in hand: they are fetched again.
            self._starts.update({where: group[0].offset() for where, group in groups.items() if where in live})
            self._reraise()
        for message in errors:
            self._judge(message)
        return [as_batch(where, group) for where, group in groups.items() if where in live]

    def _judge(self, message: Message) -> None:
        error = message.error()
        if error.code() == KafkaError._PARTITION_EOF:
            where = Partition(message.topic(), message.partition())
            if where in self._started and where not in self._starts:
                self._ends[where] = message.offset()
            return
        if instance_in_use(error) or (instance_taken(error) and self._lost):
            # After a loss it is our own former self that "took" the instance (docs/adr/0006-transport-fencing.md).
            _LOG.warning("%s; asking again", error.str())
            self._join_again_at = time.monotonic() + _JOIN_AGAIN
            return
        if error.code() in OUTSIDE:
            where = Partition(message.topic(), message.partition())
            if where in self._started:
                raise self._outside(where, error)
            return
        found = self._meaning(error, message.topic())
        if found is not None:
            raise found

    def _meaning(self, error: KafkaError, topic: str | None) -> PenstockError | None:
        # librdkafka says a single time that it is refused, and a client that it calls fatal is silent from then on and never joins
        # again: the next one says so again, or gets what this one did not.
        if refused(error):
            self._join_again_at = time.monotonic() + _JOIN_AGAIN
        return source_error(error, topic)

    def _outside(self, where: Partition, error: KafkaError) -> OperatorActionRequired:
        try:
            first, end = self.watermarks(where, 5.0)
            reach = f"which reaches from {first} to {end}"
        except TransportUnavailable:
            reach = "whose ends cannot be learnt"
        return OperatorActionRequired(f"{where.topic}[{where.partition}]: the position is outside the log, {reach}: {error.str()}")

    def _apply_starts(self) -> None:
        begun = []
        try:
            for partition, offset in list(self._starts.items()):
                at = TopicPartition(partition.topic, partition.partition, offset)
                try:
                    self._consumer.seek(at)
                except KafkaException as error:
                    if reason(error).code() in (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS):
                        return
                    raise self._trouble.unavailable(f"starting {partition.topic}[{partition.partition}]", reason(error)) from None
                if partition not in self._paused:
                    begun.append(at)
                self._started.add(partition)
                del self._starts[partition]
        finally:
            self._resume(begun)

    def _resume(self, partitions: list[TopicPartition]) -> None:
        self._consumer.resume(partitions)
        until = time.monotonic() + _WAKE
        for at in partitions:
            # librdkafka's thread for a broker sleeps for up to a second when it had nothing to fetch; a request wakes it.
            try:
                self._consumer.get_watermark_offsets(at, timeout=_WAKE)
            except KafkaException:
                return
            if time.monotonic() > until:
                return

    def _on_assign(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        provisional = [TopicPartition(at.topic, at.partition, 0) for at in partitions]
        for at in provisional:
            consumer.get_watermark_offsets(at, cached=True)  # makes the partition known, so that it can be paused
        consumer.pause(provisional)
        if self._properties.incremental:
            consumer.incremental_assign(provisional)
        else:
            consumer.assign(provisional)
        new = [Partition(at.topic, at.partition) for at in partitions]
        self._assigned.update(new)
        self._lost = False
        if new and self._listener is not None:
            self._call(self._listener.assigned, new)

    def _on_revoke(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        gone = [Partition(at.topic, at.partition) for at in partitions]
        if gone and self._listener is not None:
            self._call(self._listener.revoked, gone)
        self._drop(gone)

    def _on_lost(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        gone = [Partition(at.topic, at.partition) for at in partitions]
        self._drop(gone)
        self._lost = True
        if gone and self._listener is not None:
            self._call(self._listener.lost, gone)

    def _call(self, callback: Callable[[Sequence[Partition]], None], partitions: Sequence[Partition]) -> None:
        # An exception that left the callback would make consume() throw away the records that it holds.
        try:
            callback(partitions)
        except BaseException as error:
            self._raised = self._raised or error

    def _reraise(self) -> None:
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised

    def _drop(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self._assigned.discard(partition)
            self._started.discard(partition)
            self._paused.discard(partition)
            self._starts.pop(partition, None)
            self._ends.pop(partition, None)


def _as_committed(at: TopicPartition) -> Committed | None:
    if at.error is not None:
        raise TransportUnavailable(f"committed offset of {at.topic}[{at.partition}]: {at.error.str()}")
    return Committed(at.offset, at.metadata or "") if at.offset >= 0 else None


def _plain(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(partition.topic, partition.partition) for partition in partitions]
