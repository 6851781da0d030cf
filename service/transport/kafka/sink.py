"""A transactional producer on Kafka."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from service.errors import EpochAborted, Fenced, OutcomeUnknown, PenstockError
from service.transport.interface import Committed, GroupToken, Headers, Partition
from service.transport.kafka.bounded import bounded
from service.transport.kafka.configuration import KafkaProperties, client
from service.transport.kafka.errors import Trouble, delivery_error, reason, transaction_error
from service.transport.kafka.group import KafkaToken

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds between tries
_REGISTERED, _LOOK = 2.0, 0.2  # seconds to wait before an abort until what was produced is written, in all and at a time
_GRACE = 0.5  # seconds that a call may outlast its own timeout
_ROOM = 0.1  # seconds to wait at a time for room in a full queue


def _now() -> float:
    """Seconds that go on while the machine is suspended, as the broker's do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class KafkaSink:
    """Implements `Sink`."""

    def __init__(self, properties: KafkaProperties, transactional_id: str, transaction_timeout: float) -> None:
        self._transactional_id = transactional_id
        self._timeout = transaction_timeout
        self._trouble = Trouble(properties.bootstrap)
        self._producer = client(
            Producer,
            properties.transactional(transactional_id, transaction_timeout),
            error_cb=self._trouble,
            on_delivery=self._on_failed_delivery,
        )
        self._began = 0.0
        self._stopped = False  # librdkafka wants the transaction aborted
        self._send_error: PenstockError | None = None
        self._broken: PenstockError | None = None

    def open(self, timeout: float) -> None:
        self._began = _now()
        try:
            self._call("opening", _in_time(self._producer.init_transactions), timeout=timeout)
        except TimeoutError:
            self._check_usable()
            error = KafkaError(KafkaError._TIMED_OUT)
            raise self._trouble.unavailable(f"transactional id {self._transactional_id!r}", error) from None

    def begin(self) -> None:
        self._serve()
        self._send_error = None  # what is reported only now belongs to a transaction that has ended
        self._stopped = False
        self._began = _now()
        try:
            self._call("beginning a transaction", self._producer.begin_transaction)
        except TimeoutError:
            raise EpochAborted("beginning a transaction: librdkafka is not ready for one") from None

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
    ) -> None:
        self._check_usable()
        arguments: dict[str, Any] = {} if partition is None else {"partition": partition}
        if headers:
            arguments["headers"] = headers
        self._produce(topic, value, key, **arguments)

    def produce_many(self, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> None:
        self._check_usable()
        produce = self._producer.produce
        for key, value in zip(keys, values, strict=True):
            try:
                produce(topic, value, key)
            except (BufferError, KafkaException):
                self._produce(topic, value, key)  # once more, with patience

    def send_offsets(self, offsets: Mapping[Partition, Committed], group: GroupToken) -> None:
        self._check_usable()
        if not isinstance(group, KafkaToken):
            raise TypeError(f"a token of another transport: {group!r}")
        if not group.joined:
            raise EpochAborted("the group is not joined yet, so its offsets would not be fenced")
        positions = [
            TopicPartition(partition.topic, partition.partition, committed.offset, committed.metadata)
            for partition, committed in offsets.items()
        ]
        left = self._timeout - (_now() - self._began)
        try:
            self._call(
                "sending offsets",
                lambda seconds: self._send(positions, group, seconds),
                timeout=max(left, _ROOM),
            )
        except TimeoutError:
            raise EpochAborted("sending offsets: no answer within the transaction's timeout") from None

    def commit(self, timeout: float) -> None:
        self._check_usable()
        self._finish("committing", self._producer.commit_transaction, timeout)

    def abort(self, timeout: float) -> None:
        if self._broken is not None:
            raise self._broken
        self._let_register()
        self._finish("aborting", self._producer.abort_transaction, timeout)
        self._send_error = None

    def close(self) -> None:
        """An open transaction stays open, as after a crash: until its timeout or the next owner's `open`."""
        self._broken = self._broken or Fenced(f"{self._transactional_id}: the sink is closed")
        self._producer.purge(in_queue=True, in_flight=True, blocking=False)

    def _produce(self, topic: str, value: bytes | None, key: bytes | None, **arguments: Any) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, **arguments)
                return
            except BufferError:
                self._make_room()
            except KafkaException as error:
                if reason(error).code() == KafkaError._FATAL:
                    self._check_usable()  # raises what is behind it: a takeover, perhaps
                refused = delivery_error(reason(error), topic)
                if refused is None or isinstance(refused, EpochAborted):
                    refused = self._classified(f"producing to {topic!r}", reason(error))
                raise refused from None

    def _send(self, positions: list[TopicPartition], group: KafkaToken, seconds: float) -> None:
        # After a lost connection this call may not come back, whatever its timeout (docs/adr/0021-transport-bounded-calls.md).
        try:
            _in_time(lambda limit: self._producer.send_offsets_to_transaction(positions, group.metadata, limit))(seconds)
        except TimeoutError:
            self._broken = OutcomeUnknown(f"{self._transactional_id}: sending offsets: the client does not come back")
            raise self._broken from None

    def _make_room(self) -> None:
        self._check_usable(_ROOM)
        if _now() - self._began > self._timeout:
            raise EpochAborted("producing: the queue stayed full for the transaction's timeout")

    def _let_register(self) -> None:
        """An abort that overtakes the registration of its partitions ruins the producer (docs/adr/0005-transport-abort.md)."""
        deadline = _now() + _REGISTERED
        with contextlib.suppress(KafkaException):
            # After an error librdkafka sends nothing more: what it has sent before is answered soon, or is not waited for.
            while self._producer.flush(_LOOK) and not self._stopped and self._send_error is None and _now() < deadline:
                pass

    def _finish(self, what: str, call: Callable[[float], None], timeout: float) -> None:
        try:
            self._call(what, _in_time(call), timeout=timeout)
        except TimeoutError:
            self._broken = OutcomeUnknown(f"{self._transactional_id}: {what}: no answer within {timeout:.1f} s")
            raise self._broken from None

    def _call(self, what: str, call: Callable[..., None], timeout: float | None = None) -> None:
        """The same call again while librdkafka says that it may be retried. Raises `TimeoutError` after `timeout` seconds."""
        deadline = _now() + (timeout or 0.0)
        pause = _FIRST_PAUSE
        while True:
            try:
                call() if timeout is None else call(max(deadline - _now(), _ROOM))
                return
            except KafkaException as error:
                found = reason(error)
            if not found.retriable():
                raise self._classified(what, found)
            if _now() >= deadline:
                raise TimeoutError
            time.sleep(min(pause, max(0.0, deadline - _now())))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _classified(self, what: str, error: KafkaError) -> PenstockError:
        age = _now() - self._began
        found = transaction_error(error, f"{self._transactional_id}: {what}", age, self._timeout)
        if isinstance(found, EpochAborted):
            self._stopped = True
            return self._send_error or found
        self._broken = found
        return found

    def _check_usable(self, wait: float = 0.0) -> None:
        """Raises what has gone wrong so far."""
        self._serve(wait)
        if self._send_error is not None:
            raise self._send_error

    def _serve(self, wait: float = 0.0) -> None:
        """librdkafka's callbacks."""
        if self._broken is not None:
            raise self._broken
        try:
            self._producer.poll(wait)
        except KafkaException as error:  # a fatal error
            raise self._classified("writing", reason(error)) from None

    def _on_failed_delivery(self, error: KafkaError, message: Any) -> None:
        self._send_error = self._send_error or delivery_error(error, message.topic())


def _in_time(call: Callable[[float], None]) -> Callable[[float], None]:
    """The call, given up with `TimeoutError` where it outlasts the seconds that it is given."""
    return lambda seconds: bounded(lambda: call(seconds), seconds + _GRACE)
