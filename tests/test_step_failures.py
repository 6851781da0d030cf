"""A record that makes the network raise is found, refused and never fed again; everybody else goes on, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.codec.interface import Reason, Refusal
from service.commits import Commits
from service.errors import StepFailed
from service.quarantine import STARTS
from service.refused import RefusedRecords
from service.state import Packed, Streams
from service.streaming import Ragged
from service.transport.memory import Fault
from tests.cluster import Cluster, applications, audited, letters, when_waited_for

BAD = 77.0
"""A sample that the network of these tests cannot take."""

Step = Callable[..., Ragged]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Its network raises, with half of the step done, where a batch holds a bad sample."""
    cluster = Cluster(applications())
    program = applications()["one"].program
    step: Step = program.step

    def fragile(state: object, slots: torch.Tensor, chunks: Ragged, final: torch.Tensor | None = None) -> Ragged:
        out = step(state, slots, chunks, final=final)
        if (chunks.values == BAD).any():
            raise torch.OutOfMemoryError("no memory left for this batch")
        return out

    monkeypatch.setitem(vars(program), "step", fragile)  # an attribute would stay when the test is over
    cluster.start("one")
    yield cluster
    monkeypatch.undo()


def bad(cluster: Cluster, key: bytes, samples: int = 3) -> None:
    values = [[BAD, 0.0]] * samples
    cluster.publish(key, b'{"t":%d,"x":%s}' % (cluster.now * 1000, str(values).encode()))


def written(cluster: Cluster) -> RefusedRecords:
    """What the snapshot topic says of refused records, all partitions together."""
    found = RefusedRecords()
    for key, value, _ in cluster.read("app.snapshots"):
        found.read(key or b"", value)
    return found


def test_only_the_record_at_fault_is_refused(cluster: Cluster) -> None:
    for round_ in range(5):
        for key in (b"a", b"b", b"c", b"d"):
            cluster.produce(key, 5)
        if round_ == 2:
            bad(cluster, b"b")
    cluster.work()
    assert letters(cluster) == [(b"b", b"step_failed")]
    [(_, value, headers)] = cluster.read("app.dead-letters")
    assert b"77.0" in (value or b"")
    assert headers["penstock.message"] == b"the network raised OutOfMemoryError: no memory left for this batch"
    assert audited(cluster) == 20


def test_a_first_record_at_fault_begins_no_stream(cluster: Cluster) -> None:
    bad(cluster, b"a")
    cluster.produce(b"a", 5)
    cluster.work()
    assert [prediction["stream"] for prediction in cluster.predictions()] == [1]
    assert letters(cluster) == [(b"a", b"step_failed")]
    assert audited(cluster) == 1


def test_many_at_fault_among_many(cluster: Cluster) -> None:
    for number in range(40):
        if number % 7 == 3:
            bad(cluster, b"key-%d" % (number % 5))
        cluster.produce(b"key-%d" % (number % 5), 2)
    cluster.work()
    assert len(letters(cluster)) == 6
    assert audited(cluster) == 40


def test_finding_it_takes_few_steps(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    feed, steps = Streams.feed, []

    def counted(self: Streams, packed: Packed) -> object:
        steps.append(len(packed.slots))
        return feed(self, packed)

    monkeypatch.setattr(Streams, "feed", counted)
    for number in range(200):
        cluster.produce(b"key-%d" % number, 2)
    bad(cluster, b"key-99")
    for number in range(200):
        cluster.produce(b"key-%d" % number, 2)
    cluster.work()
    assert letters(cluster) == [(b"key-99", b"step_failed")]
    assert len(steps) < 40


def test_a_replay_leaves_it_out(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    bad(cluster, b"a")
    cluster.produce(b"a", 7)
    cluster.work(turns=4)
    assert letters(cluster) == [(b"a", b"step_failed")]
    assert written(cluster).records.keys() == {1}
    cluster.crash("one")
    cluster.start("one")
    cluster.produce(b"a", 7)
    cluster.work()
    assert letters(cluster) == [(b"a", b"step_failed")]
    assert audited(cluster) == 3


def test_what_is_written_goes_when_no_replay_can_reach_it(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    bad(cluster, b"a")
    cluster.work(turns=4)
    assert written(cluster).records
    cluster.now += 3.0  # past `snapshot_every`
    cluster.work()
    assert not written(cluster).records
    cluster.stop("one")
    cluster.start("one")
    cluster.produce(b"a", 7)
    cluster.work()
    assert audited(cluster) == 2


def test_a_task_that_goes_on_from_memory_remembers_it(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    bad(cluster, b"a")
    cluster.work(turns=4)
    assert written(cluster).records
    cluster.expel("one")  # for longer than `snapshot_every`
    cluster.work()
    assert not written(cluster).records
    assert audited(cluster) == 1


def test_a_task_handed_over_takes_it_along(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    bad(cluster, b"a")
    cluster.work(turns=4)
    cluster.expel("one")
    cluster.stall("one")
    cluster.start("two")
    cluster.produce(b"a", 7)
    cluster.work("two", turns=8)
    assert letters(cluster) == [(b"a", b"step_failed")]
    assert audited(cluster) == 2


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("commits", ["at once", "late"])
def test_faults_of_transactions_while_it_is_looked_for(cluster: Cluster, fault: Fault, commits: str) -> None:
    if commits == "late":
        cluster.crash("one")
        cluster.beside = when_waited_for
        cluster.start("one")
    for key in itertools.islice(itertools.cycle([b"a", b"b", b"c"]), 9):
        cluster.produce(key, 4)
    bad(cluster, b"b")
    cluster.produce(b"b", 4)
    cluster.log.inject(fault)
    cluster.work(turns=3)
    cluster.log.inject(fault)
    cluster.work(turns=12)
    cluster.drain()
    assert letters(cluster) == [(b"b", b"step_failed")]
    assert audited(cluster) == 10


def test_a_stop_finds_it_too(cluster: Cluster) -> None:
    cluster.produce(b"a", 7)
    cluster.work()
    bad(cluster, b"a")
    cluster.produce(b"a", 7)
    cluster.log.inject(Fault.ABORT_AT_COMMIT)
    cluster.turn("one")
    cluster.stop("one")
    cluster.start("one")
    cluster.work()
    assert letters(cluster) == [(b"a", b"step_failed")]
    assert audited(cluster) == 2


def test_a_network_that_fails_whatever_comes_blames_no_record(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.produce(b"a", 7)
    cluster.work()

    def broken(*_: object) -> None:
        raise RuntimeError("device lost")

    with monkeypatch.context() as patch:
        patch.setitem(vars(applications()["one"].program), "step", broken)
        cluster.produce(b"a", 7)
        with pytest.raises(StepFailed, match=r"even a single harmless frame: .*device lost.*No record is refused"):
            cluster.work()
    cluster.crash("one")
    cluster.start("one")
    cluster.work()
    assert letters(cluster) == []
    assert audited(cluster) == 2


def test_a_batch_too_large_for_memory_is_fed_in_parts_and_nobody_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Streams.feed
    largest = []

    def limited(self: Streams, packed: Packed) -> object:
        if len(packed.values) > 20:
            raise MemoryError
        largest.append(len(packed.values))
        return feed(self, packed)

    monkeypatch.setattr(Streams, "feed", limited)
    for key in itertools.islice(itertools.cycle([b"a", b"b", b"c"]), 15):
        cluster.produce(key, 5)
    cluster.work(turns=12)
    assert max(largest) > 5
    assert letters(cluster) == []
    assert audited(cluster) == 15


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=12))
def test_what_is_written_is_what_a_replay_may_meet(commits: list[tuple[bool, int, int, bool]]) -> None:
    """After every commit, the topic holds the refused records from `replay_from` to the committed offset, and no others."""

    task, topic = RefusedRecords(), RefusedRecords()
    start = offset = 0
    for refuse, fed, forward, happens in commits:
        if refuse:
            task.records[offset] = Refusal(Reason.STEP_FAILED, "it did")
        begin, end = min(start + forward, offset + fed + refuse), offset + fed + refuse
        owed = task.owed(begin, end)
        if happens:
            for key, value in owed:
                assert topic.read(key, value)
            task.committed(begin, end)
            start, offset = begin, end
            assert {at for at in task.records if at < offset} == topic.records.keys()
            assert all(start <= at < offset for at in topic.records)


def test_other_records_of_the_snapshot_topic_are_left_alone() -> None:
    refused = RefusedRecords()
    assert not refused.read(b"a", b"PSNP...")
    assert not refused.read(b"a", None)
    assert not refused.records


def test_a_clean_stop_ends_where_nobody_knows_what_became_of_an_abort(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """In quarantine, with one record whose commit was aborted and one that fails its step."""
    cluster.beside = when_waited_for
    cluster.work()
    for _ in range(STARTS + 1):
        cluster.crash("one")
        cluster.start("one")
        cluster.work()
    cluster.produce(b"a", 3)
    cluster.turn("one")
    cluster.now += 0.06
    cluster.log.inject(Fault.ABORT_AT_COMMIT)
    cluster.turn("one")
    bad(cluster, b"a")
    cluster.turn("one")
    assert cluster.workers["one"]._intake.waiting == 2
    cluster.log.inject(Fault.ABORT_RESPONSE_LOST)
    commits = iter(range(50))
    commit = Commits.commit

    def counted(self: Commits, closing: Collection[int] = ()) -> None:
        next(commits)  # or it would go on for ever
        commit(self, closing)

    monkeypatch.setattr(Commits, "commit", counted)
    cluster.stop("one")
    cluster.start("one")
    cluster.work(turns=12)
    assert letters(cluster) == [(b"a", b"step_failed")]
    assert audited(cluster) == 1
