"""Rows 12, 14 and 15: what contradicts the log is a clear error within ten seconds, and nothing is written."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, ResourceType

from service.app import Application
from service.audit.read import _published
from service.config import load
from service.extent import EVERYTHING
from service.transport.kafka import KafkaTransport
from service.worker import Worker
from tests.faults.conftest import Refuses, Scenes, Stage
from tests.faults.scene import PARTITIONS, Scene

pytestmark = pytest.mark.broker


@pytest.fixture
def admin(stage: Stage) -> AdminClient:
    return AdminClient({"bootstrap.servers": stage.node.bootstrap})


def stopped(play: Scene) -> None:
    """Some work, and a clean stop. Members are not static, so the group is empty at once."""
    play.publish(200)
    worker = play.worker()
    play.work_off(worker)
    play.leave(worker)


def done(futures: dict[Any, Any]) -> None:
    for future in futures.values():
        future.result(timeout=10)


def move(admin: AdminClient, play: Scene, offset: int, metadata: str | None = None) -> None:
    """All committed offsets, as another tool would."""
    places = [TopicPartition(*place, offset, metadata) if metadata else TopicPartition(*place, offset) for place in play.inputs]
    done(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(play.name, places)]))


def test_a_committed_offset_below_the_log(scenes: Scenes, refused: Refuses, admin: AdminClient) -> None:
    with scenes(static=False) as play:
        stopped(play)
        play.publish(200)
        reader = play.transport.reader()
        ends = [TopicPartition(*place, reader.watermarks(place, 10.0)[1]) for place in play.inputs]
        reader.close()
        done(admin.delete_records(ends))
        refused(play, 12, "committed offset below the log start", "below the log's first offset")


def test_a_replay_range_that_retention_has_eaten(scenes: Scenes, refused: Refuses, admin: AdminClient) -> None:
    with scenes(static=False) as play:
        play.publish(200)
        worker = play.worker()
        play.work_off(worker)
        worker.close()  # without finishing: streams stay dirty
        starts = [TopicPartition(*place, committed.offset) for place, committed in play.committed().items() if committed]
        done(admin.delete_records(starts))
        refused(play, 12, "replay range below the log start", "must be replayed, but the log begins at")


def test_offsets_that_are_gone(scenes: Scenes, refused: Refuses, admin: AdminClient) -> None:
    with scenes(static=False) as play:
        stopped(play)
        done(admin.delete_consumer_groups([play.name]))
        refused(play, 15, "committed offsets gone", "no committed offset")


def test_offsets_that_another_tool_has_moved(scenes: Scenes, refused: Refuses, admin: AdminClient) -> None:
    with scenes(static=False) as play:
        stopped(play)
        move(admin, play, 3)
        refused(play, 15, "offsets reset without metadata", "carries no metadata")


def test_offsets_above_the_end(scenes: Scenes, refused: Refuses, admin: AdminClient) -> None:
    with scenes(static=False) as play:
        stopped(play)
        metadata = next(committed.metadata for committed in play.committed().values() if committed)
        move(admin, play, 1_000_000, metadata)
        refused(play, 15, "committed offset above the log end", "above the log's end")


def test_partitions_that_were_added(scenes: Scenes, refused: Refuses, admin: AdminClient) -> None:
    with scenes(static=False) as play:
        stopped(play)
        for topic in (play.config.input.topic, play.config.snapshot_topic):
            done(admin.create_partitions([NewPartitions(topic, PARTITIONS + 1)]))
        refused(play, 15, "partitions added to the input", f"had {PARTITIONS} when offsets were committed")


def test_a_snapshot_topic_that_is_not_compacted(scenes: Scenes, refused: Refuses, admin: AdminClient) -> None:
    with scenes(static=False) as play:
        stopped(play)
        policy = ConfigEntry("cleanup.policy", "compact,delete", incremental_operation=AlterConfigOpType.SET)
        changed = ConfigResource(ResourceType.TOPIC, play.config.snapshot_topic, incremental_configs=[policy])
        done(admin.incremental_alter_configs([changed]))
        refused(play, 15, "snapshot topic not only compacted", "must be exactly compact")


def another(play: Scene, change: str) -> Application:
    """The application with other weights, or with another rate of its samples."""
    config = load(play.path_of(seed=2)) if change == "weights" else play.config
    if change == "decoding":
        config = replace_rate(config)
    return Application.from_config(config)


def replace_rate(config: Any) -> Any:
    [source] = config.inputs
    return config.model_copy(update={"inputs": (source.model_copy(update={"rate": 2000.0}),)})


def started(play: Scene, application: Application, accept: bool = False) -> Worker:
    worker = application.worker(KafkaTransport(play.config.kafka), accept_fingerprint=accept, longest_poll=0.02)
    worker.open()
    return play.adopt(worker)


@pytest.mark.parametrize("change", ["weights", "decoding"])
def test_another_program(scenes: Scenes, refused: Refuses, change: str) -> None:
    """After a clean stop it goes on; after a kill it is refused, unless the operator accepts it, which the log and the committed
    metadata then say. Its values are other ones, so they are not judged; who gets them, and how often, is."""
    with scenes(static=False, ends=0.0) as play:
        stopped(play)
        other = another(play, change)
        assert other.fingerprint != play.application.fingerprint
        play.publish(200)
        worker = started(play, other)
        play.work_off(worker)
        play.leave(worker)
        stopped(play)
        play.publish(200)
        worker = play.worker()
        play.work_off(worker)
        play.close()  # a leave without a clean stop: streams are dirty
        refused(play, 14, f"other {change}, and something to replay", "processed by another program", lambda: started(play, other))
        play.publish(200)
        worker = started(play, other, accept=True)
        play.work_off(worker)
        play.leave(worker)
        committed = [orjson.loads(found.metadata)["fingerprint"] for found in play.committed().values() if found]
        assert set(committed) == {other.fingerprint}
        published = _published(play.application, play.transport.reader(), EVERYTHING).found
        answered = [(prediction.partition, prediction.offset) for prediction in published]
        assert sorted(answered) == sorted(places(play)), "each record completes outputs, and each is answered once"


def places(play: Scene) -> list[tuple[int, int]]:
    """Partition and offset of every input record."""
    reader = play.transport.reader()
    found = []
    for place in play.inputs:
        low, high = reader.watermarks(place, 10.0)
        found += [(place.partition, offset) for batch in reader.read(place, low, high, 10.0) for offset in batch.offsets]
    reader.close()
    return found
