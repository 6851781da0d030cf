"""What a worker does with ordinary days and with bad ones, on the in-memory log."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from torch import nn

from service import restore
from service.app import Application
from service.audit import AuditReport, read
from service.codec.interface import Prediction
from service.errors import Fenced, OperatorActionRequired, TransportUnavailable
from service.extent import Extent
from service.task import Phase
from service.transport.interface import Committed, Membership, Partition, Source, TopicDescription
from service.transport.memory import Fault
from service.transport.memory.source import MemoryToken
from service.transport.partitioning import partition_of
from tests.applications import chunk, configured
from tests.cluster import PARTITIONS, Cluster, applications, audited
from tests.transport.cluster import Follower


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(applications())
    cluster.start("one")
    return cluster


def same_partition(count: int) -> list[bytes]:
    """Keys that share partition 0."""
    keys = (b"key-%d" % number for number in itertools.count())
    return list(itertools.islice((key for key in keys if partition_of(key, PARTITIONS) == 0), count))


def test_every_record_that_completes_outputs_gets_one_prediction(cluster: Cluster) -> None:
    for round_ in range(3):
        for key in (b"a", b"b", b"c"):
            cluster.produce(key, samples=5 + round_)
    cluster.work()
    assert audited(cluster) == 9
    found = cluster.predictions()
    assert {prediction["key"] for prediction in found} == {"a", "b", "c"}
    assert sorted(prediction["index"] for prediction in found if prediction["key"] == "a") == [0, 5, 11]


def test_a_prediction_says_where_and_when(cluster: Cluster) -> None:
    cluster.publish(b"a", chunk(1_700_000_000_000, 4, seed=1))
    cluster.publish(b"a", chunk(1_700_000_000_004, 3, seed=2))
    cluster.work()
    second = next(prediction for prediction in cluster.predictions() if prediction["index"] == 4)
    assert second["t"] == 1_700_000_000_004
    assert second["topic"] == "in"
    assert (second["stream"], np.shape(second["y"])) == (0, (3, 2))


def test_nothing_is_visible_before_the_commit(cluster: Cluster) -> None:
    cluster.produce(b"a", 5)
    cluster.turn("one")
    cluster.turn("one")
    assert cluster.predictions() == []
    cluster.work()
    assert audited(cluster) == 1


def test_bad_records_become_dead_letters_and_harm_nobody(cluster: Cluster) -> None:
    cluster.produce(b"a", 5)
    cluster.publish(b"a", b"{broken")
    cluster.publish(b"b", b"")
    cluster.publish(b"a", b'{"t": 1, "x": [[1.0]]}')
    cluster.produce(b"a", 5)
    cluster.work()
    assert audited(cluster) == 2
    letters = cluster.read("app.dead-letters")
    assert sorted(headers["penstock.error"] or b"" for _, _, headers in letters) == [b"decode", b"empty", b"shape"]
    key, value, headers = next(letter for letter in letters if letter[2]["penstock.error"] == b"decode")
    assert (key, value) == (b"a", b"{broken")
    assert headers["penstock.topic"] == b"in"
    assert headers["penstock.offset"] == b"1"


def test_a_null_value_ends_the_stream_and_the_next_record_begins_another(cluster: Cluster) -> None:
    cluster.produce(b"a", 5)
    cluster.publish(b"a", None)
    cluster.produce(b"a", 5)
    cluster.work()
    assert audited(cluster) == 2
    assert {(prediction["stream"], prediction["index"]) for prediction in cluster.predictions()} == {(0, 0), (2, 0)}


def test_a_changed_rate_ends_the_stream_and_begins_another(cluster: Cluster) -> None:
    cluster.produce(b"a", 5)
    cluster.publish(b"a", chunk(cluster.now * 1000, 5, seed=3)[:-1] + b',"rate":500}')
    cluster.work()
    assert audited(cluster) == 2
    assert {prediction["stream"] for prediction in cluster.predictions()} == {0, 1}


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


def test_a_clean_stop_leaves_nothing_to_replay(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    cluster.produce(b"b", 7)
    cluster.work()
    cluster.stop("one")
    for number in range(PARTITIONS):
        committed = cluster.log.group("app").committed[Partition("in", number)]
        assert orjson.loads(committed.metadata)["replay_from"] == committed.offset
    assert {key for key, _ in cluster.snapshots()} == {b"a", b"b"}
    cluster.produce(b"a", 7)
    cluster.start("one")
    cluster.work()
    assert audited(cluster) == 3


def test_dirty_streams_are_snapshotted_in_time_even_without_input(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    cluster.work(turns=3)
    assert cluster.snapshots() == []
    cluster.now += cluster.config.state.snapshot_every
    cluster.work(turns=2)
    assert [key for key, _ in cluster.snapshots()] == [b"a"]
    committed = cluster.log.group("app").committed[Partition("in", partition_of(b"a", PARTITIONS))]
    assert orjson.loads(committed.metadata)["replay_from"] == committed.offset


@pytest.mark.parametrize("generations", [1, None], ids=["stale", "empty"])
def test_a_membership_that_is_stale_or_empty_commits_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, generations: int | None
) -> None:
    """A rebalance has overtaken the commit, or the first join is not complete: its offsets must not move the group."""
    cluster.produce(b"a", 7)
    cluster.work()
    before = dict(cluster.log.group("app").committed)
    source = cluster.workers["one"]._source
    token = source.group()
    assert isinstance(token, MemoryToken)
    old = replace(token, generation=token.generation - generations) if generations else replace(token, identity="", generation=-1)
    cluster.produce(b"a", 7)
    with monkeypatch.context() as patch:
        patch.setattr(source, "group", lambda: old)
        for _ in range(6):
            cluster.work(turns=1)
            assert cluster.log.group("app").committed == before
        assert cluster.workers["one"]._failures
    cluster.work(turns=12)
    assert audited(cluster) == 2


def test_replay_skips_what_a_snapshot_contains(cluster: Cluster) -> None:
    """`old` is snapshotted while `new`, which became dirty later, holds the replay range open below `old`'s position."""
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
    cluster.start("one")
    cluster.work()
    assert audited(cluster) == 5


def test_an_ended_stream_leaves_a_tombstone_where_it_had_a_snapshot(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    cluster.work(turns=3)
    cluster.now += 3.0
    cluster.work(turns=2)
    cluster.publish(b"a", None)
    cluster.work()
    assert [value is None for _, value in cluster.snapshots()] == [False, True]
    cluster.crash("one")
    cluster.produce(b"a", 7)
    cluster.start("one")
    cluster.work()
    assert audited(cluster) == 2


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_in_the_transaction_changes_nothing_in_the_end(cluster: Cluster, fault: Fault) -> None:
    cluster.produce(b"a", 7)
    cluster.work()
    cluster.log.inject(fault)
    cluster.produce(b"a", 7)
    cluster.produce(b"b", 7)
    cluster.work(turns=12)
    assert audited(cluster) == 3
    cluster.produce(b"a", 7)
    cluster.work()
    assert audited(cluster) == 4


def test_records_polled_while_a_commit_fails_are_fed_with_the_others(cluster: Cluster) -> None:
    cluster.work()
    cluster.produce(b"a", 7)
    cluster.turn("one")
    cluster.log.inject(Fault.ABORT_AT_COMMIT)
    cluster.now += 0.06
    cluster.turn("one")  # the commit begins, and fails
    cluster.produce(b"a", 7)
    cluster.turn("one")  # the second record is in hand when that is learnt
    cluster.work()
    assert audited(cluster) == 2


def test_a_stream_thawed_in_an_aborted_epoch_is_thawed_again(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    cluster.work()
    cluster.stop("one")
    cluster.start("one")
    cluster.work()
    cluster.log.inject(Fault.ABORT_AT_COMMIT)
    cluster.produce(b"a", 7)
    cluster.work()
    assert audited(cluster) == 2
    assert {prediction["stream"] for prediction in cluster.predictions()} == {0}


def test_a_second_process_of_the_same_instance_fences_the_first(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    cluster.turn("one")
    first = cluster.workers["one"]
    cluster.start("one")
    cluster.work()
    with pytest.raises(Fenced):
        first.turn()
    assert audited(cluster) == 1


class TestWhoIsFenced:
    """Rule 4 and fault 17: our own transaction that timed out, and a newer process of the same name, look the same at first."""

    def test_a_stall_beyond_every_timeout_is_recovered_from(self, cluster: Cluster) -> None:
        cluster.work()
        cluster.produce(b"a", 7)
        cluster.turn("one")
        cluster.expel("one")
        cluster.work(turns=9)
        assert audited(cluster) == 1

    def test_a_stalled_process_gives_way_to_its_successor_which_goes_on(self, cluster: Cluster) -> None:
        cluster.work()
        cluster.produce(b"a", 7)
        cluster.turn("one")
        cluster.stall("one")
        cluster.expel("one")
        cluster.start("one")
        cluster.work()
        for _ in range(9):  # both at work for a while; `wake` fails should the newer one end
            cluster.produce(b"a", 7)
            if cluster.stalled:
                cluster.wake(0, turns=1)
            cluster.work(turns=1)
        assert cluster.stalled == []
        cluster.work()
        assert audited(cluster) == 10

    def test_before_its_successor_has_committed_anything_too(self, cluster: Cluster) -> None:
        cluster.work()
        cluster.produce(b"a", 7)
        cluster.turn("one")
        cluster.stall("one")
        cluster.expel("one")
        cluster.start("one")
        cluster.wake(0, turns=3)
        assert cluster.stalled == []
        cluster.work(turns=9)
        assert audited(cluster) == 1

    def test_the_newest_takes_back_what_an_older_process_took(self, cluster: Cluster) -> None:
        """An older process looked at the register just before this one signed it, and took the transactional id just after."""
        cluster.work()
        cluster.transport.sink("app-one", 15.0).open(1.0)
        cluster.produce(b"a", 7)
        cluster.work(turns=9)
        assert audited(cluster) == 1
        older = cluster.transport.source(Membership("app", "one"))
        older.subscribe(["in"], Follower())
        older.poll(1, 0.0)
        cluster.produce(b"a", 7)
        cluster.work(turns=9)
        assert audited(cluster) == 2


def test_a_join_hands_streams_over_without_replay(cluster: Cluster) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        cluster.produce(key, 7)
    cluster.work()
    cluster.start("two")
    for _ in range(10):
        cluster.now += 0.06
        cluster.turn("one")
        cluster.turn("two")
    for key in (b"a", b"b", b"c", b"d"):
        cluster.produce(key, 7)
    for _ in range(5):
        cluster.now += 0.06
        cluster.turn("one")
        cluster.turn("two")
    assert audited(cluster) == 8


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


def test_running_tasks_go_on_while_another_waits_for_its_offsets(cluster: Cluster) -> None:
    """Somebody's open transaction holds the offsets of partition 0; its task restores, turn after turn, and delivers nothing."""
    here, there = same_partition(1)[0], next(key for key in (b"%d" % n for n in range(99)) if partition_of(key, PARTITIONS) == 1)
    cluster.produce(here, 7)
    cluster.produce(there, 7)
    cluster.turn("one")  # joins
    stranger = cluster.transport.sink("stranger", 600.0)
    stranger.open(1.0)
    stranger.begin()
    stranger.send_offsets({Partition("in", 0): Committed(0, "")}, cluster.workers["one"]._source.group())
    cluster.work(turns=4)
    states = {number: task.phase for number, task in cluster.workers["one"]._assignment.tasks.items()}
    assert states == {0: Phase.RESTORING, 1: Phase.LIVE}
    assert [prediction["key"] for prediction in cluster.predictions()] == [there.decode()]
    stranger.abort(1.0)
    cluster.work()
    assert audited(cluster) == 2


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


def test_transactions_that_come_to_nothing_are_not_tried_for_ever(cluster: Cluster) -> None:
    cluster.produce(b"a", 5)
    worker = cluster.workers["one"]

    def work() -> None:
        for _ in range(300):
            cluster.log.inject(Fault.COMMIT_REQUEST_LOST)
            cluster.now += 0.06
            worker.turn()

    with pytest.raises(TransportUnavailable, match="21 transactions in a row came to nothing"):
        work()


def test_losing_partitions_while_idle_is_no_failed_transaction(cluster: Cluster) -> None:
    cluster.work()
    for _ in range(25):
        cluster.log.expire_member("app", "one")
        cluster.work(turns=4)
    cluster.produce(b"a", 5)
    cluster.work()
    assert audited(cluster) == 1


def test_a_stop_while_expelled_is_quick_and_loses_nothing(cluster: Cluster) -> None:
    cluster.work()
    cluster.produce(b"a", 5)
    cluster.turn("one")
    cluster.log.expire_member("app", "one")
    slept: list[float] = []
    cluster.workers["one"].sleep = slept.append
    cluster.stop("one")
    assert slept == []
    cluster.start("one")
    cluster.work()
    assert audited(cluster) == 1


def test_an_audit_beside_a_running_worker_judges_what_it_began_with(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.produce(b"a", 5)
    cluster.work()
    looked = []

    def look(source: Source, inputs: list[Partition]) -> dict[Partition, int]:
        found = committed(source, inputs)
        if not looked:
            looked.append(found)
            cluster.produce(b"a", 5)
            cluster.work()
        return found

    committed = read._committed
    monkeypatch.setattr(read, "_committed", look)
    assert audited(cluster) == 1


class TestAuditsOfAPart:
    """Four rounds, ten seconds apart; in each, one record of two keys. `a` ends in the second and begins again in
    the third; `c` comes only in the first."""

    @pytest.fixture
    def cluster(self) -> Cluster:
        cluster = Cluster(applications())
        cluster.start("one")
        for round_ in range(4):
            for key in (b"a", b"b"):
                cluster.produce(key, samples=5)
            if round_ == 0:
                cluster.produce(b"c", samples=1)
            if round_ == 1:
                cluster.publish(b"a", None)
                cluster.publish(b"b", b"{broken")
            cluster.work()
            cluster.now += 10.0
        self.began = int(cluster.now * 1000) - 4 * 10_360
        return cluster

    def report(self, cluster: Cluster, extent: Extent) -> AuditReport:
        return read.audit(applications()["one"], cluster.transport, extent)

    def at(self, round_: int) -> int:
        """Before the records of a round, in epoch milliseconds."""
        return self.began + round_ * 10_360 - 100

    def test_a_range_of_time(self, cluster: Cluster) -> None:
        report = self.report(cluster, Extent(begin=self.at(2), end=self.at(3)))
        assert report.passed(exact=True), report
        assert (report.expected, report.records, report.streams) == (2, 2, 2)

    def test_a_key(self, cluster: Cluster) -> None:
        report = self.report(cluster, Extent(keys=frozenset({"a"})))
        assert report.passed(exact=True), report
        assert report.expected == 4

    def test_all_parts_together_are_the_whole(self, cluster: Cluster) -> None:
        whole = self.report(cluster, Extent())
        parts = [
            self.report(cluster, Extent(self.at(begin), self.at(begin + 2), frozenset({key})))
            for begin in (0, 2)
            for key in ("a", "b")
        ]
        assert all(part.passed(exact=True) for part in parts), parts
        assert sum(part.expected for part in parts) == whole.expected - 1 == 8  # and one of c
        assert sum(part.records for part in parts) == whole.records - 1
        assert [part.expected for part in parts] == [2, 2, 2, 2]

    @pytest.mark.parametrize(("begin", "end", "seen"), [(1, 2, True), (0, 1, False), (2, 4, False)])
    @pytest.mark.parametrize("wrong", ["prediction", "letter"])
    def test_what_is_wrong_is_seen_within_its_part_and_only_there(
        self, cluster: Cluster, begin: int, end: int, seen: bool, wrong: str
    ) -> None:
        offset = next(found["offset"] for found in cluster.predictions() if found["key"] == "b" and found["index"] == 5)
        partition = partition_of(b"b", PARTITIONS)
        if wrong == "prediction":
            value = next(value for _, value, _ in cluster.read("out") if orjson.loads(value or b"")["offset"] == offset)
            cluster.transport.publisher().publish("out", value, key=b"b", partition=partition)
        else:
            sink = cluster.transport.sink("another", 1.0)
            sink.open(1.0)
            sink.begin()
            names = {"partition": b"%d" % partition, "offset": b"%d" % offset, "error": b"decode"}
            headers = [(f"penstock.{name}", value) for name, value in names.items()]
            sink.produce("app.dead-letters", b"x", key=b"b", headers=headers)
            sink.commit(1.0)
        assert self.report(cluster, Extent(self.at(begin), self.at(end))).passed(exact=True) is not seen
        assert not self.report(cluster, Extent(keys=frozenset({"b"}))).passed(exact=True)
        assert self.report(cluster, Extent(keys=frozenset({"a"}))).passed(exact=True)

    def test_what_nobody_offered_is_seen_where_no_end_is_given(self, cluster: Cluster) -> None:
        value = orjson.loads(cluster.read("out")[0][1] or b"") | {"offset": 1_000_000, "index": 15}
        cluster.transport.publisher().publish("out", orjson.dumps(value), key=value["key"].encode())
        assert self.report(cluster, Extent()).unexpected == 1
        assert self.report(cluster, Extent(begin=self.at(2))).unexpected == 1
        assert self.report(cluster, Extent(end=self.at(2))).passed(exact=True)

    def test_a_prediction_that_is_missing_is_seen_within_its_part_and_only_there(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def all_but_one(*arguments: object) -> list[Prediction]:
            return [found for found in published(*arguments) if (found.key, found.index) != ("b", 5)]  # type: ignore[arg-type]

        published = read._published
        monkeypatch.setattr(read, "_published", all_but_one)
        assert self.report(cluster, Extent(self.at(1), self.at(2))).missing == 1
        assert self.report(cluster, Extent(self.at(2), None)).passed(exact=True)
        assert self.report(cluster, Extent(None, self.at(1))).passed(exact=True)


def test_a_prediction_too_large_for_its_topic_becomes_a_dead_letter(tmp_path: Path) -> None:
    cluster = Cluster({"one": Application.from_config(configured(tmp_path, limits={"output_bytes": 500}))})
    cluster.start("one")
    cluster.produce(b"a", 5)
    cluster.produce(b"a", 50)
    cluster.produce(b"a", 5)
    cluster.work()
    assert audited(cluster) == 2
    [(key, value, headers)] = cluster.read("app.dead-letters")
    assert (key, value, headers["penstock.error"]) == (b"a", None, b"output_too_large")
    assert int(headers["penstock.value_bytes"] or 0) > 500


class Short(nn.Conv1d):
    """Needs five samples: shorter streams have no legal end."""

    def __init__(self) -> None:
        super().__init__(2, 1, 5)


class TestStreamsTooShortForTheNetwork:
    @pytest.fixture
    def short(self, tmp_path: Path) -> Cluster:
        model = {"factory": f"{__name__}:Short"}
        with torch.random.fork_rng():
            torch.manual_seed(3)
            application = Application.from_config(configured(tmp_path, model=model, postprocess=[]))
        cluster = Cluster({"one": application})
        cluster.start("one")
        return cluster

    def test_the_record_that_ends_one_is_a_dead_letter(self, short: Cluster) -> None:
        short.produce(b"a", 3)
        short.publish(b"a", None)
        short.produce(b"a", 9)
        short.work()
        assert audited(short) == 1
        [(_, _, headers)] = short.read("app.dead-letters")
        assert (headers["penstock.error"], headers["penstock.offset"]) == (b"length", b"1")

    def test_a_record_that_only_begins_the_next_one_is_none(self, short: Cluster) -> None:
        short.produce(b"a", 3)
        short.publish(b"a", chunk(short.now * 1000, 9, seed=3)[:-1] + b',"rate":500}')
        short.work()
        assert audited(short) == 1
        assert short.read("app.dead-letters") == []

    def test_neither_an_abort_nor_a_replay_writes_it_twice(self, short: Cluster) -> None:
        short.produce(b"a", 3)
        short.work()
        short.log.inject(Fault.ABORT_AT_COMMIT)
        short.publish(b"a", None)
        short.produce(b"b", 9)
        short.work(turns=8)
        short.crash("one")
        short.produce(b"b", 9)
        short.start("one")
        short.work(turns=8)
        assert audited(short) == 2


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


class TestContradictionsEndLoudly:
    """Rule 7: never a silent reset; and nothing is written."""

    @pytest.fixture
    def stopped(self, cluster: Cluster) -> Cluster:
        for _ in range(3):
            for key in (b"a", b"b", b"c", b"d"):
                cluster.produce(key, 7)
            cluster.work(turns=3)
        cluster.stop("one")
        return cluster

    def refuses(self, cluster: Cluster, message: str) -> None:
        before = len(cluster.read("out"))
        cluster.produce(b"a", 7)
        cluster.start("one")
        with pytest.raises(OperatorActionRequired, match=message):
            cluster.work()
        cluster.workers.pop("one").close()
        assert len(cluster.read("out")) == before

    def test_committed_offset_below_the_log(self, stopped: Cluster) -> None:
        for number in range(PARTITIONS):
            partition = Partition("in", number)
            stopped.produce(b"a", 7)
            stopped.produce(b"b", 7)
            stopped.log.delete_before(partition, stopped.log.partition(partition).end)
        self.refuses(stopped, "below the log's first offset")

    def test_committed_offset_above_the_log(self, stopped: Cluster) -> None:
        """The topic was deleted and made again, or another tool has moved the offset."""
        for number in range(PARTITIONS):
            where = Partition("in", number)
            old = stopped.log.group("app").committed[where]
            end = stopped.log.partition(where).end
            stopped.log.group("app").committed[where] = Committed(end + 100, old.metadata)
        self.refuses(stopped, "above the log's end")

    def test_an_offset_that_another_tool_has_reset_carries_no_metadata(self, stopped: Cluster) -> None:
        for number in range(PARTITIONS):
            stopped.log.group("app").committed[Partition("in", number)] = Committed(0, "")
        self.refuses(stopped, "carries no metadata")

    def test_a_replay_range_that_retention_has_eaten(self, cluster: Cluster) -> None:
        for _ in range(2):
            cluster.produce(b"a", 7)
            cluster.work()
        cluster.crash("one")
        where = Partition("in", partition_of(b"a", PARTITIONS))
        cluster.log.delete_before(where, 1)
        self.refuses(cluster, "records from 0 on must be replayed, but the log begins at 1")

    def test_offsets_gone_while_snapshots_exist(self, stopped: Cluster) -> None:
        stopped.log.forget_offsets("app", [Partition("in", number) for number in range(PARTITIONS)])
        self.refuses(stopped, "no committed offset")

    def test_offsets_gone_after_every_key_has_ended(self, cluster: Cluster) -> None:
        """No snapshot is left by then; what the first commit left behind tells that there were some."""
        cluster.produce(b"a", 7)
        cluster.produce(b"b", 7)
        cluster.publish(b"a", None)
        cluster.publish(b"b", None)
        cluster.work()
        cluster.stop("one")
        cluster.log.forget_offsets("app", [Partition("in", number) for number in range(PARTITIONS)])
        self.refuses(cluster, "no committed offset")

    def test_a_program_with_another_state(self, stopped: Cluster, tmp_path: Path) -> None:
        """Without its post-processing the program has no use for what the snapshots remember of it."""
        stopped.applications = {"one": Application.from_config(configured(tmp_path, postprocess=[]))}
        self.refuses(stopped, "the snapshot cannot be used.*another `app` name")

    def test_partitions_added_to_the_input(self, stopped: Cluster) -> None:
        stopped.log.add_partitions("in", PARTITIONS + 1)
        with pytest.raises(OperatorActionRequired, match="they must be the same"):
            stopped.start("one")
        stopped.log.add_partitions("app.snapshots", PARTITIONS + 1)
        self.refuses(stopped, "had 2 when offsets were committed")

    def test_a_snapshot_topic_that_is_not_compacted(self) -> None:
        cluster = Cluster(applications())
        cluster.log = type(cluster.log)()
        cluster.transport = type(cluster.transport)(cluster.log)
        for name in ("in", "out", "app.dead-letters"):
            cluster.log.create(TopicDescription(name, PARTITIONS))
        cluster.log.create(TopicDescription("app.snapshots", PARTITIONS, {"cleanup.policy": "delete"}))
        with pytest.raises(OperatorActionRequired, match="must be exactly compact"):
            cluster.start("one")

    def test_another_program_with_a_replay_range(self, cluster: Cluster) -> None:
        cluster.produce(b"a", 7)
        cluster.work()
        cluster.crash("one")
        cluster.applications = {"one": applications()["other weights"]}
        self.refuses(cluster, "another program")

    def test_another_program_after_a_clean_stop_goes_on(self, stopped: Cluster) -> None:
        stopped.applications = {"one": applications()["other weights"]}
        before = len(stopped.read("out"))
        stopped.produce(b"a", 7)
        stopped.start("one")
        stopped.work()
        assert len(stopped.read("out")) == before + 1
