"""Records that would stop the service for good, not by what they hold but by what becomes of them."""

from __future__ import annotations

from typing import cast

import pytest
from confluent_kafka import Producer

from service.codec import Reason, Refusal
from service.epoch import Epoch, Topics
from service.transport.interface import Headers, RecordBatch, Sink
from tests.applications import chunk
from tests.cluster import Cluster, applications, audited, letters


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(applications())
    cluster.start("one")
    return cluster


def test_a_key_that_looks_like_the_services_own_harms_nobody(cluster: Cluster) -> None:
    """Its snapshot, or its end, would stand among the notes that a restart reads."""
    for key in (b"\x00penstock.refused.nothing", b"\x00penstock.attempt", b"a"):
        cluster.produce(key, 4)
        cluster.publish(key, None)
        cluster.produce(key, 4)
    cluster.work()
    cluster.now += 3.0
    cluster.work()
    cluster.publish(b"\x00penstock.refused.nothing", None)
    cluster.work()
    cluster.crash("one")
    cluster.start("one")
    cluster.produce(b"a", 4)
    cluster.work()
    assert [reason for _, reason in letters(cluster)] == [b"reserved_key"] * 7
    assert audited(cluster) == 3


def test_a_dead_letter_is_never_too_large_for_its_topic(cluster: Cluster) -> None:
    """Kafka's client refuses what exceeds a million bytes, and then the record would stop the service for good."""
    cluster.publish(b"k" * 200_000, b"{" + b" " * 840_000)
    cluster.publish(b"k" * 990_000, b"{")
    cluster.publish(b"k" * 2000, b"{" + b" " * 890_000)
    cluster.work()
    found = cluster.read("app.dead-letters")
    sizes = [
        sum(map(len, (key or b"", value or b""))) + sum(len(n) + len(v or b"") + 10 for n, v in h.items())
        for key, value, h in found
    ]
    assert max(sizes) < 980_000
    assert [(h.get("penstock.key_bytes"), h.get("penstock.value_bytes")) for _, _, h in found] == [
        (b"200000", None),
        (b"990000", None),
        (None, None),
    ]
    assert audited(cluster) == 0


def test_headers_are_kept_for_the_dead_letter_and_mean_nothing_else(cluster: Cluster) -> None:
    many: Headers = [("traceparent", b"00-not-a-trace"), *[(f"header-{number}", b"\xff\x00") for number in range(500)]]
    for value in (chunk(cluster.now * 1000, 5, seed=1), b"{", None):
        cluster.log.append("in", value, b"a", None, many)
    cluster.log.append("in", b"{", b"a", None, [("large", bytes(60_000))])
    cluster.work()
    assert audited(cluster) == 1
    kept, large = (headers for _, _, headers in cluster.read("app.dead-letters"))
    assert [(name, content) for name, content in kept.items() if not name.startswith("penstock.")] == many
    assert "large" not in large
    assert large["penstock.headers_bytes"] == b"60009"


LARGEST = 900_000 // 20  # bytes of headers, as they are in the log


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ([("h", None)] * 44_000, False),
        ([("", None)] * 44_000, False),
        ([("h", b"")] * (LARGEST // 3 + 1), False),
        ([("h", b"")] * (LARGEST // 3), True),
        ([("\u6c34" * 20_000, b"")], False),
        ([("h", bytes(LARGEST - 5))], True),
        ([("h", bytes(LARGEST - 4))], False),
        ([("h" * 63, bytes(64))] * (LARGEST // 130), True),
        ([("h" * 63, bytes(64))] * (LARGEST // 130 + 1), False),
    ],
    ids=lambda value: f"{len(value)} of {len(value[0][0])}" if isinstance(value, list) else str(value),
)
def test_kafkas_client_takes_the_largest_dead_letter(headers: Headers, kept: bool) -> None:
    """It counts the length before each name and content, too."""
    record = RecordBatch("t" * 249, 0, [0], [0], [bytes(LARGEST)], [bytes(900_000)], headers=lambda row: list(headers))
    client = Client()
    epoch = Epoch(cast(Sink, client), Topics("out", "app.dead-letters", "app.snapshots"))
    epoch.dead_letter(record, 0, Refusal(Reason.STEP_FAILED, "\u6c34" * 600))
    assert (headers[0] in client.headers) is kept


class Client:
    """As much of a sink as a dead letter needs. librdkafka refuses what is too large before it looks for a broker."""

    def __init__(self) -> None:
        self._producer = Producer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0})
        self.headers: Headers = []

    def produce(self, topic: str, value: bytes | None, key: bytes | None, headers: Headers) -> None:
        self._producer.produce(topic, value, key, headers=headers)
        self._producer.purge()
        self.headers = headers


def test_times_within_a_stream_change_no_output(cluster: Cluster) -> None:
    """Samples are fed in the order in which they come, whatever their times: earlier ones, the same again, a gap of a day."""
    now = int(cluster.now * 1000)
    times = [now, now + 5, now - 60_000, now - 60_000, now + 86_400_000]
    for number, time in enumerate(times):
        cluster.publish(b"a", chunk(time, 5, seed=min(number, 2)))
    cluster.work()
    assert audited(cluster) == 5
    found = cluster.predictions()
    assert [prediction["index"] for prediction in found] == [0, 5, 10, 15, 20]
    assert [prediction["t"] for prediction in found] == times
