"""What the loop needs to know of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from service.config import Config
from service.topics import Topics
from service.transport.ahead import Ahead
from service.transport.interface import Membership, Transport


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Times in seconds; `partitions` and `input_id` are the input's count and id, `max_failures` how many transactions in a row
    may come to nothing, `outage` how long the broker may be away (Kafka Streams' `task.timeout.ms` is as long)."""

    input: str
    topics: Topics
    membership: Membership
    transactional_id: str
    partitions: int
    input_id: str | None = None
    commit_interval: float = 0.05
    transaction_timeout: float = 15.0
    max_records: int = 4096
    max_failures: int = 20
    call_timeout: float = 30.0
    outage: float = 300.0
    longest_poll: float = 0.1
    output_bytes: int = 900_000


def membership(config: Config) -> Membership:
    return Membership(config.app, config.instance, config.group.static, config.group.session_timeout)


def ahead(config: Config, transport: Transport) -> Transport:
    """With the clients of the application's worker made already."""
    return Ahead(transport, membership(config), config.transactional_id, config.commit.transaction_timeout)
