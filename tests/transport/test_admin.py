"""Topics are made as described, and described as they are; records outside transactions arrive."""

from __future__ import annotations

import pytest

from service.errors import OperatorActionRequired, TransportUnavailable
from service.transport.interface import Partition, TopicDescription
from tests.transport.cluster import Cluster, KafkaCluster, fresh, publish, topic, visible


def test_topics_are_described_as_they_were_made(cluster: Cluster) -> None:
    admin, plain, compact = cluster.transport().admin(), fresh("plain"), fresh("compact")
    admin.create([TopicDescription(plain, 3), TopicDescription(compact, 1, {"cleanup.policy": "compact"})], cluster.patience)
    found = admin.describe([plain, compact, "nobody-made-this"], cluster.patience)
    assert found["nobody-made-this"] is None
    assert found[plain] is not None
    assert found[compact] is not None
    assert (found[plain].name, found[plain].partitions) == (plain, 3)
    assert found[compact].config["cleanup.policy"] == "compact"


def test_creating_a_topic_that_exists_changes_nothing(cluster: Cluster) -> None:
    name = topic(cluster, 2)
    publish(cluster, Partition(name, 0), [b"here"])
    cluster.transport().admin().create([TopicDescription(name, 5)], cluster.patience)
    assert visible(cluster, Partition(name, 0)) == [b"here"]
    described = cluster.transport().admin().describe([name], cluster.patience)[name]
    assert described is not None
    assert described.partitions == 2


def test_nothing_to_create_or_describe_is_nothing_done(cluster: Cluster) -> None:
    admin = cluster.transport().admin()
    admin.create([], cluster.patience)
    assert admin.describe([], cluster.patience) == {}


@pytest.mark.broker
def test_what_the_broker_refuses_is_for_the_operator(kafka_cluster: KafkaCluster) -> None:
    with pytest.raises(OperatorActionRequired, match="replication"):
        kafka_cluster.transport().admin().create([TopicDescription(fresh("wide"), 1, replication=3)], kafka_cluster.patience)


def test_a_publisher_of_a_missing_topic_says_which(cluster: Cluster) -> None:
    publisher = cluster.transport().publisher()

    def publish_and_flush() -> None:
        publisher.publish("nobody-made-this", b"x", partition=0)
        publisher.flush(cluster.patience)

    with pytest.raises(TransportUnavailable, match="nobody-made-this"):
        publish_and_flush()
