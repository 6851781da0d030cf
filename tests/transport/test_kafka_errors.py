"""librdkafka's errors become errors that are named by how one recovers."""

from __future__ import annotations

import sys

import pytest
from confluent_kafka import KafkaError

from service.errors import EpochAborted, Fenced, OperatorActionRequired, OutcomeUnknown, TransportUnavailable
from service.transport.kafka.errors import delivery_error, instance_in_use, instance_taken, source_error, transaction_error
from service.transport.kafka.group import KafkaToken


@pytest.mark.parametrize(
    ("error", "age", "expected"),
    [
        (KafkaError(KafkaError._FENCED), 1.0, Fenced),
        (KafkaError(KafkaError._FENCED), 11.0, OutcomeUnknown),
        (KafkaError(KafkaError.INVALID_PRODUCER_EPOCH), 1.0, Fenced),
        (KafkaError(KafkaError.PRODUCER_FENCED), 11.0, OutcomeUnknown),
        (KafkaError(KafkaError.UNKNOWN_MEMBER_ID, txn_requires_abort=True), 1.0, EpochAborted),
        (KafkaError(KafkaError._STATE), 1.0, EpochAborted),
        (KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, fatal=True), 1.0, TransportUnavailable),
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, txn_requires_abort=True), 1.0, TransportUnavailable),
        (KafkaError(KafkaError.INVALID_TXN_STATE, fatal=True), 1.0, OutcomeUnknown),
    ],
)
def test_an_error_in_a_transaction(error: KafkaError, age: float, expected: type[Exception]) -> None:
    assert type(transaction_error(error, "committing", age, timeout=10.0)) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, OperatorActionRequired),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, TransportUnavailable),
        (KafkaError._UNKNOWN_PARTITION, TransportUnavailable),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, TransportUnavailable),
        (KafkaError._MSG_TIMED_OUT, EpochAborted),
        (KafkaError._PURGE_QUEUE, type(None)),
        (KafkaError._PURGE_INFLIGHT, type(None)),
    ],
)
def test_a_record_that_was_not_delivered(code: int, expected: type[Exception]) -> None:
    assert type(delivery_error(KafkaError(code), "out")) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KafkaError(KafkaError.FENCED_INSTANCE_ID), Fenced),
        (KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), TransportUnavailable),
        (KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED), TransportUnavailable),
        (KafkaError(KafkaError._ALL_BROKERS_DOWN), type(None)),
        (KafkaError(KafkaError._TRANSPORT), type(None)),
        (KafkaError(KafkaError._MAX_POLL_EXCEEDED), type(None)),
    ],
)
def test_an_error_among_records(error: KafkaError, expected: type[Exception]) -> None:
    assert type(source_error(error, "in")) is expected


def test_the_cause_of_a_fatal_consumer_error_is_read_from_its_words() -> None:
    def fatal(code: int) -> KafkaError:
        return KafkaError(KafkaError._FATAL, f"Fatal error: {KafkaError(code).str()}: what happened")

    assert instance_taken(fatal(KafkaError.FENCED_INSTANCE_ID))
    assert instance_in_use(fatal(KafkaError.UNRELEASED_INSTANCE_ID))
    assert not instance_taken(fatal(KafkaError.UNRELEASED_INSTANCE_ID))
    assert type(source_error(fatal(KafkaError.FENCED_INSTANCE_ID), None)) is Fenced
    assert type(source_error(fatal(KafkaError.INVALID_GROUP_ID), None)) is TransportUnavailable


def test_group_metadata_tells_whether_its_member_has_joined() -> None:
    assert not KafkaToken(None).joined  # librdkafka has none for a member that is leaving
    assert not KafkaToken(b"CGMDv2:" + (-1).to_bytes(4, sys.byteorder, signed=True) + b"group\0\0").joined
    assert KafkaToken(b"CGMDv2:" + (7).to_bytes(4, sys.byteorder) + b"group\0member\0").joined
    with pytest.raises(RuntimeError, match="another form"):
        _ = KafkaToken(b"CGMDv3:" + bytes(8)).joined
