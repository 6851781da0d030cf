"""The law, broker-free: whatever happens, the committed predictions are the module's on each key's whole input, once, bit for bit.

A state machine drives workers on the in-memory log one turn at a time and lets them crash, stop, be expelled and be fenced
anywhere in between or die in the middle of a turn, with faults in the transactions. After every rule the committed part is
audited; at the end the state of every key is compared as well. Some records make the network raise, some end the process: they,
and nobody else, are dead letters, once each.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.background import Beside
from service.codec.interface import Reason
from service.errors import Fenced
from service.quarantine import ATTEMPTS, STARTS
from service.streaming import Program, Ragged
from service.transport.interface import Partition
from service.transport.memory import Fault
from service.transport.partitioning import partition_of
from service.worker import Worker
from tests.applications import chunk
from tests.cluster import INSTANCES, PARTITIONS, ROOMS, Cluster, Room, applications, at_once, damage, when_waited_for
from tests.faults.points import Abandon, Killed, Point, Trap
from tests.faults.states import wrong_states

KEYS = [b"a", b"b", b"c", b"d", b"e"]
AT_FAULT = {77.0: Reason.STEP_FAILED, 66.0: Reason.KILLS}
"""Samples that the network cannot take, and what becomes of their records."""

_step = Program.step


def _fragile(self: Program, state: Any, slots: torch.Tensor, chunks: Ragged, final: torch.Tensor | None = None) -> Ragged:
    found = [reason for sample, reason in AT_FAULT.items() if (chunks.values == sample).any()]
    if Reason.KILLS in found:
        raise Killed
    out = _step(self, state, slots, chunks, final)
    if found:
        raise torch.OutOfMemoryError("no memory left for this batch")
    return out


class ExactlyOnce(RuleBasedStateMachine):
    @initialize(
        beside=st.sampled_from([at_once, when_waited_for]), room=st.sampled_from(ROOMS), disk=st.booleans(), recurrent=st.booleans()
    )
    def begin(self, beside: Beside, room: Room, disk: bool, recurrent: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-test-")) if disk else None
        self.cluster = Cluster(applications(room, self.directory, recurrent))
        self.cluster.beside = beside
        self.at_fault: dict[tuple[int, int], Reason] = {}  # by partition and offset
        self.deaths = 0  # that are no record's fault
        self.reached = dict[Partition, int]()
        Program.step = _fragile  # type: ignore[method-assign]
        self.cluster.start("one")

    @rule(key=st.sampled_from(KEYS), samples=st.integers(1, 40))
    def produce(self, key: bytes, samples: int) -> None:
        self.cluster.produce(key, samples)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=2, max_size=12), samples=st.integers(1, 9))
    def produce_many(self, keys: list[bytes], samples: int) -> None:
        for key in keys:
            self.cluster.produce(key, samples)

    @rule(key=st.sampled_from(KEYS))
    def end(self, key: bytes) -> None:
        self.cluster.publish(key, None)

    @rule(key=st.sampled_from(KEYS), rate=st.sampled_from([500, 1000]), samples=st.integers(1, 9))
    def change_rate(self, key: bytes, rate: int, samples: int) -> None:
        value = chunk(self.cluster.now * 1000, samples, seed=samples)
        self.cluster.publish(key, value[:-1] + b',"rate":%d}' % rate)

    @rule(key=st.sampled_from(KEYS), value=st.sampled_from([b"", b"{", b'{"t":1,"x":[[1]]}', b'{"t":1,"x":[[NaN,0]]}']))
    def poison(self, key: bytes, value: bytes) -> None:
        self.cluster.publish(key, value)

    @precondition(lambda self: len(self.at_fault) < 3)  # each of them costs up to six lives
    @rule(key=st.sampled_from(KEYS), sample=st.sampled_from(sorted(AT_FAULT)), before=st.integers(0, 2))
    def harm(self, key: bytes, sample: float, before: int) -> None:
        self.cluster.publish(key, orjson.dumps({"t": self.cluster.now * 1000, "x": [[0.5, 0.5]] * before + [[sample, 0.0]]}))
        number = partition_of(key, PARTITIONS)
        self.at_fault[number, self.cluster.log.partition(Partition("in", number)).end - 1] = AT_FAULT[sample]

    @precondition(lambda self: not self.directory)  # a local disk has what the topic has lost
    @rule(key=st.sampled_from(KEYS), harm=st.sampled_from(["blob", "header"]))
    def spoil(self, key: bytes, harm: str) -> None:
        """Whoever reads its snapshot has to rebuild the key from the log."""
        damage(self.cluster, key, harm)

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        self.cluster.now += seconds

    @precondition(lambda self: self.cluster.workers)
    @rule(data=st.data(), turns=st.integers(1, 4))
    def turn(self, data: st.DataObject, turns: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.cluster.workers)))
        for _ in range(turns):
            if name in self.cluster.workers:
                self.cluster.turn(name)

    @precondition(lambda self: self.cluster.workers)
    @rule()
    def commit(self) -> None:
        for name in list(self.cluster.workers):
            self.cluster.turn(name)
        self.cluster.now += 0.06  # whoever is left goes on
        for name in list(self.cluster.workers):
            self.cluster.turn(name)

    @rule(fault=st.sampled_from(list(Fault)))
    def fail(self, fault: Fault) -> None:
        self.cluster.log.inject(fault)

    @precondition(lambda self: len(self.cluster.workers) < len(INSTANCES))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name in INSTANCES if name not in self.cluster.workers]))
        self.cluster.start(name)

    @rule(name=st.sampled_from(INSTANCES))
    def take_over(self, name: str) -> None:
        """A second process with the same instance name: once it has joined, the first one's next turn is its last."""
        if name in self.cluster.workers:
            self.cluster.turn(name)
        first = self.cluster.workers.pop(name, None)
        self.cluster.start(name)
        self.cluster.turn(name)
        if first is not None:
            assert self._ends(first, name)
            first.streams.cold.disk.abandon()

    def _ends(self, worker: Worker, name: str) -> bool:
        """Where an older process had fenced it just before, it joins again, after the newer one, and ends when that takes its place
        back."""
        for _ in range(5):
            try:
                worker.turn()
            except (Fenced, Killed):
                return True
            if name in self.cluster.workers:
                self.cluster.turn(name)
        return False

    @precondition(lambda self: self.cluster.workers)
    @rule(data=st.data(), beyond_every_timeout=st.booleans())
    def stall(self, data: st.DataObject, beyond_every_timeout: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.cluster.workers)))
        self.cluster.stall(name)
        if beyond_every_timeout:
            self.cluster.expel(name)

    @precondition(lambda self: self.cluster.stalled)
    @rule(data=st.data(), turns=st.integers(1, 5))
    def wake(self, data: st.DataObject, turns: int) -> None:
        """Where a newer process of the same name has started, that one goes on and this one ends, sooner or later."""
        self.cluster.wake(data.draw(st.integers(0, len(self.cluster.stalled) - 1)), turns)

    @precondition(lambda self: self.cluster.workers)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.deaths += 1
        self.cluster.crash(data.draw(st.sampled_from(sorted(self.cluster.workers))))

    @precondition(lambda self: len(self.cluster.workers) < len(INSTANCES))
    @rule(data=st.data(), point=st.sampled_from(Point), nth=st.integers(1, 4))
    def start_and_die_at(self, data: st.DataObject, point: Point, nth: int) -> None:
        """The next pass, or one of those after it, will be its last."""
        name = data.draw(st.sampled_from([name for name in INSTANCES if name not in self.cluster.workers]))
        self.deaths += 1
        self.cluster.start(name, Trap(point, nth, Abandon()))

    @precondition(lambda self: self.cluster.workers)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        self.cluster.stop(data.draw(st.sampled_from(sorted(self.cluster.workers))))

    @rule(name=st.sampled_from(INSTANCES))
    def expel(self, name: str) -> None:
        self.cluster.expel(name)

    @invariant()
    def what_is_committed_is_right(self) -> None:
        report = self.cluster.audit()
        assert report is None or report.passed(exact=True), report

    @invariant()
    def committed_offsets_never_go_back(self) -> None:
        reached = {where: offset for where, (offset, _) in self.cluster.log.group("app").committed.items()}
        assert all(reached.get(where, -1) >= offset for where, offset in self.reached.items()), (self.reached, reached)
        self.reached = reached

    @invariant()
    def who_is_at_fault_is_a_dead_letter_once(self) -> None:
        if self.cluster.log.open_transactions():
            return
        letters = Counter[tuple[int, int, str]]()
        for _, _, headers in self.cluster.read("app.dead-letters"):
            number, offset, reason = ((headers[f"penstock.{name}"] or b"").decode() for name in ("partition", "offset", "error"))
            if reason in AT_FAULT.values():
                letters[int(number), int(offset), reason] += 1
        committed = {where.partition: offset for where, (offset, _) in self.cluster.log.group("app").committed.items()}
        due = {(*at, str(reason)) for at, reason in self.at_fault.items() if at[1] < committed.get(at[0], 0)}
        assert not letters or max(letters.values()) == 1, letters
        assert due <= letters.keys(), (due, letters)
        strangers = letters.keys() - due  # killed from outside again and again, alone in their steps
        assert not strangers or ({reason for *_, reason in strangers} == {Reason.KILLS} and self.deaths >= STARTS + ATTEMPTS)

    @invariant()
    def slots_add_up(self) -> None:
        for worker in self.cluster.workers.values():
            worker.streams.table.check_integrity()

    def teardown(self) -> None:
        try:
            if hasattr(self, "cluster"):
                self.at_the_end()
        finally:
            Program.step = _step  # type: ignore[method-assign]

    def at_the_end(self) -> None:
        self.cluster.drain()
        report = self.cluster.audit()
        assert report is not None
        assert report.passed(exact=True), report
        self.who_is_at_fault_is_a_dead_letter_once()
        assert wrong_states(self.cluster.applications["one"], self.cluster.transport) == []
        if self.directory:
            shutil.rmtree(self.directory)


# Half a minute; a counterexample takes longer to shrink, and is lost where it is cut off.
TestExactlyOnce = pytest.mark.timeout(1500)(ExactlyOnce.TestCase)
TestExactlyOnce.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
