"""Members share the partitions; what goes over goes over with its offsets; who is out can write nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest

from service.demo.broker import KafkaNode
from service.errors import Fenced, TransportUnavailable
from service.transport.interface import Committed, Partition, Sink
from tests.transport.cluster import Cluster, KafkaCluster, Member, MemoryCluster, fresh, publish, quiet, topic, until

Members = Callable[..., Member]


def opened(cluster: Cluster) -> Sink:
    sink = cluster.transport().sink(fresh("writer"), 30.0)
    sink.open(cluster.patience)
    return sink


def shared(*members: Member) -> Callable[[], bool]:
    """Whether each of them has something."""
    return lambda: all(member.follower.owned for member in members)


def test_a_second_member_gets_its_share_after_the_first_has_given_it_up(any_cluster: Cluster, members: Members) -> None:
    cluster = any_cluster
    name, group = topic(cluster, 4), fresh("group")
    first = members(cluster, group, [name], "one")
    first.join()
    assert first.follower.owned == {Partition(name, number) for number in range(4)}
    second = members(cluster, group, [name], "two")
    until(cluster, lambda: len(first.follower.owned) == len(second.follower.owned) == 2, first, second)
    assert not first.follower.owned & second.follower.owned
    assert [kind for kind, _ in first.follower.events][:2] == ["assigned", "revoked"]


def test_what_is_committed_while_revoked_is_what_the_next_owner_reads(any_cluster: Cluster, members: Members) -> None:
    cluster = any_cluster
    name, group = topic(cluster, 2), fresh("group")
    sink = opened(cluster)
    first = members(cluster, group, [name], "one")
    first.join()

    def commit(partitions: Sequence[Partition]) -> None:
        sink.begin()
        sink.send_offsets({part: Committed(10 + part.partition, "at the revocation") for part in partitions}, first.source.group())
        sink.commit(cluster.patience)

    first.follower.on_revoked = commit
    second = members(cluster, group, [name], "two")
    until(cluster, lambda: len(first.follower.owned) == len(second.follower.owned) == 1, first, second)
    [moved] = second.follower.owned
    assert second.source.committed([moved], cluster.patience) == {moved: Committed(10 + moved.partition, "at the revocation")}
    sink.close()


def test_a_partition_that_went_over_is_not_delivered_any_more(any_cluster: Cluster, members: Members) -> None:
    cluster = any_cluster
    name, group = topic(cluster, 2), fresh("group")
    for number in range(2):
        publish(cluster, Partition(name, number), [b"x"] * 500)
    first = members(cluster, group, [name], "one")
    first.join()
    for number in range(2):
        first.source.start(Partition(name, number), 0)
    while not first.poll(max_records=10):
        pass
    second = members(cluster, group, [name], "two")
    seen: list[tuple[set[Partition], set[Partition]]] = []

    def note() -> bool:
        found = first.poll(max_records=10)
        seen.append(({Partition(batch.topic, batch.partition) for batch in found}, set(first.follower.owned)))
        return bool(second.follower.owned)

    second.until(note)
    assert all(delivered <= owned for delivered, owned in seen)


@pytest.mark.broker
def test_records_in_hand_are_not_lost_when_the_listener_fails(kafka: KafkaNode, members: Members) -> None:
    cluster = KafkaCluster(kafka, "consumer")
    name, group = topic(cluster, 2), fresh("group")
    stays, leaves = members(cluster, group, [name], "one"), members(cluster, group, [name], "two")
    until(cluster, shared(stays, leaves), stays, leaves)
    [where] = stays.follower.owned
    stays.source.start(where, 0)

    class Complaint(Exception):
        pass

    def complain(partitions: Sequence[Partition]) -> None:
        publish(cluster, where, [b"arrives while the call goes on"])
        raise Complaint

    stays.follower.on_assigned = complain
    leaves.source.close()
    with pytest.raises(Complaint):
        stays.until(lambda: bool(stays.poll(timeout=2.0)) and False)
    stays.until(lambda: stays.offsets(where.partition) == [0])


@pytest.mark.broker
def test_a_start_from_inside_a_callback_lets_no_record_in_hand_through(kafka: KafkaNode, members: Members) -> None:
    member, where = in_the_middle_when_a_partition_is_added(KafkaCluster(kafka, "consumer"), members)

    def start_again(partitions: Sequence[Partition]) -> None:
        member.batches.clear()
        member.source.start(where, 3)

    member.follower.on_assigned = start_again
    member.until(lambda: len(member.follower.owned) == 2)
    member.until(lambda: len(member.offsets(where.partition)) >= 497)
    assert member.offsets(where.partition) == list(range(3, 500))


def in_the_middle_when_a_partition_is_added(cluster: KafkaCluster, members: Members) -> tuple[Member, Partition]:
    """Its next poll finds records of a partition that it has, and with them a partition that is new."""
    name, group = topic(cluster, 2), fresh("group")
    for number in range(2):
        publish(cluster, Partition(name, number), [b"x"] * 500)
    stays, leaves = members(cluster, group, [name], "one"), members(cluster, group, [name], "two")
    until(cluster, shared(stays, leaves), stays, leaves)
    [where] = stays.follower.owned
    stays.source.start(where, 0)
    while not stays.poll(max_records=10):
        pass
    leaves.source.close()
    told_until = time.monotonic() + 1.2  # two heartbeats
    while time.monotonic() < told_until:
        stays.source.committed([where], cluster.patience)
    return stays, where


def test_the_rest_takes_over_what_a_leaving_member_had(any_cluster: Cluster, members: Members) -> None:
    cluster = any_cluster
    name, group = topic(cluster, 2), fresh("group")
    stays, leaves = members(cluster, group, [name], "one"), members(cluster, group, [name], "two")
    until(cluster, shared(stays, leaves), stays, leaves)
    leaves.source.close()
    assert leaves.follower.events[-1][0] == "revoked"
    stays.until(lambda: len(stays.follower.owned) == 2)


def test_a_static_member_comes_back_to_its_partitions_and_nobody_else_moves(any_cluster: Cluster, members: Members) -> None:
    cluster = any_cluster
    name, group = topic(cluster, 2), fresh("group")
    other = members(cluster, group, [name], "other", static=True)
    before = members(cluster, group, [name], "restarted", static=True)
    until(cluster, lambda: len(other.follower.owned) == len(before.follower.owned) == 1, other, before)
    had, events = set(before.follower.owned), len(other.follower.events)
    before.source.close()
    after = members(cluster, group, [name], "restarted", static=True)
    until(cluster, shared(after), after, other)
    assert after.follower.owned == had
    assert quiet(other, 4)
    assert len(other.follower.events) == events


def test_a_second_process_under_the_same_instance_name_fences_the_first(cluster: Cluster, members: Members) -> None:
    name, group = topic(cluster), fresh("group")
    older = members(cluster, group, [name], "same", static=True)
    older.join()
    newer = members(cluster, group, [name], "same", static=True)
    newer.join()
    with pytest.raises(Fenced, match="instance"):
        older.until(lambda: False)
    assert quiet(older, 20)  # says so once, and nothing of what it has lost
    assert [kind for kind, _ in older.follower.events] == ["assigned"]
    assert quiet(newer, 2)


@pytest.mark.broker
def test_under_kip_848_the_second_process_waits_until_the_first_is_gone(
    kafka: KafkaNode, members: Members, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = KafkaCluster(kafka, "consumer")
    name, group = topic(cluster), fresh("group")
    first = members(cluster, group, [name], "same", static=True)
    first.join()
    second = members(cluster, group, [name], "same", static=True)
    until(cluster, lambda: caplog.text.count("asking again") > 1, second, first)
    assert first.follower.owned
    first.source.close()
    second.join()


def test_a_member_gets_the_same_partitions_of_every_topic(any_cluster: Cluster, members: Members) -> None:
    cluster = any_cluster
    names, group = [topic(cluster, 3), topic(cluster, 3)], fresh("group")
    both = [members(cluster, group, names, instance) for instance in ("one", "two")]
    until(cluster, lambda: sum(len(member.follower.owned) for member in both) == 6 and shared(*both)(), *both)
    for member in both:
        mine = [{part.partition for part in member.follower.owned if part.topic == name} for name in names]
        assert mine[0] == mine[1]


def test_more_members_than_partitions_leave_one_idle(any_cluster: Cluster, members: Members) -> None:
    cluster = any_cluster
    name, group = topic(cluster), fresh("group")
    first = members(cluster, group, [name], "one")
    first.join()
    second = members(cluster, group, [name], "two")
    until(cluster, lambda: second.source.group().joined, first, second)
    until(cluster, lambda: len(first.follower.owned) + len(second.follower.owned) == 1, first, second)


def test_a_member_that_was_expelled_learns_that_its_partitions_are_lost(members: Members) -> None:
    cluster = MemoryCluster()
    name, group = topic(cluster), fresh("group")
    member = members(cluster, group, [name], "one")
    member.join()
    stale = member.source.group()
    cluster.log.expire_member(group, "one")
    member.until(lambda: len(member.follower.events) == 3)
    assert [kind for kind, _ in member.follower.events] == ["assigned", "lost", "assigned"]
    assert not cluster.log.group(group).accepts(stale.identity, stale.generation)  # type: ignore[attr-defined]


@pytest.mark.broker
def test_a_member_that_the_broker_does_not_answer_loses_its_partitions_and_joins_again(kafka: KafkaNode, members: Members) -> None:
    cluster = KafkaCluster(kafka)
    name, group = topic(cluster), fresh("group")
    member = members(cluster, group, [name], "one", session=1.5)
    member.join()
    kafka.pause()
    try:
        member.until(lambda: not member.follower.owned)
    finally:
        kafka.resume()
    assert member.follower.events[1][0] == "lost"
    member.join()


@pytest.mark.broker
def test_a_session_that_ended_while_the_member_was_busy_is_no_takeover(kafka: KafkaNode, members: Members) -> None:
    cluster = KafkaCluster(kafka)
    name, group = topic(cluster), fresh("group")
    member = members(cluster, group, [name], "one", static=True, session=1.0)
    member.join()
    other = cluster.transport().reader()
    for _ in range(2):  # whether librdkafka's thread announces the former self is a matter of luck
        kafka.pause()
        try:
            with pytest.raises(TransportUnavailable):
                other.partitions(name, 2.0)
        finally:
            kafka.resume()
        busy_until = time.monotonic() + 0.5
        while time.monotonic() < busy_until:
            other.partitions(name, cluster.patience)
        assert quiet(member, 6)
        member.join()
    other.close()
    assert "lost" in [kind for kind, _ in member.follower.events]
