"""How tasks come back: from the log, from snapshots, from memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
import torch

from service import restore
from service.begun import BEGUN_KEY
from service.portion import Caution
from service.refused import Refusals
from service.scheduler import Schedule, Scheduler
from service.streaming import Program, Ragged
from service.task import Phase
from service.transport.interface import Committed, Partition, RecordBatch
from service.transport.memory import Fault
from service.transport.partitioning import partition_of
from tests.applications import chunk
from tests.cluster import PARTITIONS, Cluster, Room, applications, audited, letters, same_partition


def test_after_a_crash_the_state_is_replayed_and_nothing_is_published_twice(cluster: Cluster) -> None:
    for _ in range(4):
        cluster.produce(b"a", 7)
        cluster.produce(b"b", 7)
        cluster.work(turns=2)
    cluster.produce(b"a", 7)
    cluster.turn("one")
    cluster.crash("one")
    cluster.produce(b"b", 7)
    cluster.start("one")
    cluster.work()
    assert audited(cluster) == 10


def test_replay_skips_what_a_snapshot_contains(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """`old` is snapshotted while `new`, which became dirty later, holds the replay range open below `old`'s position."""
    decoded: list[int] = []
    decode = Scheduler.decode

    def noted(self: Scheduler, records: Sequence[RecordBatch], refused: Refusals) -> Schedule:
        decoded.extend(offset for batch in records for offset in batch.offsets)
        return decode(self, records, refused)

    monkeypatch.setattr(Scheduler, "decode", noted)
    old, new = same_partition(2)
    cluster.produce(old, 7)
    cluster.work(turns=3)
    cluster.now += 1.0
    cluster.produce(new, 7)
    cluster.produce(old, 7)
    cluster.work(turns=2)
    cluster.produce(old, 7)
    cluster.work(turns=2)
    assert [key for key, _ in cluster.snapshots()] == [old]
    committed = cluster.log.group("app").committed[Partition("in", 0)]
    assert (committed.offset, orjson.loads(committed.metadata)["replay_from"]) == (4, 1)
    cluster.crash("one")
    cluster.produce(old, 7)
    decoded.clear()
    cluster.start("one")
    cluster.work()
    assert sorted(decoded) == [1, 3, 4]  # the snapshot contains 2, which is not even decoded
    assert audited(cluster) == 5


def test_a_replay_computes_nothing_where_the_last_samples_are_all_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(applications(recurrent=False))
    cluster.start("one")
    keys = same_partition(3)
    for key in keys * 3:
        cluster.produce(key, 7)
    cluster.work()
    cluster.crash("one")
    fed = []
    step = Program.step

    def noted(self: Program, state: Any, slots: Any, chunks: Ragged, final: Any = None) -> Ragged:
        fed.append(chunks.lengths.tolist())
        return step(self, state, slots, chunks, final)

    monkeypatch.setattr(Program, "step", noted)
    cluster.start("one")
    cluster.produce(keys[0], 5)
    cluster.work()
    assert fed == [[5]]
    assert audited(cluster) == 10


def test_a_task_is_live_although_compaction_removed_its_last_committed_record(cluster: Cluster) -> None:
    key = same_partition(1)[0]
    for _ in range(3):
        cluster.produce(key, 7)
    cluster.publish(key, None)
    cluster.work()
    cluster.crash("one")
    [task] = [Partition("in", 0)]
    committed = cluster.log.group("app").committed[task]
    metadata = orjson.loads(committed.metadata) | {"replay_from": 0}
    cluster.log.group("app").committed[task] = Committed(committed.offset, orjson.dumps(metadata).decode())
    cluster.log.partition(task).remove(committed.offset - 1)
    cluster.start("one")
    cluster.work()
    assert cluster.workers["one"]._assignment.tasks[0].phase is Phase.LIVE


def test_a_committed_offset_does_not_go_back_where_compaction_removed_the_last_records(cluster: Cluster) -> None:
    """What was committed behind them may be written elsewhere, in the mark of a local disk for one."""
    for _ in range(3):
        cluster.produce(b"a", 4)
    cluster.work()
    before = dict(cluster.log.group("app").committed)
    place = next(partition for partition, (offset, _) in before.items() if offset == 3)
    cluster.crash("one")
    cluster.log.partition(place).remove(2)
    cluster.start("one")
    cluster.work()
    cluster.stop("one")
    assert cluster.log.group("app").committed[place].offset == 3


def test_nor_where_other_tasks_are_fed_first_and_slots_are_few() -> None:
    """The replayed and the first new record of a task come in one poll, and the new one has to wait for a slot."""
    cluster = Cluster(applications(Room(slots=2)))
    cluster.start("one")
    for _ in range(3):
        cluster.produce(b"d", 7)
    cluster.work()
    place = Partition("in", partition_of(b"d", PARTITIONS))
    assert place.partition != 0
    cluster.crash("one")
    cluster.log.partition(place).remove(2)
    for key in same_partition(6):
        cluster.produce(key, 7)
    cluster.produce(b"d", 6)
    cluster.start("one")
    committed = []
    for _ in range(12):
        cluster.work(turns=1)
        committed.append(cluster.log.group("app").committed[place].offset)
    assert committed[0] == 3
    assert committed == sorted(committed)
    assert committed[-1] == 4


class TestReplayMeetsBeginningsAndEnds:
    """All within a replay range: every case comes after the last snapshot and before the crash."""

    def replayed(self, cluster: Cluster, begin: int, again: bytes | None = b"a") -> int:
        """The range is replayed, and a key goes on behind it; how many predictions there are then, all of them right."""
        cluster.crash("one")
        where = Partition("in", partition_of(b"a", PARTITIONS))
        metadata = orjson.loads(cluster.log.group("app").committed[where].metadata)
        assert metadata["replay_from"] == begin < cluster.log.group("app").committed[where].offset
        if again is not None:
            cluster.produce(again, 6)
        cluster.start("one")
        cluster.work(turns=8)
        return audited(cluster)

    def test_a_key_that_is_seen_first_in_it(self, cluster: Cluster) -> None:
        cluster.produce(b"a", 7)
        cluster.work()
        assert self.replayed(cluster, begin=0) == 2

    def test_a_stream_that_ends_in_it_does_not_come_back(self, cluster: Cluster) -> None:
        one, other = same_partition(2)
        for key in (one, other):
            cluster.produce(key, 7)
        cluster.publish(one, None)
        cluster.work()
        assert self.replayed(cluster, begin=1, again=one) == 3
        streams = [found["stream"] for found in cluster.predictions() if found["key"] == one.decode()]
        assert streams == [0, 3]

    def test_a_stream_with_a_snapshot_that_ends_and_begins_again(self, cluster: Cluster) -> None:
        one, other = same_partition(2)
        for key in (one, other):
            cluster.produce(key, 7)
        cluster.work()
        cluster.now += 3.0
        cluster.work()  # both are snapshotted
        cluster.produce(other, 7)  # and one is dirty again: the replay begins here
        cluster.publish(one, None)
        cluster.produce(one, 5)
        cluster.publish(one, None)
        cluster.produce(one, 4)
        cluster.work()
        assert self.replayed(cluster, begin=2, again=one) == 6

    def test_a_null_value_of_a_key_that_has_no_stream(self, cluster: Cluster) -> None:
        one, other = same_partition(2)
        cluster.produce(other, 7)
        cluster.publish(one, None)
        cluster.work()
        assert self.replayed(cluster, begin=0, again=one) == 2


@pytest.fixture
def no_snapshot_is_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called when from then on no recovery may read snapshots."""

    def read(*arguments: object) -> None:
        raise AssertionError("a snapshot topic was read")

    return lambda: monkeypatch.setattr(restore, "_snapshots", read)


class TestTasksThatComeBack:
    def test_with_the_offsets_they_left_they_go_on_from_memory(
        self, cluster: Cluster, no_snapshot_is_read: Callable[[], None]
    ) -> None:
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, 7)
        cluster.work()
        no_snapshot_is_read()
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, 7)
        cluster.turn("one")
        cluster.log.expire_member("app", "one")
        cluster.work()
        assert audited(cluster) == 6
        assert {prediction["stream"] for prediction in cluster.predictions() if prediction["key"] == "a"} == {0}

    def test_after_a_rebalance_they_do_too(self, cluster: Cluster, no_snapshot_is_read: Callable[[], None]) -> None:
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, 7)
        cluster.work()
        cluster.start("two")
        cluster.turn("two")
        cluster.log.expire_member("app", "two")
        no_snapshot_is_read()
        cluster.workers.pop("two")
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, 7)
        cluster.work()
        assert audited(cluster) == 6

    def test_where_another_has_worked_on_them_they_recover_from_the_log(self, cluster: Cluster) -> None:
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, 7)
        cluster.work()
        first = cluster.workers.pop("one")
        cluster.log.expire_member("app", "one")
        cluster.start("two")
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, 7)
        cluster.work("two")
        cluster.log.expire_member("app", "two")
        cluster.workers = {"one": first}
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, 7)
        cluster.work()
        assert audited(cluster) == 9

    def test_what_another_left_in_the_snapshot_topic_is_known(self, cluster: Cluster) -> None:
        """Another member commits a snapshot and nothing else: the offsets are those that were left, but not the writer. The end of
        the key must then remove that snapshot, or the key would come back to life."""
        cluster.produce(b"a", 7)
        cluster.work(turns=3)
        first = cluster.workers.pop("one")
        cluster.log.expire_member("app", "one")
        cluster.start("two")
        cluster.work("two")
        cluster.now += 5.0
        cluster.work("two")
        assert [key for key, _ in cluster.snapshots()] == [b"a"]
        cluster.log.expire_member("app", "two")
        cluster.workers = {"one": first}
        cluster.work()
        cluster.publish(b"a", None)
        cluster.work()
        assert [value is None for _, value in cluster.snapshots()] == [False, True]

    def test_every_process_signs_its_commits(self, cluster: Cluster) -> None:
        """Two processes may commit the same offsets; only the writer's name tells that another one has been there."""
        cluster.produce(b"a", 7)
        cluster.work()
        cluster.stop("one")
        before = signatures(cluster)
        cluster.start("one")
        cluster.work()
        assert signatures(cluster) == before
        cluster.produce(b"a", 7)
        cluster.work()
        assert signatures(cluster).isdisjoint(before)

    def test_after_a_commit_of_unknown_outcome_that_never_happened(
        self, cluster: Cluster, no_snapshot_is_read: Callable[[], None]
    ) -> None:
        cluster.produce(b"a", 7)
        cluster.work()
        no_snapshot_is_read()
        cluster.log.inject(Fault.COMMIT_REQUEST_LOST)
        cluster.produce(b"a", 7)
        cluster.work(turns=9)
        assert audited(cluster) == 2


def signatures(cluster: Cluster) -> set[str]:
    """Who committed the group's offsets of partition 0."""
    [committed] = [found for where, found in cluster.log.group("app").committed.items() if where.partition == 0]
    return {orjson.loads(committed.metadata)["writer"]}


@pytest.mark.parametrize("since", [0, 3])
def test_a_replay_has_no_more_memory_than_there_was_when_its_records_came(monkeypatch: pytest.MonkeyPatch, since: int) -> None:
    """A step of more than 8 frames finds none, and leaves half of its work; then records passed in parts, and so they do again.
    Others that came `since` are in the same poll."""
    cluster = Cluster(applications(Room(), None, recurrent=True))
    step = Program.step

    def limited(self: Program, state: Any, slots: Any, chunks: Ragged, final: Any = None) -> Ragged:
        made = step(self, state, slots, chunks, final)
        if len(chunks.values) > 8:
            raise torch.OutOfMemoryError("no memory for so large a batch")
        return made

    monkeypatch.setattr(Program, "step", limited)
    keys = [b"a", b"b", b"c", b"d", b"e", b"f"]
    cluster.start("one")
    for _ in range(2):
        for key in keys:
            cluster.produce(key, 5)
        cluster.work(turns=8)
    cluster.crash("one")
    for _ in range(since):
        for key in keys:
            cluster.produce(key, 5)
    cluster.start("one")
    cluster.work(turns=40)
    monkeypatch.undo()
    assert letters(cluster) == []
    assert audited(cluster) == len(keys) * (2 + since)


@pytest.mark.parametrize("how", ["restart", "rebalance", "crash"])
def test_offsets_without_records_are_passed_before_retention_takes_them(cluster: Cluster, how: str) -> None:
    """Input that is written in transactions ends with their marks."""
    producer = cluster.transport.sink("producer", 60.0)
    producer.open(1.0)
    for seed in range(3):
        producer.begin()
        for key in (b"a", b"b", b"c"):
            producer.produce("in", chunk(cluster.now * 1000, 7, seed), key=key)
        producer.commit(1.0)
        cluster.work(turns=3)
    cluster.now += 31.0
    cluster.work()
    if how == "restart":
        cluster.stop("one")
    for number in range(PARTITIONS):
        where = Partition("in", number)
        cluster.log.delete_before(where, cluster.log.partition(where).end)
    if how == "crash":
        cluster.crash("one")
    cluster.start("two" if how == "rebalance" else "one")
    for _ in range(6):
        for name in list(cluster.workers):
            cluster.work(name, turns=1)
    assert all(task.live for worker in cluster.workers.values() for task in worker._assignment.tasks.values())


@pytest.mark.parametrize("note", [b"PSNB\x01", b"PSNB\x02 of some later version", b"PSNB\x01 damaged beyond recognition"])
def test_a_note_of_the_beginning_that_is_not_legible_is_no_reason_not_to_go_on(cluster: Cluster, note: bytes) -> None:
    cluster.produce(b"a", 7)
    cluster.work()
    cluster.stop("one")
    for number in range(PARTITIONS):
        entries = cluster.log.partition(Partition("app.snapshots", number))._entries
        entries[:] = [entry._replace(value=note) if entry.key == BEGUN_KEY else entry for entry in entries]
    cluster.start("one")
    cluster.produce(b"a", 7)
    cluster.work()
    assert audited(cluster) == 2


@pytest.mark.parametrize("limit", [1, 3, 60, 1000])
def test_what_fails_for_good_beyond_some_size_is_replayed_in_the_end(limit: int) -> None:
    caution, starts = Caution(500), 0
    left = 0
    while not starts or left:
        if left == 0:
            starts, left = starts + 1, 3000
        part = min(caution.size, left)
        if part > limit:
            caution.failed(part)
            left = 0
        else:
            caution.passed()
            left -= part
    assert starts < 20


def test_a_moments_shortage_of_memory_makes_no_replay_of_single_records(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = same_partition(50)
    for round_ in range(600):
        cluster.produce(keys[round_ % 50], 1)
    cluster.work(turns=30)
    cluster.crash("one")
    failures, sizes = [5], []
    absorb = Program.absorb

    def short(self: Program, state: Any, slots: Any, chunks: Ragged, *rest: Any) -> None:
        if failures[0]:
            failures[0] -= 1
            raise torch.OutOfMemoryError("for a moment")
        sizes.append(len(chunks.values))
        absorb(self, state, slots, chunks, *rest)

    monkeypatch.setattr(Program, "absorb", short)
    cluster.start("one")
    cluster.work(turns=60)
    assert sum(sizes) > 500
    assert len(sizes) < 200
    assert audited(cluster) > 0
