"""What only Kafka's reader does: a broker that has just started, or connections that break, played by a client that answers so."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from service.errors import TransportUnavailable
from service.transport.interface import Isolation, Partition
from service.transport.kafka.configuration import KafkaProperties
from service.transport.kafka.reader import KafkaReader

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
