"""Records that would stop the service for good, not by what they hold but by what becomes of them."""

from __future__ import annotations

import pytest

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
