"""What librdkafka's errors mean for penstock: each becomes an error named by how one recovers."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from service.errors import (
    EpochAborted,
    Fenced,
    OperatorActionRequired,
    OutcomeUnknown,
    PenstockError,
    TransportUnavailable,
)

_FENCED_PRODUCER = {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}
MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
}
_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}
OUTSIDE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


class Trouble:
    """Remembers what last went wrong with a connection, since a call that times out does not say it."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._last = ""

    def __call__(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last = error.str()

    def unavailable(self, what: str, error: KafkaError) -> TransportUnavailable:
        """The error for a call that got no answer."""
        return TransportUnavailable(
            f"{what}: no answer from {self._bootstrap} ({self._last or error.str()}). Is a broker running there?"
        )


def reason(error: KafkaException) -> KafkaError:
    """The error inside the exception."""
    found: KafkaError = error.args[0]
    return found


def transaction_error(error: KafkaError, what: str, age: float, timeout: float) -> PenstockError:
    """For an error of a transactional call that is not to be retried, `age` seconds after the transaction began.

    A transaction that has timed out and one whose producer was taken over give the same error; the age tells them apart.
    """
    if error.code() in _FENCED_PRODUCER:
        if age > timeout:
            return OutcomeUnknown(f"{what}: the transaction took {age:.1f} s, longer than its timeout of {timeout:.1f} s")
        return Fenced(
            f"{what}: another process writes under the same transactional id; give each an `instance` of its own ({error.str()})"
        )
    if error.code() in _REFUSED:
        return TransportUnavailable(f"{what}: the broker refuses: {error.str()}")
    if error.txn_requires_abort() or error.code() == KafkaError._STATE:
        return EpochAborted(f"{what}: {error.str()}")
    return OutcomeUnknown(f"{what}: {error.str()}")


def delivery_error(error: KafkaError, topic: str) -> PenstockError | None:
    """For a record that was refused at once or not delivered; None where an abort threw it away."""
    if error.code() in _PURGED:
        return None
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return OperatorActionRequired(
            f"a record for {topic!r} is too large; raise kafka.message.max.bytes, and max.message.bytes of the topic"
        )
    if error.code() in MISSING:
        return TransportUnavailable(f"there is no topic {topic!r} (or no such partition of it) to write to; create it")
    if error.code() in _REFUSED:
        return TransportUnavailable(f"the broker refuses records for {topic!r}: {error.str()}")
    return EpochAborted(f"a record for {topic!r} was not delivered: {error.str()}")


def source_error(error: KafkaError, topic: str | None) -> PenstockError | None:
    """For an error among consumed records; None where librdkafka goes on by itself."""
    if instance_taken(error):
        return Fenced(
            f"another process is a member of the group under this instance name; give each an `instance` of its own ({error.str()})"
        )
    if error.code() in MISSING:
        return TransportUnavailable(f"there is no topic {topic!r} to read; create it")
    if refused(error):
        return TransportUnavailable(f"the broker refuses: {error.str()}")
    return None


def refused(error: KafkaError) -> bool:
    """Whether a consumer will get no further with this client: rights that it lacks, or an error that librdkafka calls fatal, as
    when the broker does not speak the group's protocol, or the group is full."""
    if instance_taken(error):
        return False
    return bool(error.code() in _REFUSED or error.fatal() or error.code() == KafkaError._FATAL)


def instance_taken(error: KafkaError) -> bool:
    """Whether the group knows another process under this instance name."""
    return _means(error, KafkaError.FENCED_INSTANCE_ID)


def instance_in_use(error: KafkaError) -> bool:
    """Whether the group still counts with an earlier process of this instance name (KIP-848), until its session ends."""
    return _means(error, KafkaError.UNRELEASED_INSTANCE_ID)


def _means(error: KafkaError, code: int) -> bool:
    # A consumer's fatal error has a code that says only that, and tells the cause in words.
    return error.code() == code or (error.code() == KafkaError._FATAL and KafkaError(code).str() in error.str())
