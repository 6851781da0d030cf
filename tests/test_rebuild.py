"""A damaged snapshot costs its key's replay, and nothing else; where the log does not reach back, it is a loud error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from service.errors import OperatorActionRequired, TransportUnavailable
from service.streaming import Program, Ragged
from service.transport.interface import Committed, Partition
from service.transport.memory.reader import MemoryReader
from tests.cluster import Cluster, Room, applications, audited, damage, letters, same_partition, with_room
from tests.faults.points import Abandon, Point, Trap
from tests.faults.states import wrong_states

KEYS = same_partition(4)
HERE = Partition("in", 0)


@pytest.fixture
def cluster(cluster: Cluster) -> Cluster:
    """One key has ended and begun again, then all were snapshotted, and some have sent since."""
    for key in KEYS:
        cluster.produce(key, 7)
    cluster.publish(KEYS[0], None)
    cluster.produce(KEYS[0], 6)
    cluster.work()
    return cluster


def snapshotted(cluster: Cluster) -> None:
    cluster.now += 3.0
    cluster.work()
    cluster.produce(KEYS[1], 5)
    cluster.work(turns=3)
    cluster.crash("one")


def goes_on(cluster: Cluster) -> int:
    cluster.start("one")
    for key in KEYS:
        cluster.produce(key, 9)
    cluster.work(turns=8)
    return audited(cluster)


def die_before_it_is_replaced(cluster: Cluster) -> None:
    cluster.start("one", Trap(Point.BEFORE_BEGIN, 1, Abandon()))
    for _ in range(6):
        if "one" in cluster.workers:
            cluster.turn("one")
    assert "one" not in cluster.workers


def begin_anew(cluster: Cluster) -> None:
    """A worker ends a key's stream and begins the next one; whose snapshot is damaged then."""
    cluster.start("one")
    cluster.publish(KEYS[0], None)
    cluster.produce(KEYS[0], 6)
    cluster.work()
    cluster.stop("one")
    assert damage(cluster, KEYS[0])


def whole(cluster: Cluster) -> bool:
    """Every state is right in the topic, so that nobody has to rebuild anything again."""
    cluster.stop("one")
    return wrong_states(cluster.applications["one"], cluster.transport) == []


@pytest.mark.parametrize("harm", ["blob", "header", "cut off", "nothing left"])
def test_the_key_is_rebuilt_and_the_others_go_on(cluster: Cluster, harm: str) -> None:
    snapshotted(cluster)
    damage(cluster, KEYS[0], harm)
    damage(cluster, KEYS[1], harm)
    before = cluster.log.partition(Partition("app.snapshots", 0)).end
    assert goes_on(cluster) == 10
    assert {KEYS[0], KEYS[1]} <= {key for key, _ in cluster.snapshots()[-before:]}
    assert whole(cluster)


@pytest.mark.parametrize("at_once", [3, 4, 5, 6, 7, 100])
def test_nothing_older_comes_back_in_its_place(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """The topic comes in parts: a snapshot of the stream before, in another part its tombstone and the damaged one."""
    cluster.stop("one")
    begin_anew(cluster)
    monkeypatch.setattr("service.transport.memory.reader._MAX_RECORDS", at_once)
    cluster.start("one")
    cluster.produce(KEYS[0], 9)
    cluster.work(turns=20)
    assert audited(cluster)


def test_nor_what_a_local_disk_still_has(tmp_path: Path) -> None:
    with_disk = applications(Room(), tmp_path)
    cluster = Cluster(with_disk)
    cluster.start("one")
    cluster.produce(KEYS[0], 7)
    cluster.work()
    cluster.stop("one")
    cluster.start("one")
    cluster.work()
    cluster.crash("one")
    cluster.applications = applications()  # on another machine
    begin_anew(cluster)
    cluster.applications = with_disk
    cluster.start("one")
    cluster.produce(KEYS[0], 9)
    cluster.work(turns=8)
    assert audited(cluster) == 3


def test_headers_of_refused_records_may_be_anything(cluster: Cluster) -> None:
    cluster.log.append("in", b"{", KEYS[1], None, [("trace", b"\xff\xfe"), ("penstock.partition", b"\xff")])
    cluster.work()
    cluster.stop("one")
    assert damage(cluster, KEYS[0])
    assert goes_on(cluster) == 9


@pytest.mark.parametrize("name", ["topic", "app"])
def test_dead_letters_of_others_are_theirs(cluster: Cluster, name: str) -> None:
    """In a topic that two applications share, one has refused the record of the same partition and offset of its own."""
    headers = {"topic": b"in", "app": b"app", "partition": b"0", "offset": b"%d" % 5, "error": b"step_failed"} | {name: b"another"}
    cluster.log.append("app.dead-letters", b"x", KEYS[0], 0, [(f"penstock.{name}", value) for name, value in headers.items()])
    cluster.log.append("app.dead-letters", b"x", KEYS[0], 0, [("no", b"letter")])
    cluster.work()
    cluster.stop("one")
    assert damage(cluster, KEYS[0])
    assert goes_on(cluster) == 9


def test_of_a_group_that_was_set_to_begin_later_what_came_before_stays_out() -> None:
    """Where the stream began cannot be read any more; it was not before the first record that was ever fed."""

    def published(harm: str) -> list[object]:
        cluster = Cluster(applications())
        for _ in range(4):
            cluster.produce(KEYS[0], 7)
        cluster.log.group("app").committed[HERE] = Committed(3, "")
        cluster.start("one")
        cluster.work()
        cluster.stop("one")
        assert not harm or damage(cluster, KEYS[0], harm)
        cluster.start("one")
        cluster.produce(KEYS[0], 9)
        cluster.work(turns=8)
        return [(prediction["stream"], prediction["y"]) for prediction in cluster.predictions()]

    assert published("header") == published("")


def test_dead_letters_that_cannot_be_read_for_a_while_are_waited_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another instance was killed in a transaction, and nobody reads beyond its letter until that times out."""
    cluster.stop("one")
    assert damage(cluster, KEYS[0])
    watermarks, asked = MemoryReader.watermarks, []

    def held_up(self: MemoryReader, partition: Partition, timeout: float) -> tuple[int, int]:
        if partition.topic == "app.dead-letters":
            asked.append(partition)
            if len(asked) < 4:
                cluster.now += timeout
                raise TransportUnavailable("an open transaction holds it up")
        return watermarks(self, partition, timeout)

    monkeypatch.setattr(MemoryReader, "watermarks", held_up)
    cluster.start("one")
    cluster.produce(KEYS[0], 9)
    cluster.work(turns=20)
    assert len(asked) == 4
    assert audited(cluster) == 6


def test_a_clean_stop_has_left_nothing_else_to_replay(cluster: Cluster) -> None:
    cluster.stop("one")
    damage(cluster, KEYS[2])
    assert goes_on(cluster) == 9
    worker = cluster.workers["one"]
    assert worker.metrics.registry.get_sample_value("penstock_replayed_records_total") == 1, "only its own record is fed again"
    assert whole(cluster)


def test_it_is_replaced_before_anything_else_can_happen(cluster: Cluster) -> None:
    """Without input too: the next commit is owed at once, and a local disk's mark could pass it otherwise."""
    snapshotted(cluster)
    damage(cluster, KEYS[2])
    cluster.start("one")
    cluster.turn("one")
    for _ in range(4):
        cluster.turn("one")  # no time passes
    cluster.crash("one")
    cluster.log.delete_before(HERE, 5)  # and the log need not reach back any more
    cluster.start("one")
    cluster.produce(KEYS[2], 9)
    cluster.work()
    assert len(cluster.predictions()) == 7


def test_a_death_while_it_is_rebuilt(cluster: Cluster) -> None:
    snapshotted(cluster)
    damage(cluster, KEYS[2])
    die_before_it_is_replaced(cluster)
    assert goes_on(cluster) == 10
    assert whole(cluster)


def test_its_end_right_after_leaves_a_tombstone(cluster: Cluster) -> None:
    snapshotted(cluster)
    damage(cluster, KEYS[2])
    cluster.publish(KEYS[2], None)
    cluster.start("one")
    cluster.work()
    assert dict(cluster.snapshots())[KEYS[2]] is None
    cluster.crash("one")
    assert goes_on(cluster) == 10
    assert whole(cluster)


def test_more_keys_than_slots(cluster: Cluster) -> None:
    snapshotted(cluster)
    for key in KEYS:
        damage(cluster, key)
    cluster.applications = applications(Room(slots=2, memory_bytes=0))
    assert goes_on(cluster) == 10
    assert whole(cluster)


def test_with_a_local_disk_the_damaged_one_is_found_again_until_it_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    snapshotted(cluster)
    damage(cluster, KEYS[2])
    cluster.applications = {name: with_room(each, Room(), tmp_path) for name, each in applications().items()}
    die_before_it_is_replaced(cluster)
    assert goes_on(cluster) == 10
    assert whole(cluster)
    cluster.start("one")
    cluster.produce(KEYS[2], 9)
    cluster.work()
    assert audited(cluster) == 11


def test_records_that_were_refused_for_what_they_did_stay_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes for replays are gone since the snapshot: the dead letters know."""
    step: Callable[..., Ragged] = Program.step

    def fragile(self: Program, state: object, slots: object, chunks: Ragged, final: object = None) -> Ragged:
        out = step(self, state, slots, chunks, final)
        if (chunks.values == 77.0).any():
            raise torch.OutOfMemoryError
        return out

    with monkeypatch.context() as patch:
        patch.setattr(Program, "step", fragile)
        cluster.publish(KEYS[2], b'{"t":1700000000000,"x":[[77.0,0]]}')
        cluster.work()
        snapshotted(cluster)
    damage(cluster, KEYS[2])
    assert goes_on(cluster) == 10
    assert letters(cluster) == [(KEYS[2], b"step_failed")]
    assert whole(cluster)


@pytest.mark.parametrize(("harm", "message"), [("blob", "began at offset 2"), ("header", "not legible")])
def test_a_log_that_does_not_reach_back_is_an_error_with_the_way_out(cluster: Cluster, harm: str, message: str) -> None:
    snapshotted(cluster)
    damage(cluster, KEYS[2], harm)
    cluster.log.delete_before(HERE, 3)
    cluster.start("one")
    with pytest.raises(OperatorActionRequired, match=rf"{message}, and the log begins at 3.*null value under this key"):
        cluster.work()
    cluster.crash("one")
    cluster.transport.publisher().publish("app.snapshots", None, key=KEYS[2], partition=0)
    cluster.start("one")
    cluster.produce(KEYS[2], 5)
    cluster.work()
    assert cluster.predictions()[-1]["index"] == 0


def test_dead_letters_that_do_not_reach_back_are_one_too(cluster: Cluster) -> None:
    snapshotted(cluster)
    damage(cluster, KEYS[2])
    cluster.publish(b"a", b"{")
    cluster.log.append("app.dead-letters", None, None, 0, [])
    cluster.log.delete_before(Partition("app.dead-letters", 0), 1)
    cluster.start("one")
    with pytest.raises(OperatorActionRequired, match=r"app\.dead-letters no longer tells which records of its stream were refused"):
        cluster.work()


def test_a_note_that_this_version_does_not_know_is_no_damage_either(cluster: Cluster) -> None:
    snapshotted(cluster)
    later = b"\x00penstock.later"
    cluster.transport.publisher().publish("app.snapshots", b"PSNX", key=later, partition=0)
    cluster.start("one")
    with pytest.raises(
        OperatorActionRequired, match=r"a note of the service itself that this version does not know.*start that one"
    ):
        cluster.work()
    assert [value for key, value, _ in cluster.read("app.snapshots") if key == later] == [b"PSNX"]


def test_a_newer_version_is_no_damage(cluster: Cluster) -> None:
    snapshotted(cluster)
    damage(cluster, KEYS[2], "version")
    cluster.start("one")
    with pytest.raises(OperatorActionRequired, match=r"version 2, and this penstock reads version 1.*start that one"):
        cluster.work()
