"""A commit whose answer is lost has happened or not; what memory holds afterwards must be true either way."""

from __future__ import annotations

from service.transport.memory import Fault
from service.transport.partitioning import partition_of
from tests.cluster import PARTITIONS, Cluster, applications, audited

HERE = [key for key in (b"%c" % letter for letter in range(97, 123)) if partition_of(key, PARTITIONS) == 0]
ELSEWHERE = next(key for key in (b"%c" % letter for letter in range(97, 123)) if partition_of(key, PARTITIONS) == 1)


def test_a_snapshot_alone_may_be_what_the_lost_commit_wrote() -> None:
    """The offsets are those of the commit before, and so is what must be replayed; yet the topic has one more snapshot, and that
    stream owes a tombstone when it ends."""
    first, older, younger = HERE[:3]
    cluster = Cluster(applications())
    cluster.start("one")
    cluster.produce(first, 5)
    cluster.produce(older, 5)
    cluster.work()
    cluster.now += 3.0
    cluster.work()  # both are snapshotted
    cluster.publish(first, None)
    cluster.work()  # and its slot, the lower one, is free
    cluster.produce(older, 5)
    cluster.produce(younger, 5)
    cluster.work(turns=3)
    cluster.now += 0.6
    before = len(cluster.snapshots())
    cluster.log.inject(Fault.COMMIT_RESPONSE_LOST)
    cluster.produce(ELSEWHERE, 5)  # a commit of the other task, with a share of snapshots
    cluster.work()
    assert [key for key, _ in cluster.snapshots()[before:]] == [younger], "this is about its snapshot in the lost commit"
    cluster.publish(younger, None)
    cluster.work()
    cluster.now += 3.0
    cluster.work()
    cluster.crash("one")
    cluster.start("one")
    cluster.produce(younger, 5)
    cluster.work()
    assert audited(cluster) == 6
