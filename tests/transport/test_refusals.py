"""A member that the broker refuses: librdkafka says so once, and a client that it calls fatal never joins again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from service.demo.broker import KafkaNode
from service.errors import TransportUnavailable
from service.transport.interface import Partition
from tests.faults.scene import scene
from tests.needs import require_broker
from tests.transport.cluster import KafkaCluster, Member, fresh, publish, topic

pytestmark = pytest.mark.broker

Members = Callable[..., Member]


@pytest.fixture(scope="module")
def strict() -> Iterator[KafkaNode]:
    """A broker with rights, whose groups of the new protocol have room for one."""
    require_broker()
    settings = {
        "group.consumer.max.size": "1",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with KafkaNode(settings) as node:
        yield node
        KafkaCluster(node).forget()


@contextmanager
def denied(node: KafkaNode, topic: str) -> Iterator[None]:
    """Nobody may read the topic meanwhile, or write to it: where there are rules, what they do not name is denied."""
    admin = AdminClient({"bootstrap.servers": node.bootstrap})
    of = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", AclOperation.READ, AclPermissionType.DENY)
    for done in admin.create_acls([AclBinding(*of)]).values():
        done.result(20.0)
    yield
    for found in admin.delete_acls([AclBindingFilter(*of)]).values():
        assert len(found.result(20.0)) == 1


def refused(member: Member, says: str) -> None:
    """Poll until the member says that it is refused."""
    with pytest.raises(TransportUnavailable, match=says):
        member.until(lambda: False)


def heard(member: Member, done: Callable[[], bool]) -> bool:
    """Poll until `done`, whatever is refused meanwhile."""
    deadline = time.monotonic() + member.cluster.patience
    while not done() and time.monotonic() < deadline:
        with suppress(TransportUnavailable):
            member.poll()
    return done()


def test_a_member_for_whom_there_is_no_room_says_so_until_there_is(strict: KafkaNode, members: Members) -> None:
    cluster = KafkaCluster(strict, "consumer")
    name, group = topic(cluster), fresh("group")
    first = members(cluster, group, [name], "one")
    first.join()
    second = members(cluster, group, [name], "two")
    for _ in range(3):
        refused(second, "max")
    first.source.close()
    assert heard(second, lambda: bool(second.follower.owned))


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_member_whose_right_to_read_is_taken_says_so_until_it_has_it_again(
    strict: KafkaNode, members: Members, protocol: str
) -> None:
    cluster = KafkaCluster(strict, protocol)
    where, group = Partition(topic(cluster), 0), fresh("group")
    member = members(cluster, group, [where.topic], "one")
    member.follower.on_assigned = lambda partitions: member.source.start(where, 0)
    publish(cluster, where, [b"1"])
    member.until(lambda: member.values() == [b"1"])
    with denied(strict, where.topic):
        for _ in range(2):
            refused(member, "authoriz")
    member.batches.clear()
    assert heard(member, lambda: member.values() == [b"1"])


def test_a_worker_for_which_there_is_no_room_works_once_there_is(
    strict: KafkaNode, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scene(strict.bootstrap, protocol="consumer") as play:
        other = members(KafkaCluster(strict, "consumer"), play.config.app, [play.config.input.topic], "other")
        other.join()
        worker = play.worker()
        outages = []
        note = worker.standing.note_outage
        monkeypatch.setattr(worker.standing, "note_outage", lambda error: (outages.append(error), note(error)))
        play.publish(200)
        play.turn(worker, until=lambda: len(outages) > 1)
        other.source.close()
        play.work_off(worker)
        play.leave(worker)
        assert play.verdict().passed(exact=True)
        assert play.wrong_states() == []
