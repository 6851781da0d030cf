"""The law, broker-free: whatever happens, the committed predictions are the module's on each key's whole input, once, bit for bit.

A state machine drives workers on the in-memory log one turn at a time and lets them crash, stop, be expelled and be fenced
anywhere in between or die in the middle of a turn, with faults in the transactions. After every rule the committed part is
audited; at the end the state of every key is compared as well.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.background import Beside
from service.errors import Fenced
from service.transport.memory import Fault
from tests.applications import chunk
from tests.cluster import INSTANCES, ROOMS, Cluster, Room, applications, at_once, when_waited_for
from tests.faults.points import Abandon, Killed, Point, Trap
from tests.faults.states import wrong_states

KEYS = [b"a", b"b", b"c", b"d", b"e"]


class ExactlyOnce(RuleBasedStateMachine):
    @initialize(beside=st.sampled_from([at_once, when_waited_for]), room=st.sampled_from(ROOMS), disk=st.booleans())
    def begin(self, beside: Beside, room: Room, disk: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-test-")) if disk else None
        self.cluster = Cluster(applications(room, self.directory))
        self.cluster.beside = beside
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
        self.cluster.now += 0.06
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
            with pytest.raises((Fenced, Killed)):
                first.turn()

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
        self.cluster.crash(data.draw(st.sampled_from(sorted(self.cluster.workers))))

    @precondition(lambda self: len(self.cluster.workers) < len(INSTANCES))
    @rule(data=st.data(), point=st.sampled_from(Point), nth=st.integers(1, 4))
    def start_and_die_at(self, data: st.DataObject, point: Point, nth: int) -> None:
        """The next pass, or one of those after it, will be its last."""
        name = data.draw(st.sampled_from([name for name in INSTANCES if name not in self.cluster.workers]))
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
    def slots_add_up(self) -> None:
        for worker in self.cluster.workers.values():
            worker.streams.table.check_integrity()

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.drain()
            report = self.cluster.audit()
            assert report is not None
            assert report.passed(exact=True), report
            assert wrong_states(self.cluster.applications["one"], self.cluster.transport) == []
            if self.directory:
                shutil.rmtree(self.directory)


TestExactlyOnce = ExactlyOnce.TestCase
TestExactlyOnce.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
