"""Kafka's broker takes any bytes for the name of a header; Python's client gives out none of a record's headers then."""

from __future__ import annotations

import pytest

from service.demo.broker import KafkaNode
from service.transport.interface import Partition
from service.transport.kafka.columns import UNREADABLE
from tests.faults.scene import scene
from tests.transport.cluster import KafkaCluster, topic
from tests.transport.raw import publish

pytestmark = pytest.mark.broker


def test_headers_with_a_name_that_is_no_text_can_be_read_over_and_over(kafka: KafkaNode) -> None:
    """Python's interpreter calls what it has called often in another way, which does not notice that the client has failed."""
    cluster = KafkaCluster(kafka)
    where = Partition(topic(cluster), 0)
    text, bytes_ = [(b"first", b"content"), (b"last", b"content")], (b"\xff\xfe", b"content")
    publish(kafka.bootstrap, where.topic, b"a", b"plain", text)
    for _ in range(30):
        publish(kafka.bootstrap, where.topic, b"a", b"not", [text[0], bytes_, text[1]])
    reader = cluster.transport().reader()
    batches = list(reader.read(where, 0, 31, cluster.patience))
    found = [(value, batch.headers(row)) for batch in batches for row, value in enumerate(batch.values) for _ in range(2)]
    reader.close()
    assert found[:2] == [(b"plain", [("first", b"content"), ("last", b"content")])] * 2
    assert found[2:] == [(b"not", UNREADABLE)] * 60


def test_a_refused_record_with_such_a_header_becomes_a_dead_letter(kafka: KafkaNode) -> None:
    with scene(kafka.bootstrap) as play:
        publish(kafka.bootstrap, play.config.input.topic, b"key-007", b"{", [(b"\xff", b"content")])
        play.published += 1
        play.publish(200)
        process = play.process()
        play.wait_for(play.published, process)
        process.stop()
        report = play.verdict()
        assert report.passed(exact=True)
        reader = play.transport.reader()
        headers = [
            dict(batch.headers(row))
            for number in range(reader.partitions(play.config.dead_letters.topic, 10.0) or 0)
            for where in [Partition(play.config.dead_letters.topic, number)]
            for batch in reader.read(where, *reader.watermarks(where, 10.0), 10.0)
            for row in range(len(batch))
        ]
        reader.close()
        assert [found["penstock.headers_unreadable"] for found in headers] == [UNREADABLE[0][1]]
