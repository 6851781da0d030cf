"""One application on the real broker: its topics and load, its workers in this process or in their own, and the verdict."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from service.app import Application, required_topics
from service.audit import AuditReport
from service.audit.read import audit
from service.config import Config, load
from service.errors import OffsetsPending, PenstockError, TransportUnavailable
from service.incarnation import SIGNED
from service.transport.interface import Committed, Isolation, Membership, Partition, Transport
from service.transport.kafka import KafkaTransport
from service.worker import Worker
from tests.applications import chunk, write
from tests.faults.points import Point
from tests.faults.process import Process
from tests.faults.states import wrong_states

PARTITIONS = 4
KEYS = 60

_VALUES = [chunk(1_700_000_000_000 + 4 * number, 1 + number % 4, seed=number) for number in range(97)]
_CONVERTED: dict[bool, Application] = {}


def converted(config: Config) -> Application:
    """The application of `config`; a network is converted once for all that differ in names and times alone."""
    recurrent = bool(config.postprocess)
    if recurrent not in _CONVERTED:
        _CONVERTED[recurrent] = Application.from_config(config)
    return replace(_CONVERTED[recurrent], config=config)


class Scene:
    """`bootstrap` is where the checker looks; the workers may be told another address by `kafka`. `ends` is the share of records
    that end their key's stream. Unless `recurrent`, a stream's future depends on its last samples alone."""

    def __init__(
        self,
        bootstrap: str,
        protocol: str = "classic",
        kafka: dict[str, Any] | None = None,
        static: bool = True,
        session: str = "6s",
        transaction: str = "3s",
        interval: str = "20ms",
        snapshots: str = "30s",
        ends: float = 0.02,
        state: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        recurrent: bool = True,
        seed: int = 5,
    ) -> None:
        self.name = f"app-{uuid.uuid4().hex[:8]}"
        self.bootstrap = bootstrap
        self.random = random.Random(seed)
        self.ends = ends
        quick = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500}
        quick |= {"heartbeat.interval.ms": 300} if protocol == "classic" else {}
        self._settings: dict[str, Any] = {
            "app": self.name,
            "inputs": [{"topic": f"{self.name}.in", "channels": ["a", "b"], "rate": 1000}],
            "output": {"topic": f"{self.name}.out"},
            "poll": {"max_records": 50},  # many steps and commits, so that faults meet all of them
            "kafka": {"bootstrap.servers": bootstrap, "group.protocol": protocol} | quick | (kafka or {}),
            "commit": {"interval": interval, "transaction_timeout": transaction},
            "group": {"static": static, "session_timeout": session},
            "state": {"slots": 64, "snapshot_every": snapshots} | (state or {}),
        }
        self._settings |= {"model": model} if model else {}
        self._settings |= {"postprocess": []} if model or not recurrent else {}
        self._folder = Path(tempfile.mkdtemp(prefix="penstock-faults-"))
        self.config = load(self.path())
        self.application = Application.from_config(self.config) if model else converted(self.config)
        self.transport = KafkaTransport({"bootstrap.servers": bootstrap})
        self.transport.admin().create(required_topics(self.config, PARTITIONS), 10.0)
        self.inputs = [Partition(self.config.input.topic, number) for number in range(PARTITIONS)]
        self._until_known()
        self.published = 0
        self._publisher = self.transport.publisher()
        self._looking = self.transport.source(Membership(self.name, "looking", static=False))
        self._processes: list[Process] = []
        self._workers: list[Worker] = []
        self.began = time.monotonic()

    def path(self, instance: str = "one") -> Path:
        return write(self._folder, instance=instance, **self._settings)

    def path_of(self, seed: int) -> Path:
        """The same application with other weights."""
        return write(self._folder, seed=seed, **self._settings)

    # load

    def publish(self, records: int, keys: int = KEYS) -> None:
        """Records of one to four samples, keys in random order."""
        for _ in range(records):
            value = None if self.random.random() < self.ends else self.random.choice(_VALUES)
            self._publisher.publish(self.config.input.topic, value, key=b"key-%03d" % self.random.randrange(keys))
        self._publisher.flush(60.0)
        self.published += records

    def publish_one(self, key: bytes, value: bytes | None) -> None:
        self._publisher.publish(self.config.input.topic, value, key=key)
        self._publisher.flush(60.0)
        self.published += 1

    def committed(self) -> dict[Partition, Committed | None]:
        """Raises `OffsetsPending`."""
        return self._looking.committed(self.inputs, 1.0)

    def done(self) -> int:
        """Committed offsets, of all partitions together."""
        while True:
            with suppress(OffsetsPending):
                return sum(committed.offset for committed in self.committed().values() if committed)

    def written(self) -> list[int]:
        """Records in the output and dead-letter topics, in the snapshot topic without signatures, and the committed offsets."""
        reader = self.transport.reader(Isolation.READ_UNCOMMITTED)
        found = []
        for topic in (self.config.output.topic, self.config.dead_letters.topic, self.config.snapshot_topic):
            for number in range(reader.partitions(topic, 10.0) or 0):
                low, high = reader.watermarks(Partition(topic, number), 10.0)
                values = [value for batch in reader.read(Partition(topic, number), low, high, 10.0) for value in batch.values]
                found.append(sum(not (value or b"").startswith(SIGNED) for value in values))
        reader.close()
        return [*found, self.done()]

    def _until_known(self) -> None:
        """A topic that was just made may be unknown for a moment."""
        reader = self.transport.reader()
        for topic in required_topics(self.config, PARTITIONS):
            for number in range(topic.partitions):
                for _ in range(50):
                    with suppress(TransportUnavailable):
                        reader.watermarks(Partition(topic.name, number), 10.0)
                        break
        reader.close()

    # workers

    def settle(self) -> None:
        """One worker alone, until all is committed, and a clean stop: then every key's state is in the snapshot topic."""
        self.publish(40)
        last = self.process()
        self.wait_for(self.published, last)
        last.stop()

    def process(self, instance: str = "one", point: Point | None = None, nth: int = 1) -> Process:
        process = Process(self.path(instance), point, nth)
        self._processes.append(process)
        return process

    def wait_for(self, offsets: int, *alive: Process, seconds: float = 90.0) -> None:
        """Until so many offsets, or all, are committed; `alive` are the processes that must not end meanwhile."""
        deadline, offsets = time.monotonic() + seconds, min(offsets, self.published)
        while (done := self.done()) < offsets:
            for process in alive:
                assert process.exit is None, (process.exit, process.said)
            if time.monotonic() > deadline:
                said = "".join(process.where() for process in alive)
                raise AssertionError(f"only {done} of {offsets} offsets are committed after {seconds} s\n{self._group()}\n{said}")

    def wait_until_shared(self, *alive: Process, seconds: float = 60.0) -> None:
        """Until the broker tells that each of so many members has partitions."""
        client = AdminClient({"bootstrap.servers": self.bootstrap})
        deadline = time.monotonic() + seconds
        while True:
            members = self._described(client).members
            if len(members) == len(alive) and all(member.assignment.topic_partitions for member in members):
                return
            for process in alive:
                assert process.exit is None, (process.exit, process.said)
            assert time.monotonic() < deadline, self._group()
            time.sleep(0.05)

    def _described(self, client: AdminClient) -> ConsumerGroupDescription:
        return client.describe_consumer_groups([self.config.app], request_timeout=5.0)[self.config.app].result()

    def _group(self) -> str:
        """What the broker says of the group, asked the way the workers go and straight."""
        told = []
        for way in (self._settings["kafka"]["bootstrap.servers"], self.bootstrap):
            try:
                group = self._described(AdminClient({"bootstrap.servers": way}))
                members = ", ".join(f"{each.member_id}: {each.assignment.topic_partitions}" for each in group.members)
                told.append(f"{way}: {group.state}, {members}")
            except KafkaException as error:
                told.append(f"{way}: {error}")
        return "\n".join(told)

    def worker(
        self, instance: str = "one", around: Callable[[Transport], Any] = lambda transport: transport, **more: Any
    ) -> Worker:
        """A worker in this process that has opened; the test turns it."""
        config = load(self.path(instance))
        transport = around(KafkaTransport(config.kafka))
        worker = replace(self.application, config=config).worker(transport, **({"longest_poll": 0.02} | more))
        worker.open()
        return self.adopt(worker)

    def adopt(self, worker: Worker) -> Worker:
        """One that was made elsewhere; it is closed at the end."""
        self._workers.append(worker)
        return worker

    def turn(self, *workers: Worker, until: Callable[[], bool], seconds: float = 60.0) -> None:
        """Turns, of all of them, until something is so."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, [str(task) for worker in workers for task in worker._assignment.tasks.values()]
            for worker in workers:
                worker.turn()

    def work_off(self, *workers: Worker) -> None:
        """Until everything that was published is committed."""
        self.turn(*workers, until=lambda: self._held(workers) >= self.published)

    def _held(self, workers: Sequence[Worker]) -> int:
        return sum(task.committed for worker in workers for task in worker._assignment.tasks.values() if task.live)

    def leave(self, worker: Worker) -> None:
        """A clean stop."""
        self._workers.remove(worker)
        try:
            worker.finish()
        finally:
            worker.close()

    # the verdict

    def verdict(self) -> AuditReport:
        """What a `read_committed` reader sees, judged."""
        return audit(self.application, self.transport)

    def wrong_states(self) -> list[str]:
        return wrong_states(self.application, self.transport)

    def said(self) -> str:
        """The end of what its processes have said."""
        return "".join(sorted({process.said for process in self._processes}))

    def close(self) -> None:
        """Processes are killed; workers in this process leave without a clean stop."""
        for process in self._processes:
            if process.exit is None:
                process.kill()
        for worker in self._workers:
            with suppress(PenstockError):
                worker.close()
        self._workers.clear()
        self._processes.clear()

    def end(self) -> None:
        self.close()
        self._looking.close()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def scene(bootstrap: str, **settings: Any) -> Iterator[Scene]:
    made = Scene(bootstrap, **settings)
    try:
        yield made
    finally:
        made.end()
