"""What only Kafka's admin does: a connection that is cut while the settings of topics are asked for."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Uuid

from service.errors import TransportUnavailable
from service.transport.interface import TopicDescription
from service.transport.kafka.admin import KafkaAdmin, KafkaPublisher
from service.transport.kafka.configuration import KafkaProperties


class Cut:
    """The client's part that is asked; its connection is cut the first few times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def list_topics(self, timeout: float) -> Any:
        return SimpleNamespace(topics={"in": SimpleNamespace(partitions={0: SimpleNamespace(replicas=[1])})})

    def describe_configs(self, resources: list[Any], request_timeout: float) -> dict[Any, Future[Any]]:
        answer: Future[Any] = Future()
        if self.left:
            self.left -= 1
            answer.set_exception(KafkaException(KafkaError(KafkaError._TRANSPORT)))
        else:
            answer.set_result({"cleanup.policy": SimpleNamespace(value="compact")})
        return {resources[0]: answer}

    def describe_topics(self, topics: Any, request_timeout: float) -> dict[str, Future[Any]]:
        answer: Future[Any] = Future()
        if self.left:
            self.left -= 1
            answer.set_exception(KafkaException(KafkaError(KafkaError._TRANSPORT)))
        else:
            answer.set_result(SimpleNamespace(topic_id=Uuid(1, 2)))
        return {"in": answer}

    def poll(self, timeout: float) -> None:
        pass


@pytest.fixture
def admin() -> KafkaAdmin:
    return KafkaAdmin(KafkaProperties({"bootstrap.servers": "127.0.0.1:1"}))


def test_a_connection_that_is_cut_is_no_reason_not_to_start(admin: KafkaAdmin) -> None:
    admin._admin = Cut(times=3)
    assert admin.describe(["in"], timeout=10.0) == {"in": TopicDescription("in", 1, {"cleanup.policy": "compact"}, 1)}


def test_a_broker_that_cuts_every_connection_is_an_error(admin: KafkaAdmin) -> None:
    admin._admin = Cut(times=10**6)
    with pytest.raises(TransportUnavailable, match="settings of topics 'in': no answer"):
        admin.describe(["in"], timeout=0.1)


def test_a_start_waits_for_a_topics_id(admin: KafkaAdmin) -> None:
    """Whoever starts without it does not notice a topic that was deleted and made anew."""
    admin._admin = Cut(times=3)
    assert admin.identity("in", 10.0) == str(Uuid(1, 2))
    admin._admin = Cut(times=10**6)
    with pytest.raises(TransportUnavailable, match="the id of topic 'in': no answer"):
        admin.identity("in", 0.1)


class Refusing(Cut):
    def __init__(self, code: int) -> None:
        self.code = code

    def describe_topics(self, topics: Any, request_timeout: float) -> dict[str, Future[Any]]:
        answer: Future[Any] = Future()
        answer.set_exception(KafkaException(KafkaError(self.code)))
        return {"in": answer}


@pytest.mark.parametrize("code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._UNSUPPORTED_FEATURE])
def test_who_may_not_know_a_topics_id_starts_without(admin: KafkaAdmin, code: int) -> None:
    admin._admin = Refusing(code)
    assert admin.identity("in", 1.0) is None


@pytest.mark.parametrize("code", [KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._TIMED_OUT, KafkaError.UNKNOWN])
def test_no_other_error_is_taken_for_a_topic_without_an_id(admin: KafkaAdmin, code: int) -> None:
    admin._admin = Refusing(code)
    with pytest.raises(TransportUnavailable, match="the id of topic 'in'"):
        admin.identity("in", 0.1)


def test_a_publisher_says_that_a_record_has_not_come_through() -> None:
    """Not that an epoch is aborted: it has none."""
    publisher = KafkaPublisher(KafkaProperties({"bootstrap.servers": "127.0.0.1:1"}))
    publisher._on_failed_delivery(KafkaError(KafkaError._MSG_TIMED_OUT), SimpleNamespace(topic=lambda: "app.snapshots"))
    with pytest.raises(TransportUnavailable, match=r"app\.snapshots"):
        publisher.flush(1.0)


def test_a_publisher_that_hears_nothing_is_replaced() -> None:
    """Its client may have lost its brokers for good."""
    publisher = KafkaPublisher(KafkaProperties({"bootstrap.servers": "127.0.0.1:1"}))
    deaf = publisher._producer
    publisher.publish("in", b"1", partition=0)
    with pytest.raises(TransportUnavailable, match="1 records are not acknowledged"):
        publisher.flush(0.1)
    assert publisher._producer is not deaf
    publisher.flush(0.1)  # what nobody heard of has been given up
    deaf.flush(5.0)
    publisher.flush(0.1)  # and that is no news


@pytest.mark.parametrize(("told", "known"), [(Uuid(0, 0), None), (Uuid(1, 2), str(Uuid(1, 2)))])
def test_a_broker_that_gives_topics_no_ids_tells_none(admin: KafkaAdmin, told: Uuid, known: str | None) -> None:
    class Answering:
        def describe_topics(self, topics: Any, request_timeout: float) -> dict[str, Future[Any]]:
            answer: Future[Any] = Future()
            answer.set_result(SimpleNamespace(topic_id=told))
            return {"in": answer}

    admin._admin = Answering()
    assert admin.identity("in", 1.0) == known
