"""The broker goes away in the middle of the work, longer than any call waits for it, and comes back; or does not."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import EpochAborted, TransportUnavailable
from service.intake import Intake
from service.quarantine import Quarantine
from service.transport.interface import Partition
from service.transport.memory import Fault
from service.transport.memory.reader import MemoryReader
from service.transport.memory.sink import MemorySink
from service.transport.memory.source import MemorySource
from tests.cluster import Cluster, audited

ASKED = [(MemoryReader, "watermarks"), (MemorySource, "watermarks"), (MemorySource, "committed"), (MemorySink, "open")]


class Outage:
    """While it lasts, nothing that asks the broker something gets an answer, and each call waits for half a minute."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        self.lasts = False
        for owner, name in ASKED:
            monkeypatch.setattr(owner, name, self._interposed(getattr(owner, name)))

    def _interposed(self, call: Any) -> Any:
        def asked(*args: Any, **kwargs: Any) -> Any:
            if self.lasts:
                self.cluster.now += 30.0
                raise TransportUnavailable("no answer")
            return call(*args, **kwargs)

        return asked

    def begin(self) -> None:
        """In the middle of a commit."""
        self.cluster.produce(b"a", 7)
        self.cluster.log.inject(Fault.COMMIT_RESPONSE_LOST)
        self.lasts = True


@pytest.fixture
def outage(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(cluster, monkeypatch)


def test_a_worker_outlasts_minutes_without_a_broker(cluster: Cluster, outage: Outage) -> None:
    cluster.produce(b"a", 7)
    cluster.work()
    outage.begin()
    cluster.work(turns=8)
    assert "one" in cluster.workers
    outage.lasts = False
    cluster.produce(b"a", 7)
    cluster.work(turns=9)
    assert audited(cluster) == 3


def test_one_outage_after_another_is_not_one_long_one(cluster: Cluster, outage: Outage) -> None:
    cluster.work()
    for _ in range(3):
        outage.begin()
        cluster.work(turns=7)
        outage.lasts = False
        cluster.work(turns=9)
        cluster.now += 400.0
    assert audited(cluster) == 3


def test_moments_without_an_answer_do_not_add_up(cluster: Cluster, outage: Outage) -> None:
    """Each a few minutes after the other, with commits between them."""
    for _ in range(4):
        cluster.now += 1.0  # so that the lag is asked for
        outage.begin()
        cluster.work(turns=2)
        outage.lasts = False
        for _ in range(20):
            cluster.now += 10.0
            cluster.produce(b"a", 7)
            cluster.work(turns=2)
        assert "one" in cluster.workers


def test_an_outage_in_a_rebalance_lets_it_come_to_its_end(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the worker would go on with partitions that are somebody else's."""
    for key in (b"a", b"b", b"c", b"d"):
        cluster.produce(key, 7)
    cluster.work()
    leave, left = Quarantine.leave, []

    def unanswered(self: Quarantine, *arguments: Any) -> None:
        left.append(arguments)
        if len(left) == 1:
            raise TransportUnavailable("no answer")
        leave(self, *arguments)

    monkeypatch.setattr(Quarantine, "leave", unanswered)
    cluster.start("two")
    for key in (b"a", b"b", b"c", b"d"):
        cluster.produce(key, 7)
    for _ in range(12):
        cluster.now += 0.06
        for name in ("one", "two"):
            cluster.turn(name)
    assert left
    assert audited(cluster) == 8
    assert {"one", "two"} <= cluster.workers.keys()


def test_nor_does_one_that_comes_while_an_epoch_is_rolled_back(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        cluster.produce(key, 7)
    cluster.work()
    roll_back, tried = Intake.roll_back, []

    def unanswered(self: Intake, error: EpochAborted) -> None:
        tried.append(error)
        if len(tried) == 1:
            raise TransportUnavailable("no answer")
        roll_back(self, error)

    monkeypatch.setattr(Intake, "roll_back", unanswered)
    cluster.workers["one"].lost([Partition("in", 0)])
    assert tried
    assert list(cluster.workers["one"]._assignment.tasks) == [1]
    cluster.expel("one")
    for key in (b"a", b"b", b"c", b"d"):
        cluster.produce(key, 7)
    cluster.work(turns=12)
    assert audited(cluster) == 8


def test_a_task_that_is_being_restored_is_restored_later(cluster: Cluster, outage: Outage) -> None:
    cluster.produce(b"a", 7)
    cluster.work()
    cluster.crash("one")
    cluster.expel("one")
    cluster.start("one")
    outage.lasts = True
    cluster.work(turns=5)
    outage.lasts = False
    cluster.produce(b"a", 7)
    cluster.work(turns=12)
    assert audited(cluster) == 2


def test_a_worker_gives_up_on_a_broker_that_stays_away(cluster: Cluster, outage: Outage) -> None:
    cluster.work()
    outage.begin()
    began = cluster.now
    cluster.work(turns=4)
    worker = cluster.workers["one"]
    for _ in range(6):
        worker.turn()
    assert cluster.now - began < 300.0
    with pytest.raises(TransportUnavailable, match="no answer"):
        [worker.turn() for _ in range(100)]
    assert 300.0 < cluster.now - began < 400.0


def test_a_stop_in_an_outage_waits_for_nobody(cluster: Cluster, outage: Outage) -> None:
    cluster.produce(b"a", 7)
    cluster.work()
    outage.begin()
    cluster.work(turns=4)
    began = cluster.now
    cluster.stop("one")
    assert cluster.now == began
    outage.lasts = False
    cluster.expel("one")
    cluster.start("one")
    cluster.work(turns=9)
    assert audited(cluster) == 2
