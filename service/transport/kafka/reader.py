"""Reading partitions of Kafka without a group."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from service.background import begun
from service.errors import OperatorActionRequired, TransportUnavailable
from service.transport.interface import Isolation, Partition, RecordBatch
from service.transport.kafka.columns import as_batch
from service.transport.kafka.configuration import KafkaProperties, client
from service.transport.kafka.errors import MISSING, OUTSIDE, Trouble, reason, source_error
from service.transport.kafka.patience import PASSING, Answer, patiently

_LOG = logging.getLogger("penstock.kafka")
_MAX_RECORDS = 10_000
_POLL = 0.1
_GRACE = 5.0
"""Seconds for which a partition that is said not to exist is asked for again: a broker that has just started knows none yet."""
_PATIENCE = 4.0
"""Seconds without an answer after which a client is given up. Less than `_GRACE`: one without brokers knows no partition."""


def _abandon(consumer: Any) -> None:
    try:
        consumer.close()
    except (KafkaException, RuntimeError) as error:
        _LOG.warning("closing the client that was replaced: %s", error)


class KafkaReader:
    """Implements `Reader`. One `read` at a time: the next one ends the one before."""

    def __init__(self, properties: KafkaProperties, isolation: Isolation) -> None:
        self._trouble = Trouble(properties.bootstrap)
        self._properties = properties
        self._isolation = isolation
        self._waited = 0.0  # seconds in vain, since this client last answered
        self._consumer = self._connect()
        self._log_ends: KafkaReader | None = None
        self._turn = 0
        self._awake = False

    def partitions(self, topic: str, timeout: float) -> int | None:
        def ask(left: float) -> Any:
            found = self._consumer.list_topics(topic, timeout=left).topics[topic]
            if found.error is not None and found.error.code() in PASSING:
                raise KafkaException(found.error)
            return found

        try:
            found = self._ask(ask, timeout)
        except KafkaException as error:
            raise self._unavailable(f"topic {topic!r}", error) from None
        if found.error is None:
            return len(found.partitions)
        if found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise TransportUnavailable(f"topic {topic!r}: {found.error.str()}")

    def watermarks(self, partition: Partition, timeout: float) -> tuple[int, int]:
        if self._isolation is Isolation.READ_COMMITTED:
            # This client's own watermark would be the last stable offset.
            if self._log_ends is None:
                self._log_ends = KafkaReader(self._properties, Isolation.READ_UNCOMMITTED)
            return self._log_ends.watermarks(partition, timeout)
        return self._ends(partition, timeout)

    def last_stable(self, partition: Partition, timeout: float) -> int:
        return self._ends(partition, timeout)[1]

    def _ends(self, partition: Partition, timeout: float) -> tuple[int, int]:
        grace = time.monotonic() + _GRACE

        def ask(left: float) -> tuple[int, int]:
            first, end = self._consumer.get_watermark_offsets(TopicPartition(*partition), left)
            return first, end

        try:
            return self._ask(ask, timeout, lambda code: code in PASSING or (code in MISSING and time.monotonic() < grace))
        except KafkaException as error:
            where = f"{partition.topic}[{partition.partition}]"
            if reason(error).code() in MISSING:
                raise TransportUnavailable(f"there is no partition {where}") from None
            raise self._unavailable(where, error) from None

    def read(self, partition: Partition, start: int, stop: int, timeout: float) -> Iterator[RecordBatch]:
        if start >= stop:
            return
        self._turn += 1
        turn = self._turn
        self._renew_if_lost()
        if not self._awake:
            # What a client first fetches a while after it was made comes a second late, unless it was asked something before.
            self.partitions(partition.topic, timeout)
            self._awake = True
        consumer = None
        try:
            position, deadline = start, time.monotonic() + timeout
            while position < stop:
                if consumer is not self._consumer:
                    consumer = self._consumer
                    consumer.assign([TopicPartition(partition.topic, partition.partition, position)])
                records, reached = self._sort(self._consume(), partition, position)
                if reached > position:
                    position, deadline = reached, time.monotonic() + timeout
                    self._waited = 0.0
                elif time.monotonic() > deadline:
                    self._waited += timeout
                    raise TransportUnavailable(
                        f"{partition.topic}[{partition.partition}]: no progress from offset {position} to {stop} in {timeout:.1f} s"
                    )
                yield as_batch(partition, [record for record in records if record.offset() < stop])
                if turn != self._turn:
                    raise RuntimeError("another read has begun on this reader")
        finally:
            if turn == self._turn:
                self._consumer.unassign()

    def offset_at(self, partition: Partition, timestamp: int, timeout: float) -> int:
        where = f"{partition.topic}[{partition.partition}]"

        def ask(left: float) -> TopicPartition:
            [found] = self._consumer.offsets_for_times([TopicPartition(*partition, timestamp)], left)
            if found.error is not None and found.error.code() in PASSING:
                raise KafkaException(found.error)
            return found

        try:
            found = self._ask(ask, timeout)
        except KafkaException as error:
            raise self._unavailable(where, error) from None
        if found.error is not None:
            raise TransportUnavailable(f"{where}: {found.error.str()}")
        return int(found.offset) if found.offset >= 0 else self.watermarks(partition, timeout)[1]

    def close(self) -> None:
        self._turn += 1
        self._consumer.close()
        if self._log_ends is not None:
            self._log_ends.close()

    def _connect(self) -> Any:
        return client(Consumer, self._properties.reader(self._isolation), error_cb=self._trouble)

    def _ask(self, ask: Callable[[float], Answer], timeout: float, passing: Callable[[int], bool] = PASSING.__contains__) -> Answer:
        """`patiently`, of another client where this one has not answered for too long."""
        self._renew_if_lost()
        since = time.monotonic()
        try:
            found = patiently(ask, timeout, passing)
        except KafkaException:
            self._waited += time.monotonic() - since
            raise
        self._waited = 0.0
        return found

    def _renew_if_lost(self) -> None:
        """librdkafka may have lost its brokers for good (docs/adr/0031-readers-are-replaced.md). A read that is under way goes on
        with the new client."""
        if self._waited >= _PATIENCE:
            _LOG.warning("a client for reading finds its brokers no more; another one takes its place")
            begun(partial(_abandon, self._consumer), "closing")  # which may take long without brokers
            self._consumer, self._awake, self._waited = self._connect(), False, 0.0

    def _consume(self) -> list[Message]:
        # consume() waits for the full number; so the wait is for one message, and the rest is what is there already.
        found: list[Message] = self._consumer.consume(_MAX_RECORDS, 0)
        if not found and (found := self._consumer.consume(1, _POLL)):
            found += self._consumer.consume(_MAX_RECORDS - 1, 0)
        return found

    def _sort(self, messages: list[Message], partition: Partition, position: int) -> tuple[list[Message], int]:
        """The records, and the position: an end of partition lies beyond markers and aborted records, where no record does."""
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
                position = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                position = max(position, message.offset())
            elif error.code() in OUTSIDE:
                raise OperatorActionRequired(
                    f"{partition.topic}[{partition.partition}]: offset {position} is outside the log: {error.str()}"
                )
            elif (found := source_error(error, partition.topic)) is not None:
                raise found
        return records, position

    def _unavailable(self, what: str, error: KafkaException) -> TransportUnavailable:
        if not self._consumer.assignment():  # else a record could come instead of the connection's trouble
            self._consumer.poll(0)
        return self._trouble.unavailable(what, reason(error))
