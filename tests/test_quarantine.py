"""A record that ends the process each time it is stepped is found by the processes that come after, and refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from service import quarantine
from service.codec.chunks import ChunkDecoder
from service.codec.interface import Chunks
from service.errors import OutcomeUnknown, TransportUnavailable
from service.quarantine import ATTEMPTS, STARTS, Quarantine, Suspicion
from service.streaming import Ragged
from service.task import Phase
from service.transport.interface import RecordBatch
from service.transport.memory import Fault
from service.transport.memory.sink import MemorySink
from service.transport.memory.source import MemorySource
from service.transport.memory.transport import MemoryPublisher
from service.transport.partitioning import partition_of
from service.worker import Worker
from tests.cluster import PARTITIONS, Cluster, applications, audited, letters

DEADLY = 66.0

Step = Callable[..., Ragged]


class Killed(BaseException):
    """What kill -9 or a segmentation fault is to the process: nothing catches it."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Its processes end where a batch holds a deadly sample."""
    program = applications()["one"].program
    step: Step = program.step

    def deadly(state: object, slots: torch.Tensor, chunks: Ragged, final: torch.Tensor | None = None) -> Ragged:
        if (chunks.values == DEADLY).any():
            raise Killed
        return step(state, slots, chunks, final=final)

    monkeypatch.setitem(vars(program), "step", deadly)  # an attribute would stay when the test is over
    cluster = Cluster(applications())
    cluster.start("one")
    yield cluster
    monkeypatch.undo()


def deadly(cluster: Cluster, key: bytes) -> None:
    cluster.publish(key, b'{"t":%d,"x":[[66.0,0],[0,0]]}' % (cluster.now * 1000))


def supervise(cluster: Cluster, turns: int = 12) -> int:
    """Restart whatever dies; how often that was."""
    deaths = 0
    while turns:
        turns -= 1
        try:
            cluster.work(turns=1)
        except Killed:
            deaths += 1
            assert deaths < 50
            cluster.crash("one")
            cluster.start("one")
            turns = 12
    return deaths


def in_partition(number: int) -> bytes:
    return next(key for key in (b"%d" % n for n in range(99)) if partition_of(key, PARTITIONS) == number)


def feed(cluster: Cluster) -> None:
    """Until records have been stepped, but not committed."""
    for _ in range(20):
        cluster.turn("one")
        if cluster.workers["one"].commits.epoch.records:
            return
    raise AssertionError("nothing was fed")


def test_a_deadly_record_is_refused_in_the_end_and_nobody_else(cluster: Cluster) -> None:
    for key in (b"a", b"b", b"a"):
        cluster.produce(key, 4)
    deadly(cluster, b"a")
    for key in (b"a", b"b", b"c"):
        cluster.produce(key, 4)
    assert supervise(cluster) == STARTS + ATTEMPTS
    assert letters(cluster) == [(b"a", b"kills")]
    assert audited(cluster) == 6


def test_a_record_that_kills_while_it_is_decoded_is_refused_too(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody decodes it again: no later process, no replay, no audit."""
    decode = ChunkDecoder.decode

    def fragile(self: ChunkDecoder, keys: Sequence[bytes | None], values: Sequence[bytes | None], stamps: Sequence[int]) -> Chunks:
        if any(b"deadly" in (value or b"") for value in values):
            raise Killed
        return decode(self, keys, values, stamps)

    monkeypatch.setattr(ChunkDecoder, "decode", fragile)
    for key in (b"a", b"b", b"a"):
        cluster.produce(key, 4)
    cluster.publish(b"a", b'{"t":1,"x":"deadly"}')
    for key in (b"a", b"b", b"c"):
        cluster.produce(key, 4)
    assert supervise(cluster) == STARTS + ATTEMPTS
    assert letters(cluster) == [(b"a", b"kills")]
    assert audited(cluster) == 6
    cluster.crash("one")
    cluster.start("one")
    cluster.produce(b"a", 4)
    assert supervise(cluster) == 0
    assert audited(cluster) == 7


def test_after_committed_work_too(cluster: Cluster) -> None:
    cluster.produce(b"a", 4)
    cluster.work()
    deadly(cluster, b"a")
    deadly(cluster, b"a")
    cluster.produce(b"a", 4)
    supervise(cluster)
    assert letters(cluster) == [(b"a", b"kills")] * 2
    assert audited(cluster) == 2
    cluster.crash("one")
    cluster.start("one")
    cluster.produce(b"a", 4)
    assert supervise(cluster) == 0  # the replay leaves them out
    assert audited(cluster) == 3


def test_crashes_with_many_records_in_flight_refuse_nobody(cluster: Cluster) -> None:
    for _ in range(3 * (STARTS + ATTEMPTS)):
        cluster.produce(b"a", 4)
        feed(cluster)
        cluster.crash("one")
        cluster.start("one")
    cluster.work(turns=12)
    assert letters(cluster) == []
    assert audited(cluster) == 3 * (STARTS + ATTEMPTS)


def test_ends_in_good_order_raise_no_suspicion(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []
    attempt = Quarantine.attempt

    def watched(self: Quarantine, task: int, suspicion: Suspicion, offset: int) -> object:
        attempts.append(offset)
        return attempt(self, task, suspicion, offset)

    monkeypatch.setattr(Quarantine, "attempt", watched)
    for _ in range(STARTS + 3):
        cluster.work()
        cluster.stop("one")
        cluster.start("one")
    cluster.produce(b"a", 4)
    cluster.work()
    assert attempts == []
    assert audited(cluster) == 1


def test_an_attempt_is_written_before_the_step_and_awaited() -> None:
    said: list[str] = []

    class Spy:
        def publish(self, topic: str, value: bytes | None, **_: object) -> None:
            said.append("written")

        def flush(self, timeout: float) -> None:
            said.append("awaited")

    quarantine = Quarantine(Spy(), "snapshots", 10, 1.0)  # type: ignore[arg-type]  # a spy needs no more
    assert quarantine.attempt(0, Suspicion(), 7) is None
    assert said == ["written", "awaited"]


def test_quarantine_ends() -> None:
    written: dict[bytes, bytes] = {}

    class Topic:
        def publish(self, topic: str, value: bytes, key: bytes, partition: int) -> None:
            written[key] = value

        def flush(self, timeout: float) -> None: ...

    suspicion = Suspicion()
    for _ in range(STARTS + 1):
        assert not suspicion.reach
        suspicion = Suspicion()
        for key, value in written.items():
            assert suspicion.read(key, value)
        Quarantine(Topic(), "snapshots", 10, 1.0).begin(0, suspicion, 100)  # type: ignore[arg-type]
    assert suspicion.reaches(range(100, 104))
    assert suspicion.reaches(range(102, 108))
    assert suspicion.reaches(range(508, 600))  # behind a gap
    assert suspicion.reaches([509])
    assert not suspicion.reaches([510])
    Quarantine(Topic(), "snapshots", 10, 1.0).begin(0, again := Suspicion(100, STARTS), 101)  # type: ignore[arg-type]
    assert not again.reaches([101])


def test_a_deadly_record_behind_a_gap_is_found(cluster: Cluster) -> None:
    """Offsets without records, such as those of an aborted transaction, may be more than a process has in its hands."""
    cluster.produce(b"a", 4)
    cluster.work()
    producer = cluster.transport.sink("producer", 1000.0)
    producer.open(1.0)
    producer.begin()
    for _ in range(3 * cluster.config.poll.max_records):
        producer.produce("in", b"x", key=b"a")
    producer.abort(1.0)
    deadly(cluster, b"a")
    supervise(cluster)
    assert letters(cluster) == [(b"a", b"kills")]


@pytest.mark.parametrize("killer", [0, 1])
def test_a_record_of_another_partition_in_the_same_poll_is_no_killer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, killer: int
) -> None:
    poll = MemorySource.poll

    def together(self: MemorySource, max_records: int, timeout: float) -> list[RecordBatch]:
        """What was just started is fetched some polls later, all partitions at once."""
        started = list(self._positions)
        if len(started) == PARTITIONS:
            return poll(self, max_records, timeout)
        self.pause(started)
        nothing = poll(self, max_records, timeout)
        self.resume(started)
        return nothing

    monkeypatch.setattr(MemorySource, "poll", together)
    cluster.crash("one")
    mine, another = (in_partition(number) for number in (killer, 1 - killer))
    cluster.produce(another, 4)
    deadly(cluster, mine)
    cluster.start("one")
    supervise(cluster)
    assert letters(cluster) == [(mine, b"kills")]


@pytest.mark.parametrize("alive", [True, False])
def test_what_ends_in_a_commit_was_no_attempt(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, alive: bool) -> None:
    """Steps that take longer than an epoch, so that each record is committed alone, and a broker that does not answer."""
    program = applications()["one"].program
    step: Step = program.step

    def slow(*args: object, **settings: object) -> Ragged:
        cluster.now += 0.06
        return step(*args, **settings)

    monkeypatch.setitem(vars(program), "step", slow)  # an attribute would stay when the test is over
    for _ in range(3):
        cluster.produce(b"a", 4)
    for _ in range(STARTS + ATTEMPTS + 3):
        cluster.log.inject(Fault.COMMIT_REQUEST_LOST)
        for _ in range(20):
            cluster.work(turns=1)
            if not cluster.log._faults:
                break
        if not alive:
            cluster.crash("one")
            cluster.start("one")
    cluster.work(turns=20)
    assert letters(cluster) == []
    assert audited(cluster) == 3


def test_a_process_killed_from_outside_while_in_quarantine_refuses_nobody(cluster: Cluster) -> None:
    cluster.produce(b"a", 4)
    for _ in range(STARTS + ATTEMPTS + 3):
        feed(cluster)
        cluster.crash("one")
        cluster.start("one")
    cluster.work(turns=12)
    assert letters(cluster) == []
    assert audited(cluster) == 1


def test_attempts_on_a_later_record_are_remembered_while_earlier_ones_pass() -> None:
    class Topic:
        def publish(self, *_: object, **__: object) -> None: ...

        def flush(self, timeout: float) -> None: ...

    suspicion = Suspicion(tried=9, attempts=2)
    quarantine = Quarantine(Topic(), "snapshots", 10, 1.0)  # type: ignore[arg-type]
    quarantine.outlived(0, suspicion, 5)
    assert (suspicion.tried, suspicion.attempts) == (9, 2)
    quarantine.outlived(0, suspicion, 9)
    assert suspicion.attempts == 0


def in_quarantine(cluster: Cluster) -> Worker:
    """A worker whose only record is suspect, since processes ended while it was in flight."""
    cluster.produce(b"a", 4)
    for _ in range(STARTS):
        feed(cluster)
        cluster.crash("one")
        cluster.start("one")
    return cluster.workers["one"]


def test_attempts_that_the_process_outlived_do_not_count_though_nobody_learned_of_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, lost = in_quarantine(cluster), [0]
    publish = MemoryPublisher.publish

    def flaky(self: MemoryPublisher, topic: str, value: bytes | None, **where: Any) -> None:
        if where["key"] == quarantine._ATTEMPT_KEY and quarantine._COUNTED.unpack(value or b"")[2] == 0 and lost[0] < ATTEMPTS:
            lost[0] += 1
            raise TransportUnavailable("no answer")
        publish(self, topic, value, **where)

    monkeypatch.setattr(MemoryPublisher, "publish", flaky)
    cluster.work(turns=40)
    assert (cluster.workers["one"], lost) == (worker, [ATTEMPTS])
    assert letters(cluster) == []
    assert audited(cluster) == 1


def test_nor_do_those_that_ended_before_the_step(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, failures = in_quarantine(cluster), [ATTEMPTS]
    begin = MemorySink.begin

    def failing(self: MemorySink) -> None:
        if worker._intake._quarantine._tried and failures[0]:
            failures[0] -= 1
            raise self._break(OutcomeUnknown("the producer's epoch is gone"))
        begin(self)

    monkeypatch.setattr(MemorySink, "begin", failing)
    cluster.work(turns=40)
    assert (cluster.workers["one"], failures) == (worker, [0])
    assert letters(cluster) == []
    assert audited(cluster) == 1


def test_ends_in_good_order_while_a_task_replays_raise_no_suspicion(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        cluster.produce(in_partition(0), 4)
        cluster.work()
    cluster.crash("one")
    monkeypatch.setattr(Worker, "_appetite", lambda _: 1)
    for _ in range(STARTS + 3):
        cluster.start("one")
        cluster.work(turns=1)
        while cluster.workers["one"]._assignment.tasks[0].phase is Phase.RESTORING:
            cluster.work(turns=1)
        assert cluster.workers["one"]._assignment.tasks[0].phase is Phase.REPLAYING
        cluster.stop("one")
    cluster.start("one")
    cluster.work(turns=20)
    assert not cluster.workers["one"]._assignment.tasks[0].suspicion.reach
