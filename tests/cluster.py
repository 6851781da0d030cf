"""Workers on the in-memory log, driven one turn at a time, with a clock that only the test moves."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from service.app import Application, required_topics
from service.audit import AuditReport
from service.audit.read import audit
from service.background import Beside, Wait
from service.config import Config
from service.errors import Fenced, TransportUnavailable
from service.transport.interface import Isolation, Partition, RecordBatch
from service.transport.memory import Fault, MemoryLog, MemoryTransport
from service.transport.memory.partition import Fate
from service.transport.partitioning import partition_of
from service.worker import Worker
from tests.applications import chunk, configured
from tests.faults.points import Killed, Trap, trapped

PARTITIONS = 2
INSTANCES = ["one", "two"]


def at_once(call: Callable[[], None]) -> Wait:
    """A commit that is over before anybody waits for it; its error comes when somebody does."""
    try:
        call()
    except Exception as error:
        failure = error

        def fail() -> None:
            raise failure

        return fail
    return lambda: None


def when_waited_for(call: Callable[[], None]) -> Wait:
    """A commit as late as can be."""
    return call


class Cluster:
    """A log, a clock that only tests move, and the workers that are up."""

    def __init__(self, applications: dict[str, Application]) -> None:
        self.applications = applications
        self.config: Config = applications["one"].config
        self.now = 1_700_000_000.0
        self.log = MemoryLog(clock=lambda: self.now)
        self.transport = MemoryTransport(self.log)
        self.transport.admin().create(required_topics(self.config, PARTITIONS), 1.0)
        self.workers: dict[str, Worker] = {}
        self.newest: dict[str, Worker] = {}
        self.stalled: list[tuple[str, Worker]] = []
        self.beside: Beside = at_once
        self.seed = 0

    def produce(self, key: bytes, samples: int) -> None:
        self.seed += 1
        self.publish(key, chunk(self.now * 1000, samples, self.seed))

    def publish(self, key: bytes, value: bytes | None) -> None:
        self.transport.publisher().publish("in", value, key=key)

    def start(self, name: str, trap: Trap | None = None) -> None:
        transport = trapped(self.transport, trap) if trap else self.transport
        worker = self.applications[name].worker(
            transport, clock=lambda: self.now, longest_poll=0.0, beside=self.beside, wall=lambda: self.now
        )
        worker.standing.sleep = self._pass
        worker.open()
        self.workers[name] = self.newest[name] = worker

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def turn(self, name: str) -> None:
        """A worker that finds itself fenced, gives up, or is killed by its trap, is gone, as the process would be."""
        if not self._survives(name, self.workers[name]):
            self.crash(name)

    def stall(self, name: str) -> None:
        """The process stands still, for nobody knows how long."""
        self.stalled.append((name, self.workers.pop(name)))

    def wake(self, which: int, turns: int) -> None:
        """A stalled process goes on for some turns, unless it finds that it has to end."""
        name, worker = self.stalled[which]
        for _ in range(turns):
            if not self._survives(name, worker):
                self.stalled.remove((name, worker))
                worker.streams.cold.disk.abandon()  # which lets it go, for the process has ended
                return

    def _survives(self, name: str, worker: Worker) -> bool:
        try:
            worker.turn()
        except Fenced:
            assert worker is not self.newest[name], "the newest process of an instance gives way to nobody"
            return False
        except (TransportUnavailable, Killed):
            return False
        return True

    def crash(self, name: str) -> None:
        self.workers.pop(name).streams.cold.disk.abandon()

    def stop(self, name: str) -> None:
        worker = self.workers.pop(name)
        try:
            with contextlib.suppress(Fenced):
                worker.finish()
        except Killed:
            worker.streams.cold.disk.abandon()
            return
        except BaseException:
            worker.close()
            raise
        worker.close()

    def expel(self, name: str) -> None:
        """The group has not heard of this instance for too long, nor the transaction coordinator."""
        self.log.expire_member(self.config.app, name)
        self.now += 20.0
        self.log.expire_transactions()

    def audit(self) -> AuditReport | None:
        """The verdict on what is committed; None where nothing is, or a transaction is open, for which an audit would wait."""
        if self.log.open_transactions() or not self.log.group(self.config.app).committed:
            return None
        return audit(self.applications["one"], self.transport)

    def drain(self) -> None:
        """One worker alone, and no more faults, until everything is committed."""
        for fault in Fault:
            while self.log.strikes(fault):
                pass
        for name in INSTANCES:
            if name in self.workers:
                self.crash(name)
            self.expel(name)
        for _, worker in self.stalled:
            worker.streams.cold.disk.abandon()
        self.stalled.clear()
        self.start("one")
        for turn in range(250):
            if "one" not in self.workers:  # a record has ended it: its supervisor starts it again
                self.start("one")
            # What it had to replay, a task that is not live yet leaves to the next owner, instead of snapshots.
            if turn >= 6 and self.lag() == 0 and all(task.live for task in self.workers["one"]._assignment.tasks.values()):
                self.stop("one")
                return
            self.work(turns=1)
        raise AssertionError(f"{self.lag()} records are still not committed")

    def lag(self) -> int:
        inputs = [Partition("in", number) for number in range(PARTITIONS)]
        committed = self.log.group(self.config.app).committed
        ends = {partition: self.log.partition(partition).end for partition in inputs}
        return sum(end - (committed[partition].offset if partition in committed else 0) for partition, end in ends.items())

    def work(self, name: str = "one", turns: int = 6) -> None:
        """Turns enough to restore, replay, feed and commit what there is."""
        for _ in range(turns):
            self.now += 0.06
            self.turn(name)

    def read(self, topic: str) -> list[tuple[bytes | None, bytes | None, dict[str, bytes | None]]]:
        """Key, value and headers of all committed records, partition after partition."""
        reader = self.transport.reader(Isolation.READ_COMMITTED)
        found: list[tuple[bytes | None, bytes | None, dict[str, bytes | None]]] = []
        for number in range(reader.partitions(topic, 1.0) or 0):
            low, high = reader.watermarks(Partition(topic, number), 1.0)
            for batch in reader.read(Partition(topic, number), low, high, 1.0):
                found += _rows(batch)
        return found

    def snapshots(self) -> list[tuple[bytes | None, bytes | None]]:
        """Keys and values; None is a tombstone."""
        return [(key, value) for key, value, _ in self.read("app.snapshots") if not (key or b"").startswith(b"\x00penstock.")]

    def predictions(self) -> list[dict[str, object]]:
        return [orjson.loads(value or b"null") for _, value, _ in self.read("out")]


def _rows(batch: RecordBatch) -> list[tuple[bytes | None, bytes | None, dict[str, bytes | None]]]:
    return [(batch.keys[row], batch.values[row], dict(batch.headers(row))) for row in range(len(batch))]


@dataclass(frozen=True)
class Room:
    """How many streams have a slot, and how many bytes those without one may take."""

    slots: int = 64
    memory_bytes: int = 1 << 20


ROOMS = [Room(), Room(slots=2), Room(slots=3, memory_bytes=0), Room(slots=4, memory_bytes=1500)]
"""Slots enough; and so few that streams are frozen and thawed all the time, in memory and on disk."""

_APPLICATIONS: dict[bool, dict[str, Application]] = {}


def applications(room: Room | None = None, directory: Path | None = None, recurrent: bool = True) -> dict[str, Application]:
    """Converted once: conversion is slow beside a turn. With `directory`, each keeps frozen streams in a folder below; unless
    `recurrent`, a stream's future depends on its last samples alone."""
    found = _APPLICATIONS.get(recurrent)
    if found is None:
        where, changes = Path(tempfile.mkdtemp(prefix="penstock-test-")), {} if recurrent else {"postprocess": []}
        found = {name: Application.from_config(configured(where, instance=name, **changes)) for name in INSTANCES}
        found["other weights"] = Application.from_config(configured(where, seed=2, **changes))
        _APPLICATIONS[recurrent] = found
    if room is None:
        return found
    return {name: with_room(application, room, directory and directory / name) for name, application in found.items()}


def with_room(application: Application, room: Room, directory: Path | None = None) -> Application:
    changed = {"slots": room.slots, "memory_bytes": room.memory_bytes, "directory": directory}
    state = application.config.state.model_copy(update=changed)
    return replace(application, config=application.config.model_copy(update={"state": state}))


def same_partition(count: int) -> list[bytes]:
    """Keys that share partition 0."""
    keys = (b"key-%d" % number for number in itertools.count())
    return list(itertools.islice((key for key in keys if partition_of(key, PARTITIONS) == 0), count))


def audited(cluster: Cluster) -> int:
    """How many predictions there are, all of them right."""
    report = cluster.audit()
    assert report is not None
    assert report.passed(exact=True), report
    return report.expected


def damage(cluster: Cluster, key: bytes, harm: str = "blob") -> bool:
    """Spoil the key's latest snapshot where it lies in the log; False where it has none."""
    where = Partition(cluster.config.snapshot_topic, partition_of(key, PARTITIONS))
    entries = cluster.log.partition(where)._entries
    for at in reversed(range(len(entries))):
        entry = entries[at]
        if entry.key == key and not entry.marker and (entry.transaction is None or entry.transaction.fate is Fate.COMMITTED):
            if entry.value is None:
                return False
            data = bytearray(entry.value)
            if harm == "cut off":
                del data[len(data) // 2 :]
            elif harm == "nothing left":
                data.clear()
            elif harm == "version":
                data[4] += 1
            else:
                data[{"blob": -1, "header": 12}[harm]] ^= 1
            entries[at] = entry._replace(value=bytes(data))
            return True
    return False


def letters(cluster: Cluster) -> list[tuple[bytes | None, bytes | None]]:
    """Key and reason of each dead letter."""
    return [(key, headers["penstock.error"]) for key, _, headers in cluster.read("app.dead-letters")]
