"""What a sink makes of a client that does not come back; no broker is needed for that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import KafkaError

from service.errors import OutcomeUnknown, PenstockError, TransportUnavailable
from service.transport.interface import Committed, Partition
from service.transport.kafka.configuration import KafkaProperties
from service.transport.kafka.group import KafkaToken
from service.transport.kafka.sink import KafkaSink

JOINED = KafkaToken(b"CGMDv2:" + (1).to_bytes(4, "little"))


class Stuck:
    """A producer whose call named `where` never returns, whatever timeout it is given."""

    def __init__(self, where: str) -> None:
        self.let_go = threading.Event()
        self._where = where

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*_: object) -> int:
            if name == self._where:
                self.let_go.wait()
            return 0

        return call


@pytest.fixture
def sinks() -> Iterator[Callable[[str], KafkaSink]]:
    stuck: list[Stuck] = []

    def made(where: str) -> KafkaSink:
        sink = KafkaSink(KafkaProperties({"bootstrap.servers": "127.0.0.1:1"}), "writer", 1.0)
        stuck.append(Stuck(where))
        sink._producer = stuck[-1]
        return sink

    yield made
    for producer in stuck:
        producer.let_go.set()


@pytest.mark.parametrize(
    ("where", "call", "error"),
    [
        ("init_transactions", lambda sink: sink.open(0.1), TransportUnavailable),
        ("commit_transaction", lambda sink: sink.commit(0.1), OutcomeUnknown),
        ("abort_transaction", lambda sink: sink.abort(0.1), OutcomeUnknown),
        ("send_offsets_to_transaction", lambda sink: sink.send_offsets({Partition("in", 0): Committed(1)}, JOINED), OutcomeUnknown),
    ],
)
def test_a_call_that_never_returns_is_given_up(
    sinks: Callable[[str], KafkaSink], where: str, call: Callable[[KafkaSink], None], error: type[PenstockError]
) -> None:
    """The loop goes on: a worker that stood still would be expelled from its group and say nothing."""
    sink = sinks(where)
    with pytest.raises(error):
        call(sink)
    if error is OutcomeUnknown:
        with pytest.raises(OutcomeUnknown):
            sink.begin()


def test_a_failure_that_is_reported_late_does_not_fail_the_next_transaction(sinks: Callable[[str], KafkaSink]) -> None:
    """It concerns a record of a transaction that has ended; nobody would ever take it back."""
    sink = sinks("nothing")
    late = [KafkaError(KafkaError._MSG_TIMED_OUT)]

    def poll(_: float) -> None:
        if late:
            sink._on_failed_delivery(late.pop(), Record())

    sink._producer.poll = poll
    sink.begin()
    sink.produce("out", b"value")
    assert not late


class Record:
    def topic(self) -> str:
        return "out"
