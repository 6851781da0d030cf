"""Everything a worker and its surroundings ask of a Kafka cluster."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import libversion

from service.transport.interface import Isolation, Membership
from service.transport.kafka.admin import KafkaAdmin, KafkaPublisher
from service.transport.kafka.configuration import KafkaProperties, Property
from service.transport.kafka.reader import KafkaReader
from service.transport.kafka.sink import KafkaSink
from service.transport.kafka.source import KafkaSource


class KafkaTransport:
    """Implements `Transport` with librdkafka.

    `properties` are librdkafka's, `bootstrap.servers` among them. Raises `ConfigurationError` for those that penstock owns;
    unknown ones and wrong values raise it when the first client is made. Nothing is connected here.
    """

    def __init__(self, properties: Mapping[str, Property]) -> None:
        self._properties = KafkaProperties(properties)

    def source(self, membership: Membership) -> KafkaSource:
        return KafkaSource(self._properties, membership)

    def sink(self, transactional_id: str, transaction_timeout: float) -> KafkaSink:
        return KafkaSink(self._properties, transactional_id, transaction_timeout)

    def reader(self, isolation: Isolation = Isolation.READ_COMMITTED) -> KafkaReader:
        return KafkaReader(self._properties, isolation)

    def admin(self) -> KafkaAdmin:
        return KafkaAdmin(self._properties)

    def publisher(self) -> KafkaPublisher:
        return KafkaPublisher(self._properties)

    def describe(self) -> str:
        return f"kafka at {self._properties.bootstrap} (librdkafka {libversion()[0]})"
