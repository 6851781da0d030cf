"""Members share the partitions; what goes over goes over with its offsets; who is out can write nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest

from service.demo.broker import KafkaNode
from service.errors import Fenced, OffsetsPending
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
def test_a_partition_that_stays_loses_no_record_when_the_listener_fails(kafka: KafkaNode, members: Members) -> None:
    first, second, stays = running_while_a_second_member_joins(KafkaCluster(kafka, "consumer"), members)

    class Complaint(Exception):
        pass

    def complain(partitions: Sequence[Partition]) -> None:
        raise Complaint

    first.follower.on_revoked = complain
    with pytest.raises(Complaint):
        second.until(lambda: not first.poll(max_records=10) and False)
    first.until(lambda: len(first.offsets(stays(first).partition)) == 500)
    assert first.offsets(stays(first).partition) == list(range(500))


@pytest.mark.broker
def test_a_start_from_inside_a_revocation_lets_nothing_stale_through(kafka: KafkaNode, members: Members) -> None:
    first, second, stays = running_while_a_second_member_joins(KafkaCluster(kafka, "consumer"), members)

    def start_again(partitions: Sequence[Partition]) -> None:
        first.follower.owned.difference_update(partitions)
        first.batches.clear()
        first.source.start(stays(first), 3)

    first.follower.on_revoked = start_again
    second.until(lambda: bool(second.follower.owned) or (first.poll(max_records=10) and False))
    first.until(lambda: len(first.offsets(stays(first).partition)) >= 497)
    assert first.offsets(stays(first).partition) == list(range(3, 500))


def running_while_a_second_member_joins(
    cluster: KafkaCluster, members: Members
) -> tuple[Member, Member, Callable[[Member], Partition]]:
    """A member that is in the middle of two long partitions, one of which a second member will take."""
    name, group = topic(cluster, 2), fresh("group")
    for number in range(2):
        publish(cluster, Partition(name, number), [b"x"] * 500)
    first = members(cluster, group, [name], "one")
    first.join()
    for number in range(2):
        first.source.start(Partition(name, number), 0)
    while not first.poll(max_records=10):
        pass
    return first, members(cluster, group, [name], "two"), lambda member: next(iter(member.follower.owned))


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
    member = members(cluster, group, [name], "one", static=True, session=1.5)
    member.join()
    kafka.pause()
    try:
        with pytest.raises(OffsetsPending):
            member.source.committed([Partition(name, 0)], 2.5)
    finally:
        kafka.resume()
    busy_until = time.monotonic() + 1.0  # in which librdkafka's own thread sends heartbeats
    while time.monotonic() < busy_until:
        member.source.committed([Partition(name, 0)], cluster.patience)
    member.until(lambda: len(member.follower.events) == 3)
    assert [kind for kind, _ in member.follower.events] == ["assigned", "lost", "assigned"]
