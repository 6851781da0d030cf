"""The fault suite's twin on the in-memory log: no broker, no time, so that each point can be met at every pass. Quick enough to
run once for each mutation (`make mutations`)."""

from __future__ import annotations

import pytest

from service.transport.interface import Committed, Partition
from service.transport.memory import Fault
from tests.cluster import PARTITIONS, Cluster, applications, at_once, when_waited_for
from tests.faults.points import Abandon, Point, Trap
from tests.faults.states import wrong_states

KEYS = [b"a", b"b", b"c", b"d", b"e", b"f"]


WAYS = {"early": (at_once, True), "late": (when_waited_for, True), "early, not recurrent": (at_once, False)}


@pytest.fixture(params=WAYS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    beside, recurrent = WAYS[request.param]
    cluster = Cluster(applications(recurrent=recurrent))
    cluster.beside = beside
    return cluster


def load(cluster: Cluster, rounds: int = 1) -> None:
    """Some samples of every key; one of them ends, and begins again with the next round."""
    for number in range(rounds):
        for key in KEYS:
            cluster.produce(key, 3 + number)
        cluster.publish(KEYS[number % len(KEYS)], None)


def verify(cluster: Cluster) -> None:
    cluster.drain()
    report = cluster.audit()
    assert report is not None
    assert report.passed(exact=True), report
    assert report.unjudged == 0
    assert wrong_states(cluster.applications["one"], cluster.transport) == []


@pytest.mark.parametrize("nth", [1, 2, 5])
@pytest.mark.parametrize("point", Point, ids=lambda point: point.value)
def test_a_death_at_any_point(cluster: Cluster, point: Point, nth: int) -> None:
    """The first life leaves some streams snapshotted and some dirty; the second dies; the third finishes."""
    cluster.start("one")
    load(cluster, rounds=2)
    cluster.work()
    cluster.now += 1.0
    load(cluster)
    cluster.work()
    cluster.crash("one")
    trap = Trap(point, 1 if point is Point.REPLAY else nth, Abandon())
    cluster.start("one", trap)
    for turn in range(80):
        if turn % 2 == 0:
            load(cluster)
        cluster.now += 0.2
        if not trap.sprung:
            cluster.turn("one")
    assert trap.sprung
    verify(cluster)


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name.lower())
def test_a_fault_in_a_transaction(cluster: Cluster, fault: Fault) -> None:
    cluster.start("one")
    for _ in range(4):
        load(cluster)
        cluster.work()
        cluster.log.inject(fault)
        load(cluster)
        cluster.work()
    verify(cluster)


def test_a_rebalance_before_what_was_aborted_is_fed_again(cluster: Cluster) -> None:
    """The offsets that go with the snapshots of the hand-over are those of what was fed, although more was delivered."""
    cluster.start("one")
    load(cluster)
    cluster.work()
    load(cluster)
    cluster.turn("one")
    cluster.log.inject(Fault.ABORT_AT_COMMIT)
    cluster.now += 0.06
    cluster.turn("one")  # the commit begins
    cluster.turn("one")  # and has failed
    cluster.start("two")
    cluster.turn("two")
    for _ in range(6):
        cluster.now += 0.06
        cluster.turn("one")
        cluster.turn("two")
    verify(cluster)


def test_members_come_and_go_under_load(cluster: Cluster) -> None:
    """Each rebalance makes a new generation; offsets are sent under the present one."""
    cluster.start("one")
    for number in range(6):
        load(cluster)
        cluster.work(turns=3)
        cluster.start("two")
        for _ in range(5):
            load(cluster)
            cluster.now += 0.06
            for name in list(cluster.workers):
                cluster.turn(name)
        if number % 2:
            cluster.stop("two")
        else:
            cluster.crash("two")
        cluster.expel("two")
        cluster.work()
        assert "one" in cluster.workers, "the first member had no reason to give up"
    verify(cluster)


def test_a_hand_over_behind_somebodys_open_transaction(cluster: Cluster) -> None:
    """The snapshots of the stop lie behind a foreign transaction: the next owner waits for its end, however long that takes."""
    cluster.start("one")
    load(cluster)
    cluster.work()
    stranger = cluster.transport.sink("stranger", 1e9)
    stranger.open(1.0)
    stranger.begin()
    for number in range(PARTITIONS):
        stranger.produce("app.snapshots", b"never committed", key=b"stranger", partition=number)
    load(cluster)
    cluster.work()
    cluster.stop("one")
    cluster.expel("one")
    load(cluster)
    cluster.start("two")
    cluster.work("two", turns=3)
    assert not any(task.live for task in cluster.workers["two"]._assignment.tasks.values())
    stranger.abort(1.0)
    cluster.work("two")
    verify(cluster)


def test_offsets_of_a_zombie_are_not_accepted(cluster: Cluster) -> None:
    """The membership that a stalled worker had is worth nothing once another has its tasks."""
    cluster.start("one")
    load(cluster)
    cluster.work()
    zombie = cluster.workers["one"]._assignment.source.group()
    cluster.stall("one")
    cluster.expel("one")
    cluster.start("two")
    load(cluster)
    cluster.work("two")
    before = dict(cluster.log.group("app").committed)
    sink = cluster.transport.sink("zombie", 60.0)
    sink.open(1.0)
    sink.begin()
    with pytest.raises(Exception, match="not its member any more"):
        sink.send_offsets({Partition("in", 0): Committed(0, "")}, zombie)
    sink.abort(1.0)
    assert cluster.log.group("app").committed == before
    cluster.wake(0, turns=4)
    verify(cluster)
