"""Every contract test runs on the in-memory log and on Kafka; those about groups on both of Kafka's group protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from service.demo.broker import KafkaNode
from tests.transport.cluster import Cluster, KafkaCluster, Member, MemoryCluster

KAFKA = pytest.param("classic", marks=pytest.mark.broker, id="kafka")
KIP_848 = pytest.param("consumer", marks=pytest.mark.broker, id="kafka-kip848")


@pytest.fixture(params=["memory", KAFKA])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return _cluster(request)


@pytest.fixture(params=["memory", KAFKA, KIP_848])
def any_cluster(request: pytest.FixtureRequest) -> Cluster:
    return _cluster(request)


@pytest.fixture
def kafka_cluster(kafka: KafkaNode) -> KafkaCluster:
    return KafkaCluster(kafka)


@pytest.fixture
def members() -> Iterator[Callable[..., Member]]:
    """Makes group members that are closed at the end, whatever happens."""
    made: list[Member] = []

    def make(*arguments: object, **settings: object) -> Member:
        made.append(Member(*arguments, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for member in made:
        member.follower.on_revoked = lambda partitions: None
        member.source.close()


def _cluster(request: pytest.FixtureRequest) -> Cluster:
    if request.param == "memory":
        return MemoryCluster()
    return KafkaCluster(request.getfixturevalue("kafka"), request.param)
