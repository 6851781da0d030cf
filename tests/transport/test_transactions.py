"""What a transaction holds, nobody sees before it is committed, and nobody ever sees when it is not."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from service.demo.broker import KafkaNode
from service.errors import EpochAborted, Fenced, OffsetsPending, OperatorActionRequired, OutcomeUnknown, TransportUnavailable
from service.transport.interface import Committed, Isolation, Partition, Sink
from tests.transport.cluster import Cluster, KafkaCluster, Member, ends, fresh, publish, topic, until, visible, wait_for_end

Members = Callable[..., Member]


def opened(cluster: Cluster, transactional_id: str | None = None, timeout: float = 30.0) -> Sink:
    sink = cluster.transport().sink(transactional_id or fresh("writer"), timeout)
    sink.open(cluster.patience)
    return sink


def test_records_are_seen_only_after_the_commit(cluster: Cluster) -> None:
    out = Partition(topic(cluster), 0)
    sink = opened(cluster)
    sink.begin()
    sink.produce(out.topic, b"kept")
    sink.produce_many(out.topic, [b"k", None], [b"also kept", None])
    reader = cluster.transport().reader()
    wait_for_end(cluster, out, 3)
    with pytest.raises(TransportUnavailable):
        list(reader.read(out, 0, 3, timeout=0.5))
    assert visible(cluster, out, Isolation.READ_UNCOMMITTED) == [b"kept", b"also kept", None]
    sink.commit(cluster.patience)
    assert visible(cluster, out) == [b"kept", b"also kept", None]
    sink.close()


def test_aborted_records_are_never_seen_and_reading_passes_over_them(cluster: Cluster) -> None:
    out = Partition(topic(cluster), 0)
    sink = opened(cluster)
    steps = ((b"a", sink.commit), (b"lost", sink.abort), (b"b", sink.commit), (b"also lost", sink.abort))
    for step, (value, finish) in enumerate(steps):
        sink.begin()
        sink.produce(out.topic, value)
        wait_for_end(cluster, out, 2 * step + 1)  # or an abort would throw the record away before it is sent
        finish(cluster.patience)
        wait_for_end(cluster, out, 2 * step + 2)  # the marker
    assert visible(cluster, out) == [b"a", b"b"]
    sink.close()


def test_a_committed_transaction_without_a_record_changes_nothing(cluster: Cluster) -> None:
    out = Partition(topic(cluster), 0)
    sink = opened(cluster)
    sink.begin()
    sink.commit(cluster.patience)
    sink.begin()
    sink.abort(cluster.patience)
    assert ends(cluster, out) == 0
    sink.close()


def test_offsets_and_metadata_commit_with_the_records(cluster: Cluster, members: Members) -> None:
    name, out = topic(cluster, 2), Partition(topic(cluster), 0)
    first, second = Partition(name, 0), Partition(name, 1)
    member = members(cluster, fresh("group"), [name])
    member.join()
    sink = opened(cluster)
    sink.begin()
    sink.produce(out.topic, b"prediction")
    sink.send_offsets({first: Committed(7, '{"replay_from": 3, "Ä": 1}')}, member.source.group())
    sink.commit(cluster.patience)
    assert visible(cluster, out) == [b"prediction"]
    assert member.source.committed([first, second], cluster.patience) == {
        first: Committed(7, '{"replay_from": 3, "Ä": 1}'),
        second: None,
    }
    sink.close()


def test_offsets_vanish_with_an_abort(cluster: Cluster, members: Members) -> None:
    name = topic(cluster)
    where = Partition(name, 0)
    member = members(cluster, fresh("group"), [name])
    member.join()
    sink = opened(cluster)
    sink.begin()
    sink.send_offsets({where: Committed(1, "kept")}, member.source.group())
    sink.commit(cluster.patience)
    sink.begin()
    sink.send_offsets({where: Committed(2, "lost")}, member.source.group())
    sink.abort(cluster.patience)
    assert member.source.committed([where], cluster.patience) == {where: Committed(1, "kept")}
    sink.close()


def test_offsets_behind_an_open_transaction_are_pending_never_absent(cluster: Cluster, members: Members) -> None:
    name = topic(cluster)
    where = Partition(name, 0)
    member = members(cluster, fresh("group"), [name])
    member.join()
    sink = opened(cluster)
    sink.begin()
    sink.send_offsets({where: Committed(5)}, member.source.group())
    with pytest.raises(OffsetsPending):
        member.source.committed([where], 0.5)
    sink.commit(cluster.patience)
    assert member.source.committed([where], cluster.patience) == {where: Committed(5)}
    sink.close()


def test_a_member_that_has_not_joined_cannot_send_offsets(cluster: Cluster, members: Members) -> None:
    name = topic(cluster)
    member = members(cluster, fresh("group"), [name])
    token = member.source.group()
    assert not token.joined
    sink = opened(cluster)
    sink.begin()
    with pytest.raises(EpochAborted):
        sink.send_offsets({Partition(name, 0): Committed(3)}, token)
    sink.abort(cluster.patience)
    assert member.source.committed([Partition(name, 0)], cluster.patience) == {Partition(name, 0): None}
    sink.close()


def test_a_member_of_an_older_generation_cannot_send_offsets(any_cluster: Cluster, members: Members) -> None:
    cluster = any_cluster
    name, out = topic(cluster, 2), Partition(topic(cluster), 0)
    group = fresh("group")
    old = members(cluster, group, [name], "old")
    old.join()
    zombie = old.source.group()
    new = members(cluster, group, [name], "new")
    until(cluster, lambda: len(old.follower.owned) == len(new.follower.owned) == 1, old, new)
    sink = opened(cluster)
    sink.begin()
    sink.produce(out.topic, b"from a zombie")

    def send_and_commit() -> None:
        sink.send_offsets({Partition(name, 0): Committed(9)}, zombie)
        sink.commit(cluster.patience)

    with pytest.raises(EpochAborted):
        send_and_commit()
    sink.abort(cluster.patience)
    assert visible(cluster, out) == []
    assert old.source.committed([Partition(name, 0)], cluster.patience) == {Partition(name, 0): None}
    sink.begin()
    sink.send_offsets({next(iter(old.follower.owned)): Committed(9)}, old.source.group())
    sink.commit(cluster.patience)
    sink.close()


def test_the_newer_sink_fences_the_older_one(cluster: Cluster) -> None:
    out = Partition(topic(cluster), 0)
    older = opened(cluster, name := fresh("writer"))
    older.begin()
    older.produce(out.topic, b"from the older one")
    wait_for_end(cluster, out, 1)
    newer = opened(cluster, name)
    newer.begin()
    newer.produce(out.topic, b"from the newer one")
    newer.commit(cluster.patience)
    with pytest.raises(Fenced):
        older.commit(cluster.patience)
    with pytest.raises(Fenced):
        older.begin()
    assert visible(cluster, out) == [b"from the newer one"]
    older.close()
    newer.close()


def test_an_idle_sink_learns_that_it_was_fenced_when_it_writes_again(cluster: Cluster) -> None:
    out = Partition(topic(cluster), 0)
    older = opened(cluster, name := fresh("writer"))
    older.begin()
    older.produce(out.topic, b"kept")
    older.commit(cluster.patience)
    newer = opened(cluster, name)

    def write_again() -> None:
        older.begin()
        older.produce(out.topic, b"too late")
        older.commit(cluster.patience)

    with pytest.raises(Fenced):
        write_again()
    assert visible(cluster, out) == [b"kept"]
    older.close()
    newer.close()


def test_the_next_owner_ends_what_a_dead_process_had_open(cluster: Cluster) -> None:
    out = Partition(topic(cluster), 0)
    dead = opened(cluster, name := fresh("writer"))
    dead.begin()
    dead.produce(out.topic, b"never finished")
    wait_for_end(cluster, out, 1)
    publish(cluster, out, [b"behind it"])
    dead.close()
    heir = opened(cluster, name)
    assert visible(cluster, out) == [b"behind it"]
    heir.close()


def test_a_transaction_that_timed_out_is_told_from_a_takeover(cluster: Cluster) -> None:
    out = Partition(topic(cluster), 0)
    stalled = opened(cluster, name := fresh("writer"), timeout=1.0)
    stalled.begin()
    stalled.produce(out.topic, b"too slow")
    wait_for_end(cluster, out, 1)
    cluster.let_transactions_time_out(1.0)
    wait_for_end(cluster, out, 2)  # the marker of the abort
    with pytest.raises(OutcomeUnknown):
        stalled.commit(cluster.patience)
    with pytest.raises(OutcomeUnknown):
        stalled.begin()
    stalled.close()
    heir = opened(cluster, name, timeout=1.0)
    heir.begin()
    heir.produce(out.topic, b"in time")
    heir.commit(cluster.patience)
    assert visible(cluster, out) == [b"in time"]
    heir.close()


def test_a_record_that_cannot_be_delivered_fails_the_commit_at_the_latest(cluster: Cluster) -> None:
    out = Partition(topic(cluster), 0)
    sink = opened(cluster)
    sink.begin()
    sink.produce(out.topic, b"delivered")

    def produce_and_commit() -> None:
        sink.produce(out.topic, b"no such partition", partition=99)
        sink.commit(cluster.patience)

    with pytest.raises(TransportUnavailable, match=out.topic):
        produce_and_commit()
    sink.abort(cluster.patience)
    assert visible(cluster, out) == []
    sink.close()


def test_an_aborted_sink_goes_on(cluster: Cluster) -> None:
    out = Partition(topic(cluster), 0)
    sink = opened(cluster)
    for number in range(3):
        sink.begin()
        sink.produce(out.topic, b"aborted %d" % number)
        sink.abort(cluster.patience)
        sink.begin()
        sink.produce(out.topic, b"%d" % number)
        sink.commit(cluster.patience)
    assert visible(cluster, out) == [b"0", b"1", b"2"]
    sink.close()


def test_headers_keys_and_partitions_are_written_as_given(cluster: Cluster) -> None:
    name = topic(cluster, 3)
    sink = opened(cluster)
    sink.begin()
    sink.produce(name, b"v", key=b"\x00\xff", partition=2, headers=[("penstock.error", b"decode"), ("empty", None)])
    sink.commit(cluster.patience)
    reader = cluster.transport().reader()
    [batch] = [found for found in reader.read(Partition(name, 2), 0, 1, cluster.patience) if len(found)]
    assert (batch.keys, batch.values, batch.offsets) == ([b"\x00\xff"], [b"v"], [0])
    assert batch.headers(0) == [("penstock.error", b"decode"), ("empty", None)]
    reader.close()
    sink.close()


@pytest.mark.broker
def test_a_commit_without_an_answer_leaves_the_outcome_to_the_next_owner(kafka: KafkaNode, members: Members) -> None:
    cluster = KafkaCluster(kafka)
    name, out = topic(cluster), Partition(topic(cluster), 0)
    where = Partition(name, 0)
    member = members(cluster, fresh("group"), [name])
    member.join()
    sink = opened(cluster, writer := fresh("writer"))
    sink.begin()
    sink.produce(out.topic, b"committed or not")
    sink.send_offsets({where: Committed(7)}, member.source.group())
    kafka.pause()
    try:
        with pytest.raises(OutcomeUnknown, match=r"no answer within 0\.5 s"):
            sink.commit(0.5)
        with pytest.raises(OutcomeUnknown):
            sink.begin()
    finally:
        kafka.resume()
    sink.close()
    heir = opened(cluster, writer)
    committed = member.source.committed([where], cluster.patience)
    assert (visible(cluster, out), committed[where]) in [([b"committed or not"], Committed(7)), ([], None)]
    heir.close()


@pytest.mark.broker
def test_a_record_that_is_too_large_says_which_settings_to_raise(kafka_cluster: KafkaCluster) -> None:
    cluster = kafka_cluster
    out = topic(cluster)
    sink = opened(cluster)
    sink.begin()
    with pytest.raises(OperatorActionRequired, match=rf"{out}.*max\.message\.bytes"):
        sink.produce(out, bytes(2_000_000))
    sink.abort(cluster.patience)
    sink.close()


@pytest.mark.broker
def test_an_abort_soon_after_the_first_record_does_not_ruin_the_producer(kafka_cluster: KafkaCluster) -> None:
    """Without care one abort in forty overtakes the registration of the partition, which is fatal to librdkafka's producer."""
    cluster = kafka_cluster
    out = Partition(topic(cluster), 0)
    sink, reader = opened(cluster), cluster.transport().reader()
    for _ in range(60):
        sink.begin()
        sink.produce(out.topic, b"kept")
        sink.commit(cluster.patience)
        sink.begin()
        sink.produce(out.topic, b"lost")
        reader.watermarks(out, cluster.patience)  # a moment
        sink.abort(cluster.patience)
    assert visible(cluster, out) == [b"kept"] * 60
    reader.close()
    sink.close()


@pytest.mark.broker
def test_an_abort_while_the_broker_stands_still_does_not_ruin_the_producer(kafka: KafkaNode, kafka_cluster: KafkaCluster) -> None:
    cluster = kafka_cluster
    out = Partition(topic(cluster), 0)
    sink = opened(cluster)
    for _ in range(5):
        sink.begin()
        sink.produce(out.topic, b"kept")
        sink.commit(cluster.patience)
        sink.begin()
        kafka.pause()
        resume = threading.Timer(0.5, kafka.resume)
        resume.start()
        sink.produce(out.topic, b"lost")
        sink.abort(cluster.patience)
        resume.join()
    assert visible(cluster, out) == [b"kept"] * 5
    sink.close()
