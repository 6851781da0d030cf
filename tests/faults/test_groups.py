"""Rows 3, 4, 5, 16 and 17: several workers come and go, stand still, or have one name; on both group protocols (row 13)."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from typing import Any

import pytest

from service.errors import PenstockError
from service.transport.interface import Committed, GroupToken, Partition, Transport
from service.transport.kafka.group import KafkaToken
from service.worker import Worker
from tests.faults.conftest import Judged, Rounds, Scenes
from tests.faults.points import Around, Interposed
from tests.faults.process import Process

pytestmark = pytest.mark.broker

PROTOCOLS = pytest.mark.parametrize("protocol", ["classic", "consumer"])
SHORT = {"session": "2s", "transaction": "2s"}
INSTANCES = ["one", "two", "three"]


@PROTOCOLS
def test_joins_and_leaves(scenes: Scenes, rounds: Rounds, judged: Judged, protocol: str) -> None:
    changes = rounds(10 if protocol == "classic" else 4, 50)
    with scenes(protocol=protocol, static=False, **SHORT) as play:
        up: dict[str, Process] = {}
        for _ in range(changes):
            play.publish(300)
            name = play.random.choice([name for name in INSTANCES if name not in up or len(up) > 1])
            if name not in up:
                up[name] = play.process(name)
            elif play.random.random() < 0.5:
                up.pop(name).stop()
            else:
                up.pop(name).kill()
            play.wait_for(play.done() + play.random.randint(1, 200), *up.values())
        play.wait_for(play.published, *up.values())
        for process in up.values():
            process.stop()
        play.settle()
        judged(play, 3, f"joins and leaves of three workers, {protocol}", changes)


@PROTOCOLS
def test_zombies(scenes: Scenes, rounds: Rounds, judged: Judged, protocol: str) -> None:
    """A worker stands still until the other one has everything it had, and goes on in the belief that nothing has happened."""
    stalls = rounds(2 if protocol == "classic" else 1, 20)
    with scenes(protocol=protocol, static=False, **SHORT) as play:
        play.publish(100)
        pair = [play.process("one"), play.process("two")]
        play.wait_for(play.published, *pair)
        waited: list[float] = []
        for number in range(stalls):
            play.wait_until_shared(*pair)
            play.publish(300)
            play.wait_for(play.done() + play.random.randint(1, 150), *pair)
            pair[number % 2].send(signal.SIGSTOP)
            # Of both halves of the partitions: what the stopped one had, nobody takes before its session has ended.
            play.publish(100)
            began = time.monotonic()
            play.wait_for(play.published, *pair)
            waited.append(time.monotonic() - began)
            play.publish(100)
            pair[number % 2].send(signal.SIGCONT)
            play.wait_for(play.published, *pair)
        for process in pair:
            process.stop()
        play.settle()
        judged(play, 4, f"SIGSTOP beyond the session, {protocol}", stalls)
        assert min(waited) > 1.0, waited  # of a session of two seconds


@PROTOCOLS
def test_two_processes_with_one_name(scenes: Scenes, rounds: Rounds, judged: Judged, protocol: str) -> None:
    takeovers = rounds(1, 10)
    with scenes(protocol=protocol, **SHORT) as play:
        play.publish(200)
        older = play.process()
        play.wait_for(play.published, older)
        for _ in range(takeovers):
            newer = play.process()
            for _ in range(150):  # under KIP-848 the older one learns it only when it writes
                if older.wait(0.2) is not None:
                    break
                play.publish(5)
            assert older.exit == 3, older.said
            assert "another process" in older.said or "newer process" in older.said
            play.publish(200)
            play.wait_for(play.published, newer)
            older = newer
        older.stop()
        judged(play, 5, f"two processes with one name, {protocol}", takeovers)


@PROTOCOLS
def test_a_stalled_worker_whose_successor_has_started(scenes: Scenes, rounds: Rounds, judged: Judged, protocol: str) -> None:
    """A real takeover: exit 3, and the successor goes on."""
    stalls = rounds(1, 10)
    with scenes(protocol=protocol, **SHORT) as play:
        older = play.process()
        for _ in range(stalls):
            play.publish(300)
            play.wait_for(play.done() + 100, older)
            older.send(signal.SIGSTOP)
            newer = play.process()
            play.publish(300)
            play.wait_for(play.published, newer)
            play.publish(100)
            older.send(signal.SIGCONT)
            assert older.wait(40.0) == 3, older.said
            older = newer
        play.wait_for(play.published, older)
        older.stop()
        play.settle()
        judged(play, 17, f"stalled, and its successor has started, {protocol}", stalls)


def test_a_stalled_worker_that_is_alone(scenes: Scenes, rounds: Rounds, judged: Judged) -> None:
    """Fenced by the timeout of its own transaction, expelled by the group, and nobody came: it recovers."""
    stalls = rounds(1, 10)
    with scenes(**SHORT) as play:
        play.publish(200)
        process = play.process()
        for _ in range(stalls):
            play.publish(300)
            play.wait_for(play.done() + 100, process)
            process.send(signal.SIGSTOP)
            process.wait(4.0)
            process.send(signal.SIGCONT)
            play.wait_for(play.published, process)
        process.stop()
        play.settle()
        judged(play, 17, "stalled alone beyond every timeout", stalls)


class Watched(Around):
    """A sink that writes down each membership under which offsets are sent, and whether that is the present one."""

    def __init__(self, inner: Any, seen: list[tuple[bool, bool]], source: list[Any]) -> None:
        super().__init__(inner)
        self._seen, self._source = seen, source

    def send_offsets(self, offsets: Mapping[Partition, Committed], group: GroupToken) -> None:
        present = self._source[-1].group()
        assert isinstance(group, KafkaToken)
        self.inner.send_offsets(offsets, group)
        self._seen.append((group.joined, group.metadata == present.metadata))


@PROTOCOLS
def test_rebalances_before_a_join_completes(scenes: Scenes, rounds: Rounds, judged: Judged, protocol: str) -> None:
    """A second worker joins, and leaves after a few turns, often before it has been assigned anything; the first one commits on."""
    rebalances = rounds(10 if protocol == "classic" else 3, 20)
    seen: list[tuple[bool, bool]] = []

    def watching(transport: Transport) -> Interposed:
        sources: list[Any] = []

        def source(inner: Any) -> Any:
            sources.append(inner)
            return inner

        return Interposed(transport, lambda sink: Watched(sink, seen, sources), source)

    with scenes(protocol=protocol, static=False, snapshots="1s") as play:
        first = play.worker("one", watching, longest_poll=0.0)
        for _ in range(rebalances):
            play.publish(60)
            second: Worker = play.worker("two", watching, longest_poll=0.0)
            for _ in range(play.random.randint(1, 40)):
                for worker in (first, second):
                    worker.turn()
            try:
                play.leave(second)
            except PenstockError as error:
                raise AssertionError("a worker that has hardly joined leaves without a word") from error
        play.work_off(first)
        play.leave(first)
        assert len(seen) > 3
        assert all(joined and present for joined, present in seen)
        judged(play, 16, f"rebalances before a join completes, {protocol}", rebalances)
