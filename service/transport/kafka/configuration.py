"""librdkafka's properties: the user's, and those on which exactly-once rests and which penstock therefore sets itself."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from service.config import OWNED
from service.errors import ConfigurationError
from service.transport.interface import Isolation, Membership

Property = str | int | float | bool

_LOG = logging.getLogger("penstock.kafka")
_QUIET = 30.0  # seconds


class _Once(logging.Filter):
    """Lets a complaint of librdkafka's through once in `_QUIET` seconds: it repeats what it finds at every attempt."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        # Without what differs from one client and attempt to the next: `[rdkafka#consumer-2]`, `(after 3ms in state CONNECT)`.
        text, threads = re.subn(r"\[[^]]*\]|\(after [^)]*\)", "", record.getMessage())
        if not threads:
            return True
        now = time.monotonic()
        if now - self._said.get(text, -_QUIET) < _QUIET:
            return False
        self._said[text] = now
        return True


_LOG.addFilter(_Once())
_LOG.addHandler(logging.NullHandler())  # a program that configures no logging wants none of it

_CONSUMER_ONLY = frozenset(
    {
        "auto.commit.interval.ms",
        "check.crcs",
        "coordinator.query.interval.ms",
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "group.protocol",
        "group.protocol.type",
        "heartbeat.interval.ms",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "max.poll.records",
        "queued.max.messages.kbytes",
        "queued.min.messages",
    }
)
_PRODUCER_ONLY = frozenset(
    {
        "acks",
        "batch.num.messages",
        "batch.size",
        "compression.codec",
        "compression.level",
        "compression.type",
        "delivery.timeout.ms",
        "enable.gapless.guarantee",
        "linger.ms",
        "message.send.max.retries",
        "message.timeout.ms",
        "queue.buffering.backpressure.threshold",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "queue.buffering.max.ms",
        "queuing.strategy",
        "request.required.acks",
        "request.timeout.ms",
        "retries",
        "sticky.partitioning.linger.ms",
    }
)

_POLL_INTERVAL = 60.0
"""Seconds. Also how long the group waits for a member that has not rejoined; librdkafka's 300 are felt when a restarted broker has
forgotten to miss the dead (docs/exactly-once.md)."""

_CONSUMER_DEFAULTS: Mapping[str, Property] = {
    # A partition that starts or resumes waits for the fetch that is under way; the default of 500 ms is felt at every rebalance.
    "fetch.wait.max.ms": 100,
    "queued.min.messages": 50_000,
    "queued.max.messages.kbytes": 65_536,
    "fetch.message.max.bytes": 1_048_576,
    "receive.message.max.bytes": 104_857_600,
}
_PRODUCER_DEFAULTS: Mapping[str, Property] = {
    # A commit flushes at once whatever lingers, so lingering costs no latency and makes larger batches.
    "linger.ms": 20,
    "compression.type": "lz4",
    "topic.metadata.propagation.max.ms": 5_000,  # after this, a topic that nobody knows is missing
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 262_144,
}


class KafkaProperties:
    """The user's properties, checked, and the complete properties of each kind of client made from them.

    Raises `ConfigurationError` for a property that penstock owns, and without `bootstrap.servers`.
    """

    def __init__(self, properties: Mapping[str, Property]) -> None:
        for name in properties:
            if name in OWNED:
                raise ConfigurationError(f"kafka.{name}: penstock sets this property itself, because {OWNED[name]}; remove it")
        if not properties.get("bootstrap.servers"):
            raise ConfigurationError("kafka.bootstrap.servers: missing; name at least one broker as host:port")
        self._properties = dict(properties)

    @property
    def bootstrap(self) -> str:
        """The brokers' addresses, for messages."""
        return str(self._properties["bootstrap.servers"])

    @property
    def incremental(self) -> bool:
        """Whether the group protocol is KIP-848's, which changes assignments incrementally."""
        return self._properties.get("group.protocol") == "consumer"

    def member(self, membership: Membership) -> dict[str, Property]:
        """Properties of a group member."""
        own: dict[str, Property] = {
            "max.poll.interval.ms": int(max(_POLL_INTERVAL, membership.session_timeout) * 1000),
            **self._reading(Isolation.READ_COMMITTED),
            "group.id": membership.group,
            "enable.partition.eof": True,
            "client.id": membership.instance,
        }
        if membership.static:
            own["group.instance.id"] = membership.instance
        if self.incremental:
            # The broker decides the session timeout of this protocol.
            return own | {"group.remote.assignor": "range"}
        return own | {"partition.assignment.strategy": "range", "session.timeout.ms": int(membership.session_timeout * 1000)}

    def reader(self, isolation: Isolation) -> dict[str, Property]:
        """Properties of a consumer that assigns itself partitions. Its group is a name only: nothing is committed to it."""
        own = {**self._reading(isolation), "group.id": "penstock-reader", "enable.partition.eof": True}
        for name in ("group.protocol", "max.poll.interval.ms"):  # a group member's
            own.pop(name, None)
        # The next partition waits for the fetch at the end of the one before.
        return own | {"fetch.wait.max.ms": 10}

    def transactional(self, transactional_id: str, timeout: float) -> dict[str, Property]:
        """Properties of a transactional producer."""
        return self._writing() | {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": int(timeout * 1000),
            "delivery.report.only.error": True,
        }

    def idempotent(self) -> dict[str, Property]:
        """Properties of a producer outside transactions."""
        return self._writing() | {"enable.idempotence": True, "delivery.report.only.error": True}

    def admin(self) -> dict[str, Property]:
        """Properties of an administrative client."""
        return self._without(_CONSUMER_ONLY | _PRODUCER_ONLY)

    def _reading(self, isolation: Isolation) -> dict[str, Property]:
        return {
            **_CONSUMER_DEFAULTS,
            **self._without(_PRODUCER_ONLY),
            "isolation.level": isolation.value,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
        }

    def _writing(self) -> dict[str, Property]:
        return {**_PRODUCER_DEFAULTS, **self._without(_CONSUMER_ONLY), "partitioner": "murmur2_random"}

    def _without(self, names: frozenset[str]) -> dict[str, Property]:
        return {name: value for name, value in self._properties.items() if name not in names}


def client(kind: Callable[..., Any], properties: Mapping[str, Property], **callbacks: Callable[..., None]) -> Any:
    """Make a client of librdkafka's whose log goes to Python's. Raises `ConfigurationError` for a property it refuses."""
    try:
        return kind({**properties, **callbacks}, logger=_LOG)
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        if reason.code() == KafkaError._INVALID_ARG:
            raise ConfigurationError(f"kafka: {reason.str().strip()}") from None
        raise
