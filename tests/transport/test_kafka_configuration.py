"""Properties: the user's go through, penstock's own are refused, and every mistake is told before anything runs."""

from __future__ import annotations

import pytest

from service.errors import ConfigurationError, TransportUnavailable
from service.transport.interface import Isolation, Membership, Partition
from service.transport.kafka import KafkaTransport
from service.transport.kafka.configuration import KafkaProperties

SERVERS = {"bootstrap.servers": "127.0.0.1:1"}
MEMBER = Membership("pumps", "pumps-0", session_timeout=12.5)


@pytest.mark.parametrize(
    "name",
    [
        "isolation.level",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "transactional.id",
        "enable.idempotence",
        "group.id",
        "delivery.report.only.error",
        "auto.offset.reset",
        "partition.assignment.strategy",
        "partitioner",
    ],
)
def test_what_exactly_once_rests_on_cannot_be_set(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"kafka\.{name}: .* because .*; remove it"):
        KafkaTransport({**SERVERS, name: "anything"})


def test_without_a_broker_there_is_nothing_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"bootstrap\.servers"):
        KafkaTransport({})


def test_a_property_that_librdkafka_does_not_know_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"linger\.millis"):
        KafkaTransport({**SERVERS, "linger.millis": 5}).sink("pumps-0", 10.0)


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"security\.protocol"):
        KafkaTransport({**SERVERS, "security.protocol": "TSL"}).reader()


def test_a_member_reads_committed_records_and_commits_nothing_by_itself() -> None:
    made = KafkaProperties(SERVERS).member(MEMBER)
    assert made["isolation.level"] == "read_committed"
    assert made["enable.auto.commit"] is False
    assert made["enable.auto.offset.store"] is False
    assert made["auto.offset.reset"] == "error"
    assert made["partition.assignment.strategy"] == "range"
    assert (made["group.id"], made["group.instance.id"], made["session.timeout.ms"]) == ("pumps", "pumps-0", 12_500)


def test_a_group_waits_a_minute_for_a_member_unless_the_user_says_otherwise() -> None:
    assert KafkaProperties(SERVERS).member(MEMBER)["max.poll.interval.ms"] == 60_000
    assert KafkaProperties({**SERVERS, "max.poll.interval.ms": 7}).member(MEMBER)["max.poll.interval.ms"] == 7
    KafkaTransport({**SERVERS, "max.poll.interval.ms": 7_000}).reader().close()  # below its own session timeout, which is none
    patient = Membership("pumps", "pumps-0", session_timeout=90.0)
    assert KafkaProperties(SERVERS).member(patient)["max.poll.interval.ms"] == 90_000


def test_a_member_that_is_not_static_has_no_instance_name() -> None:
    assert "group.instance.id" not in KafkaProperties(SERVERS).member(Membership("pumps", "pumps-0", static=False))


def test_the_broker_assigns_by_range_too() -> None:
    made = KafkaProperties({**SERVERS, "group.protocol": "consumer"}).member(MEMBER)
    assert made["group.remote.assignor"] == "range"
    assert "partition.assignment.strategy" not in made
    assert "session.timeout.ms" not in made


def test_each_client_gets_the_properties_that_are_for_it() -> None:
    properties = KafkaProperties({**SERVERS, "linger.ms": 7, "fetch.min.bytes": 9, "sasl.username": "me"})
    sink, reader, admin = properties.transactional("pumps-0", 12.0), properties.reader(Isolation.READ_COMMITTED), properties.admin()
    assert (sink["linger.ms"], sink["transaction.timeout.ms"]) == (7, 12_000)
    assert reader["fetch.min.bytes"] == 9
    assert all(made["sasl.username"] == "me" for made in (sink, reader, admin))
    assert "fetch.min.bytes" not in sink
    assert "linger.ms" not in reader
    assert not {"linger.ms", "fetch.min.bytes"} & admin.keys()


def test_what_a_broker_may_send_at_once_is_capped() -> None:
    """Compressed records grow in the client."""
    for made in (KafkaProperties(SERVERS).member(MEMBER), KafkaProperties(SERVERS).reader(Isolation.READ_COMMITTED)):
        assert made["fetch.message.max.bytes"] == 1 << 20
        assert made["receive.message.max.bytes"] == 100 << 20
        assert made["queued.max.messages.kbytes"] == 64 << 10


def test_the_users_properties_win_over_defaults() -> None:
    assert KafkaProperties({**SERVERS, "compression.type": "zstd"}).idempotent()["compression.type"] == "zstd"


def test_what_is_asked_of_a_broker_that_is_not_there_fails_in_time_and_names_it() -> None:
    transport = KafkaTransport(SERVERS)
    reader, admin, sink = transport.reader(), transport.admin(), transport.sink("pumps-0", 10.0)
    for call in (
        lambda: reader.partitions("in", 0.3),
        lambda: reader.watermarks(Partition("in", 0), 0.3),
        lambda: admin.describe(["in"], 0.3),
        lambda: sink.open(0.3),
    ):
        with pytest.raises(TransportUnavailable, match=r"127\.0\.0\.1:1 .*Connection refused"):
            call()
    reader.close()


def test_the_description_says_where_the_broker_is() -> None:
    assert KafkaTransport(SERVERS).describe().startswith("kafka at 127.0.0.1:1 (librdkafka ")
