"""What only the in-memory log has: faults on demand, an administrator's surprises, and several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from service.errors import EpochAborted, Fenced, OutcomeUnknown, TransportUnavailable
from service.transport.interface import Committed, Membership, Partition, TopicDescription
from service.transport.memory import Fault, MemoryLog, MemoryTransport
from service.transport.memory.sink import MemorySink
from tests.transport.cluster import Follower, Member, MemoryCluster, fresh, publish, topic, visible

OUT = Partition("out", 0)


@pytest.fixture
def cluster() -> MemoryCluster:
    cluster = MemoryCluster()
    cluster.log.create(TopicDescription("out", 1))
    return cluster


def opened(cluster: MemoryCluster, name: str = "writer", timeout: float = 10.0) -> MemorySink:
    sink = MemoryTransport(cluster.log).sink(name, timeout)
    sink.open(1.0)
    return sink


@pytest.mark.parametrize("send", [lambda sink: sink.produce("out", b"x"), lambda sink: sink.produce_many("out", [None], [b"x"])])
def test_a_send_that_fails_is_told_at_the_next_call_and_needs_an_abort(
    cluster: MemoryCluster, send: Callable[[MemorySink], None]
) -> None:
    sink = opened(cluster)
    cluster.log.inject(Fault.SEND_FAILS)
    sink.begin()
    send(sink)
    with pytest.raises(EpochAborted):
        sink.commit(1.0)
    sink.abort(1.0)
    sink.begin()
    sink.produce("out", b"kept")
    sink.commit(1.0)
    assert visible(cluster, OUT) == [b"kept"]


def test_the_broker_may_demand_an_abort_at_the_commit(cluster: MemoryCluster) -> None:
    sink = opened(cluster)
    cluster.log.inject(Fault.ABORT_AT_COMMIT)
    sink.begin()
    sink.produce("out", b"lost")
    with pytest.raises(EpochAborted):
        sink.commit(1.0)
    sink.abort(1.0)
    assert visible(cluster, OUT) == []


@pytest.mark.parametrize(
    ("fault", "outcome"), [(Fault.COMMIT_REQUEST_LOST, []), (Fault.COMMIT_RESPONSE_LOST, [b"committed or not"])]
)
def test_a_lost_commit_leaves_the_outcome_to_the_next_owner(cluster: MemoryCluster, fault: Fault, outcome: list[bytes]) -> None:
    sink = opened(cluster)
    cluster.log.inject(fault)
    sink.begin()
    sink.produce("out", b"committed or not")
    for call in (lambda: sink.commit(1.0), sink.begin, lambda: sink.abort(1.0)):
        with pytest.raises(OutcomeUnknown):
            call()
    opened(cluster)
    assert visible(cluster, OUT) == outcome


def test_an_abort_whose_answer_is_lost_leaves_the_sink_unusable(cluster: MemoryCluster) -> None:
    sink = opened(cluster)
    cluster.log.inject(Fault.ABORT_RESPONSE_LOST)
    sink.begin()
    sink.produce("out", b"aborted")
    with pytest.raises(OutcomeUnknown):
        sink.abort(1.0)
    with pytest.raises(OutcomeUnknown):
        sink.begin()
    assert visible(cluster, OUT) == []


def test_a_fault_strikes_once(cluster: MemoryCluster) -> None:
    cluster.log.inject(Fault.SEND_FAILS)
    assert cluster.log.strikes(Fault.SEND_FAILS)
    assert not cluster.log.strikes(Fault.SEND_FAILS)


def test_a_transaction_times_out_by_the_clock_alone(cluster: MemoryCluster) -> None:
    sink = opened(cluster, timeout=10.0)
    sink.begin()
    sink.produce("out", b"slow")
    cluster.now += 10.0
    sink.produce("out", b"in time")
    cluster.now += 0.1
    with pytest.raises(OutcomeUnknown):
        sink.commit(1.0)
    assert visible(cluster, OUT) == []


def test_a_takeover_after_the_timeout_still_ends_the_older_one(cluster: MemoryCluster) -> None:
    sink = opened(cluster)
    opened(cluster)
    cluster.now += 60.0
    with pytest.raises(Fenced):
        sink.begin()


def test_misuse_is_told_at_once(cluster: MemoryCluster) -> None:
    sink = MemoryTransport(cluster.log).sink("writer", 10.0)
    with pytest.raises(RuntimeError, match="open"):
        sink.begin()
    sink.open(1.0)
    with pytest.raises(RuntimeError, match="begin"):
        sink.produce("out", b"x")
    sink.begin()
    with pytest.raises(RuntimeError, match="inside"):
        sink.begin()


def test_added_partitions_are_there_at_once(cluster: MemoryCluster) -> None:
    cluster.log.add_partitions("out", 3)
    publish(cluster, Partition("out", 2), [b"x"])
    assert cluster.transport().reader().partitions("out", 1.0) == 3
    assert visible(cluster, Partition("out", 2)) == [b"x"]
    with pytest.raises(TransportUnavailable, match="3"):
        cluster.transport().reader().watermarks(Partition("out", 3), 1.0)


def test_forgotten_offsets_are_absent(cluster: MemoryCluster) -> None:
    member = Member(cluster, "group", ["out"])
    member.join()
    sink = opened(cluster)
    sink.begin()
    sink.send_offsets({OUT: Committed(1)}, member.source.group())
    sink.commit(1.0)
    cluster.log.forget_offsets("group", [OUT])
    assert member.source.committed([OUT], 1.0) == {OUT: None}


def test_retention_cannot_take_what_is_not_there(cluster: MemoryCluster) -> None:
    with pytest.raises(ValueError, match="not in the log"):
        cluster.log.delete_before(OUT, 1)


def test_a_static_member_that_closed_keeps_the_others_waiting_until_its_session_ends(cluster: MemoryCluster) -> None:
    name, group = topic(cluster, 2), fresh("group")
    gone, rest = (Member(cluster, group, [name], instance, static=True) for instance in ("gone", "rest"))
    gone.join()
    gone.source.close()
    for _ in range(3):
        rest.poll(timeout=0.0)
    assert rest.follower.owned == set()
    cluster.log.expire_member(group, "gone")
    rest.join()
    assert rest.follower.owned == {Partition(name, 0), Partition(name, 1)}


def test_a_waiting_poll_is_woken_by_a_record_from_another_thread(cluster: MemoryCluster) -> None:
    member = Member(cluster, "group", ["out"])
    member.join()
    member.source.start(OUT, 0)
    writer = threading.Thread(target=publish, args=(cluster, OUT, [b"woken"]))
    writer.start()
    assert [batch.values for batch in member.source.poll(10, 30.0)] == [[b"woken"]]
    writer.join()


def test_threads_that_write_read_and_work_at_once_lose_and_repeat_nothing() -> None:
    """As in the demo: simulator, worker and audience on one log, under the real clock."""
    log = MemoryLog()
    transport = MemoryTransport(log)
    transport.admin().create([TopicDescription("in", 2), TopicDescription("out", 1)], 1.0)
    count = 400

    def write() -> None:
        publisher = transport.publisher()
        for number in range(count):
            publisher.publish("in", b"%d" % number, key=b"%d" % number)

    def work() -> None:
        follower = Follower()
        source, sink = transport.source(Membership("group", "one")), transport.sink("one", 10.0)
        follower.on_assigned = lambda partitions: [source.start(partition, 0) for partition in partitions] and None
        sink.open(1.0)
        source.subscribe(["in"], follower)
        done = 0
        while done < count:
            sink.begin()
            for batch in source.poll(50, 0.05):
                sink.produce_many("out", batch.keys, batch.values)
                offset = Committed(batch.offsets[-1] + 1)
                sink.send_offsets({Partition("in", batch.partition): offset}, source.group())
                done += len(batch)
            sink.commit(1.0)

    run_together(write, work)
    _, end = transport.reader().watermarks(OUT, 1.0)
    values = [value for batch in transport.reader().read(OUT, 0, end, 5.0) for value in batch.values]
    assert sorted(values, key=lambda value: int(value or b"")) == [b"%d" % number for number in range(count)]


def run_together(*targets: Callable[[], None]) -> None:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()
