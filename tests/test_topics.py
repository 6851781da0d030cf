"""What is asked of the application's topics, at start and by `penstock topics`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from service.app import check_topics, required_topics, slow_settings
from service.commands.topics import topics
from service.transport.memory import MemoryLog, MemoryTransport
from tests.cluster import PARTITIONS, applications

CONFIG = applications()["one"].config


def made(**snapshots: str) -> MemoryTransport:
    """The topics of the application, with other settings of the snapshot topic; an empty one may not be read."""
    transport = MemoryTransport(MemoryLog())
    for topic in required_topics(CONFIG, PARTITIONS):
        if topic.name == CONFIG.snapshot_topic:
            settings = dict(topic.config) | {name.replace("_", "."): value for name, value in snapshots.items()}
            topic = replace(topic, config={name: value for name, value in settings.items() if value})
        transport.admin().create([topic], 1.0)
    return transport


def test_the_topics_as_they_are_made_are_right() -> None:
    assert slow_settings(CONFIG, made()) is None
    with capture_logs() as said:
        assert check_topics(CONFIG, made()) == PARTITIONS
    assert said == []


def test_settings_that_make_restarts_slow_are_told_with_the_way_to_change_them(capsys: pytest.CaptureFixture[str]) -> None:
    """As Kafka makes a compacted topic, where nobody says otherwise."""
    transport = made(
        segment_bytes="1073741824", segment_ms="604800000", min_cleanable_dirty_ratio="0.5", max_compaction_lag_ms=str(2**63 - 1)
    )
    with capture_logs() as said:
        assert check_topics(CONFIG, transport) == PARTITIONS
    [line] = said
    assert (line["event"], line["log_level"]) == ("snapshot_topic", "warning")
    assert "app.snapshots has min.cleanable.dirty.ratio=0.5, max.compaction.lag.ms=" in line["advice"]
    assert (
        "--bootstrap-server 127.0.0.1:1 --alter --entity-type topics --entity-name app.snapshots --add-config "
        "min.cleanable.dirty.ratio=0.1,max.compaction.lag.ms=600000,segment.bytes=8388608,segment.ms=60000"
    ) in line["advice"]
    topics(CONFIG, transport, create=False, partitions=1, replication=None)
    assert "segment.bytes=8388608" in capsys.readouterr().out.replace("\n", "")


def test_smaller_ones_are_nobodys_business_nor_are_those_that_may_not_be_read() -> None:
    assert slow_settings(CONFIG, made(segment_bytes="1048576", min_cleanable_dirty_ratio="0.01")) is None
    assert slow_settings(CONFIG, made(segment_bytes="", segment_ms="", max_compaction_lag_ms="")) is None
