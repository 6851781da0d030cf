"""What a commit holds, and the ways back where there is none."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from service.errors import TransportUnavailable
from service.transport.interface import Partition
from service.transport.memory import Fault
from service.transport.memory.source import MemoryToken
from service.transport.partitioning import partition_of
from tests.cluster import PARTITIONS, Cluster, audited


def test_dirty_streams_are_snapshotted_in_time_even_without_input(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    cluster.work(turns=3)
    assert cluster.snapshots() == []
    cluster.now += cluster.config.state.snapshot_every
    cluster.work(turns=2)
    assert [key for key, _ in cluster.snapshots()] == [b"a"]
    committed = cluster.log.group("app").committed[Partition("in", partition_of(b"a", PARTITIONS))]
    assert orjson.loads(committed.metadata)["replay_from"] == committed.offset


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


@pytest.mark.parametrize("generations", [1, None], ids=["stale", "empty"])
def test_a_membership_that_is_stale_or_empty_commits_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, generations: int | None
) -> None:
    """A rebalance has overtaken the commit, or the first join is not complete: its offsets must not move the group."""
    cluster.produce(b"a", 7)
    cluster.work()
    before = dict(cluster.log.group("app").committed)
    source = cluster.workers["one"]._assignment.source
    token = source.group()
    assert isinstance(token, MemoryToken)
    old = replace(token, generation=token.generation - generations) if generations else replace(token, identity="", generation=-1)
    cluster.produce(b"a", 7)
    with monkeypatch.context() as patch:
        patch.setattr(source, "group", lambda: old)
        for _ in range(6):
            cluster.work(turns=1)
            assert cluster.log.group("app").committed == before
        assert cluster.workers["one"].standing.failures
    cluster.work(turns=12)
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
