"""Who is fenced, who was expelled, and who takes back what is its own."""

from __future__ import annotations

import pytest

from service.errors import Fenced, TransportUnavailable
from service.transport.interface import Membership
from service.transport.memory.sink import MemorySink
from tests.cluster import Cluster, audited
from tests.transport.cluster import Follower


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

    def test_and_its_membership_too_however_often_the_broker_does_not_answer(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A member that was fenced says so once, and never works again."""
        cluster.work()
        older = cluster.transport.source(Membership("app", "one"))
        older.subscribe(["in"], Follower())
        older.poll(1, 0.0)
        opens, left = MemorySink.open, [1, 1]

        def fails(sink: MemorySink, timeout: float) -> None:
            if left:
                left.pop()
                raise TransportUnavailable("no answer")
            opens(sink, timeout)

        monkeypatch.setattr(MemorySink, "open", fails)
        cluster.produce(b"a", 7)
        cluster.work(turns=12)
        assert not left
        assert audited(cluster) == 1


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
    cluster.workers["one"].standing.sleep = slept.append
    cluster.stop("one")
    assert slept == []
    cluster.start("one")
    cluster.work()
    assert audited(cluster) == 1
