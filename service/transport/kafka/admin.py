"""Topics, as they are and as they should be; and records outside transactions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from service.errors import EpochAborted, OperatorActionRequired, PenstockError, TransportUnavailable
from service.transport.interface import TopicDescription
from service.transport.kafka.configuration import KafkaProperties, client
from service.transport.kafka.errors import MISSING, Trouble, delivery_error, reason
from service.transport.kafka.patience import PASSING, patiently

_SETTINGS = (
    "cleanup.policy",
    "retention.ms",
    "retention.bytes",
    "delete.retention.ms",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "max.compaction.lag.ms",
    "segment.bytes",
    "segment.ms",
    "max.message.bytes",
    "message.timestamp.type",
    "min.insync.replicas",
)

_NO_ID = str(Uuid(0, 0))
"""What a broker that gives topics no ids is taken to have said."""

_NOT_TOLD = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION}
"""Who asks for a topic's id has no right to know, or asks an old broker."""

_LOOK_AGAIN = 0.02  # seconds


class KafkaAdmin:
    """Implements `Admin`."""

    def __init__(self, properties: KafkaProperties) -> None:
        self._trouble = Trouble(properties.bootstrap)
        self._admin = client(AdminClient, properties.admin(), error_cb=self._trouble)

    def describe(self, topics: Sequence[str], timeout: float) -> dict[str, TopicDescription | None]:
        known = self._known(timeout)
        here = [topic for topic in topics if topic in known]
        settings = self._settings(here, timeout)
        return {
            topic: TopicDescription(
                name=topic,
                partitions=len(known[topic].partitions),
                config=settings[topic],
                replication=min((len(each.replicas) for each in known[topic].partitions.values()), default=None),
            )
            if topic in settings
            else None
            for topic in topics
        }

    def identity(self, topic: str, timeout: float) -> str | None:
        def ask(left: float) -> str:
            return str(self._admin.describe_topics(TopicCollection([topic]), request_timeout=left)[topic].result().topic_id)

        try:
            found = patiently(ask, timeout, lambda code: code in PASSING or code in MISSING)
        except KafkaException as error:
            if reason(error).code() in _NOT_TOLD:
                return None
            raise self._unavailable(f"the id of topic {topic!r}", error) from None
        return None if found == _NO_ID else found

    def create(self, topics: Sequence[TopicDescription], timeout: float) -> None:
        once = {topic.name: topic for topic in topics}.values()  # a name given twice crashes confluent_kafka
        wanted = [NewTopic(topic.name, topic.partitions, topic.replication or -1, config=dict(topic.config)) for topic in once]
        if not wanted:
            return
        for topic, created in self._admin.create_topics(wanted, operation_timeout=timeout, request_timeout=timeout).items():
            try:
                created.result()
            except KafkaException as error:
                code = reason(error).code()
                if code == KafkaError._TIMED_OUT or code in PASSING:
                    raise self._unavailable(f"creating topic {topic!r}", error) from None
                if code != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise OperatorActionRequired(f"the broker refuses to create topic {topic!r}: {reason(error).str()}") from None
        self._wait_until_known({topic.name for topic in topics}, timeout)

    def _known(self, timeout: float) -> Mapping[str, Any]:
        try:
            # The whole list, since asking for one topic creates it where the broker is set to do so.
            return patiently(lambda left: self._admin.list_topics(timeout=left).topics, timeout)
        except KafkaException as error:
            raise self._unavailable("topics", error) from None

    def _wait_until_known(self, topics: set[str], timeout: float) -> None:
        # The controller has made them; the brokers learn of them a little later.
        deadline = time.monotonic() + timeout
        while missing := topics.difference(self._known(timeout)):
            if time.monotonic() > deadline:
                raise TransportUnavailable(f"topics {sorted(missing)} were made, but no broker knows them after {timeout:.1f} s")
            time.sleep(_LOOK_AGAIN)

    def _settings(self, topics: Sequence[str], timeout: float) -> dict[str, dict[str, str]]:
        """The settings of each topic; none of a topic whose settings may not be read."""
        if not topics:
            return {}

        def ask(left: float) -> dict[str, dict[str, str]]:
            resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
            found: dict[str, dict[str, str]] = {}
            for resource, answer in self._admin.describe_configs(resources, request_timeout=left).items():
                try:
                    entries = answer.result()
                except KafkaException as error:
                    if reason(error).code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                        raise
                    entries = {}
                found[resource.name] = {name: entries[name].value for name in _SETTINGS if name in entries}
            return found

        try:
            return patiently(ask, timeout)
        except KafkaException as error:
            raise self._unavailable(f"settings of topics {', '.join(map(repr, topics))}", error) from None

    def _unavailable(self, what: str, error: KafkaException) -> TransportUnavailable:
        self._admin.poll(0)
        return self._trouble.unavailable(what, reason(error))


class KafkaPublisher:
    """Implements `Publisher`."""

    def __init__(self, properties: KafkaProperties) -> None:
        self._properties = properties
        self._trouble = Trouble(properties.bootstrap)
        self._producer = self._connect()
        self._send_error: PenstockError | None = None

    def publish(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> None:
        arguments: dict[str, Any] = {} if partition is None else {"partition": partition}
        if timestamp is not None:
            arguments["timestamp"] = timestamp
        while True:
            try:
                self._producer.produce(topic, value, key, **arguments)
                break
            except BufferError:
                self._producer.poll(0.1)
                self._check()
            except KafkaException as error:
                raise (delivery_error(reason(error), topic) or error) from None
        self._producer.poll(0)

    def flush(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        waiting = self._producer.flush(timeout)
        self._check()
        if waiting and time.monotonic() >= deadline:
            # A client may have lost its brokers for good (docs/adr/0031-readers-are-replaced.md).
            self._producer.purge(in_queue=True, in_flight=True, blocking=False)
            self._producer = self._connect()
            error = KafkaError(KafkaError._TIMED_OUT)
            raise self._trouble.unavailable(f"{waiting} records are not acknowledged", error)

    def _connect(self) -> Any:
        return client(Producer, self._properties.idempotent(), error_cb=self._trouble, on_delivery=self._on_failed_delivery)

    def _check(self) -> None:
        error, self._send_error = self._send_error, None
        if isinstance(error, EpochAborted):  # there is no epoch here; it may go better later
            raise TransportUnavailable(str(error)) from error
        if error is not None:
            raise error

    def _on_failed_delivery(self, error: KafkaError, message: Any) -> None:
        self._send_error = self._send_error or delivery_error(error, message.topic())
