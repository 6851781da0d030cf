"""What only Kafka's reader does: a broker that has just started, or connections that break, played by a client that answers so."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from service.demo.broker import KafkaNode
from service.errors import TransportUnavailable
from service.transport.interface import Isolation, Partition, TopicDescription
from service.transport.kafka import KafkaTransport
from service.transport.kafka.configuration import KafkaProperties
from service.transport.kafka.reader import KafkaReader
from tests.needs import require_broker

WHERE = Partition("in", 2)


class Restarted:
    """The consumer's part that is asked for watermarks; knows no partition the first few times."""

    def __init__(self, consumer: Consumer, error: int, times: int) -> None:
        self._consumer = consumer
        self._error = error
        self.left = times

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        if self.left:
            self.left -= 1
            raise KafkaException(KafkaError(self._error))
        return 3, 7

    def __getattr__(self, name: str) -> object:
        return getattr(self._consumer, name)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> KafkaReader:
    monkeypatch.setattr("service.transport.kafka.patience.PAUSE", 0.01)
    return KafkaReader(KafkaProperties({"bootstrap.servers": "127.0.0.1:1"}), Isolation.READ_UNCOMMITTED)


@pytest.mark.parametrize(
    "error",
    [
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError._TRANSPORT,
        KafkaError._DESTROY,
        KafkaError._DESTROY_BROKER,
    ],
)
def test_what_passes_is_asked_again(reader: KafkaReader, error: int) -> None:
    reader._consumer = Restarted(reader._consumer, error, times=3)
    assert reader.watermarks(WHERE, timeout=10.0) == (3, 7)


def test_a_broker_that_cuts_every_connection_is_an_error(reader: KafkaReader) -> None:
    reader._consumer = Restarted(reader._consumer, KafkaError._DESTROY, times=10**6)
    with pytest.raises(TransportUnavailable, match=r"in\[2\]: no answer from 127.0.0.1:1"):
        reader.watermarks(WHERE, timeout=0.1)


def test_a_partition_that_nobody_knows_is_an_error(reader: KafkaReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.transport.kafka.reader._GRACE", 0.05)
    reader._consumer = Restarted(reader._consumer, KafkaError._UNKNOWN_PARTITION, times=10**6)
    with pytest.raises(TransportUnavailable, match=r"there is no partition in\[2\]"):
        reader.watermarks(WHERE, timeout=10.0)


def test_a_client_that_does_not_answer_is_replaced(reader: KafkaReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.transport.kafka.reader._PATIENCE", 0.2)
    lost = Restarted(reader._consumer, KafkaError._TRANSPORT, times=10**6)
    reader._consumer = lost
    for _ in range(2):
        with pytest.raises(TransportUnavailable):
            reader.watermarks(WHERE, timeout=0.15)
        assert reader._consumer is lost
    monkeypatch.setattr(reader, "_connect", lambda: Restarted(lost, KafkaError._TRANSPORT, times=1))

    assert reader.watermarks(WHERE, timeout=10.0) == (3, 7)


def test_an_answer_makes_up_for_what_was_waited_before(reader: KafkaReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.transport.kafka.reader._PATIENCE", 0.2)
    slow = Restarted(reader._consumer, KafkaError._TRANSPORT, times=10**6)
    reader._consumer = slow
    for _ in range(3):
        slow.left = 10**6
        with pytest.raises(TransportUnavailable):
            reader.watermarks(WHERE, timeout=0.15)
        slow.left = 0
        assert reader.watermarks(WHERE, timeout=0.15) == (3, 7)
    assert reader._consumer is slow


@pytest.mark.broker
def test_a_reader_outlives_a_cluster_without_brokers() -> None:
    """A broker whose heartbeats come late is no broker to its cluster for two of every eight seconds. A client of librdkafka's that
    asks for watermarks then finds none ever after."""
    require_broker()
    with KafkaNode({"broker.heartbeat.interval.ms": "8000", "broker.session.timeout.ms": "6000"}) as node:
        transport, partition = KafkaTransport({"bootstrap.servers": node.bootstrap}), Partition("in", 0)
        transport.admin().create([TopicDescription("in", 1)], 30.0)
        reader = transport.reader()
        ends, answered, longest = time.monotonic() + 60.0, time.monotonic(), 0.0
        while longest < 4.0 and time.monotonic() < ends:
            with suppress(TransportUnavailable):
                assert reader.watermarks(partition, 1.0) == (0, 0)
                longest = max(longest, time.monotonic() - answered)
                answered = time.monotonic()
        reader.close()
    assert longest >= 4.0, "it never lost its brokers, or never found them again"
