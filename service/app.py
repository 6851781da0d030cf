"""The composition root: from a configuration to a worker, an audit, a set of topics."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from torch import nn

from service import model
from service.background import Beside, in_thread
from service.codec import decoder, encoder
from service.codec.interface import Decoder, Encoder
from service.config import Config
from service.errors import OperatorActionRequired
from service.observe.metrics import Metrics
from service.restore import RestorePolicy
from service.scheduler import Scheduler
from service.settings import WorkerSettings, membership
from service.state import Origin, SnapshotDisk, SnapshotPolicy, Streams
from service.streaming import Program
from service.topics import Topics
from service.transport.interface import TopicDescription, Transport
from service.worker import Worker

log = structlog.get_logger("penstock.app")


@dataclass(frozen=True)
class Application:
    """One application as its configuration describes it. Making it touches no broker."""

    config: Config
    module: nn.Sequential
    program: Program
    decoder: Decoder
    encoder: Encoder

    @classmethod
    def from_config(cls, config: Config) -> Application:
        """Raises `ConfigurationError` or `NotStreamable`."""
        module = model.build(config)
        return cls(config, module, model.program(config, module), decoder(config), encoder(config))

    @property
    def fingerprint(self) -> str:
        """Everything that decides which bits a record leads to, on this machine."""
        return hashlib.sha256(f"{self.program.fingerprint}|{self.decoder.fingerprint}".encode()).hexdigest()[:16]

    @property
    def topics(self) -> Topics:
        config = self.config
        return Topics(config.output.topic, config.dead_letters.topic, config.snapshot_topic, config.app)

    def worker(
        self,
        transport: Transport,
        metrics: Metrics | None = None,
        accept_fingerprint: bool = False,
        clock: Callable[[], float] = time.monotonic,
        longest_poll: float = 0.1,
        beside: Beside = in_thread,
        wall: Callable[[], float] = time.time,
    ) -> Worker:
        """Checks the topics (raises `OperatorActionRequired`) and makes the loop, not yet connected to its group."""
        config = self.config
        partitions = check_topics(config, transport)
        input_id = transport.admin().identity(config.input.topic, 10.0)
        # One row more than slots: the dummy's.
        streams = Streams(self.program, config.state.slots + 1, config.state.memory_bytes, self._disk(transport))
        settings = WorkerSettings(
            input=config.input.topic,
            input_id=input_id,
            topics=self.topics,
            membership=membership(config),
            transactional_id=config.transactional_id,
            partitions=partitions,
            commit_interval=config.commit.interval,
            transaction_timeout=config.commit.transaction_timeout,
            max_records=config.poll.max_records,
            longest_poll=longest_poll,
            output_bytes=config.limits.output_bytes,
        )
        return Worker(
            settings,
            transport,
            Scheduler(self.decoder, streams),
            streams,
            self.encoder,
            SnapshotPolicy(config.state.snapshot_every, config.state.replay_records, config.state.snapshot_bytes_per_second),
            RestorePolicy(
                self.topics,
                self.fingerprint,
                self.program.check,
                partitions,
                input_id,
                accept_fingerprint,
                wall=wall,
            ),
            metrics or Metrics(),
            clock,
            wall=wall,
            beside=beside,
        )

    def _disk(self, transport: Transport, timeout: float = 10.0) -> SnapshotDisk:
        """What an earlier process left is of use only where the topic is known to be the same, and how long it keeps tombstones."""
        topic, directory = self.config.snapshot_topic, self.config.state.directory
        if directory is None:
            return SnapshotDisk()
        admin = transport.admin()
        described, identity = admin.describe([topic], timeout)[topic], admin.identity(topic, timeout)
        keep = described.config.get("delete.retention.ms") if described else None
        if identity is None or keep is None:
            log.warning("state_directory_unused", reason="the snapshot topic's id and delete.retention.ms may not be read")
            return SnapshotDisk()
        return SnapshotDisk(directory, Origin(identity, self.fingerprint, int(keep) / 1000 / 2))

    def run(self, transport: Transport, stop: threading.Event, accept_fingerprint: bool = False) -> None:
        self.worker(transport, accept_fingerprint=accept_fingerprint).run(stop)


_READ_LITTLE = {
    "min.cleanable.dirty.ratio": "0.1",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "600000",
    "segment.bytes": str(8 << 20),
    "segment.ms": "60000",
}
"""Settings of the snapshot topic, none of them larger, with which a restart reads hardly more than twice the live bytes: the
cleaner runs as soon as a tenth is superseded, and only the segment that is being written, small or young, is out of its reach."""


def required_topics(config: Config, partitions: int) -> list[TopicDescription]:
    """The topics that an application needs; outputs and snapshots have as many partitions as the input."""
    kept = {"cleanup.policy": "delete"}  # whatever the broker does with topics of which nobody says otherwise
    compacted = {"cleanup.policy": "compact"} | _READ_LITTLE
    compacted["delete.retention.ms"] = "86400000"  # tombstones, for local disks that come back within half of that
    return [
        TopicDescription(config.input.topic, partitions, kept),
        TopicDescription(config.output.topic, partitions, kept),
        TopicDescription(config.dead_letters.topic, 1, kept),
        TopicDescription(config.snapshot_topic, partitions, compacted),
    ]


def topic_problems(config: Config, transport: Transport, timeout: float = 10.0) -> tuple[int, list[str], list[TopicDescription]]:
    """The input's partition count (0 where there is no input), what is wrong, and what is missing."""
    wanted = required_topics(config, partitions=1)
    found = transport.admin().describe([topic.name for topic in wanted], timeout)
    source = found[config.input.topic]
    partitions = source.partitions if source else 0
    wanted = required_topics(config, partitions or 1)
    missing = [topic for topic in wanted if found[topic.name] is None]
    problems = [f"{topic.name} does not exist" for topic in missing]
    snapshots = found[config.snapshot_topic]
    if source and snapshots and snapshots.partitions != partitions:
        problems.append(
            f"{snapshots.name} has {snapshots.partitions} partitions, but {source.name} has {partitions}; they must be the same"
        )
    if source and "compact" in source.config.get("cleanup.policy", ""):
        problems.append(
            f"{source.name} is compacted, which removes records of streams that go on; its cleanup.policy must be delete"
        )
    letters = found[config.dead_letters.topic]
    if letters and "compact" in letters.config.get("cleanup.policy", ""):
        problems.append(f"{letters.name} is compacted, and takes no records without a key; its cleanup.policy must be delete")
    policy = snapshots.config.get("cleanup.policy") if snapshots else None
    if snapshots and policy not in (None, "compact"):
        problems.append(f"{snapshots.name} has cleanup.policy={policy}; it must be exactly compact, or snapshots get lost")
    return partitions, problems, missing


def slow_settings(config: Config, transport: Transport, timeout: float = 10.0) -> str | None:
    """Which settings of the snapshot topic make restarts read more than they need, and how to change them; None where there are
    none, or they may not be read."""
    snapshots = transport.admin().describe([config.snapshot_topic], timeout)[config.snapshot_topic]
    found = snapshots.config if snapshots else {}
    larger = {name: found[name] for name, most in _READ_LITTLE.items() if float(found.get(name, 0)) > float(most)}
    if not larger:
        return None
    topic, told = config.snapshot_topic, ", ".join(f"{name}={value}" for name, value in larger.items())
    wanted = ",".join(f"{name}={_READ_LITTLE[name]}" for name in larger)
    return (
        f"{topic} has {told}, so restarts may read many times the live snapshots. To change that: kafka-configs.sh "
        f"--bootstrap-server {config.kafka['bootstrap.servers']} --alter --entity-type topics --entity-name {topic} "
        f"--add-config {wanted}"
    )


def check_topics(config: Config, transport: Transport) -> int:
    """The input's partition count. Raises `OperatorActionRequired` where a topic is missing or wrong; warns of slow settings,
    and of a compacted output."""
    partitions, problems, missing = topic_problems(config, transport)
    if problems:
        way_out = "Create what is missing: penstock topics CONFIG --create" if missing else "Mend the topics before the next start"
        raise OperatorActionRequired(f"{'; '.join(problems)}. {way_out}.")
    if slow := slow_settings(config, transport):
        log.warning("snapshot_topic", advice=slow)
    output = transport.admin().describe([config.output.topic], 10.0)[config.output.topic]
    if output and "compact" in output.config.get("cleanup.policy", ""):
        advice = f"{output.name} is compacted: it keeps the latest prediction of each key, and an audit misses the others"
        log.warning("output_topic", advice=advice)
    return partitions
