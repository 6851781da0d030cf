"""How long predictions stop: after a kill under steady load, for each kind of group membership, and after an abort."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from service.app import Application
from service.bench.contenders import PARTITIONS, Site, bench_network, configure, network_model, run_command
from service.bench.feed import Feed
from service.bench.load import Load
from service.bench.measure import Program, Progress, commits, running, scrape, wait, watch
from service.bench.outputs import verify
from service.config import load as read_configuration
from service.demo.broker import KafkaNode
from service.errors import EpochAborted, PenstockError
from service.transport.interface import Committed, GroupToken, Partition, TopicDescription, Transport
from service.transport.kafka import KafkaTransport
from service.transport.kafka.sink import KafkaSink
from service.worker import Worker

_PATIENCE = 120.0  # seconds without what is waited for
_TIMEOUT = 60.0
_CHUNK = 10  # samples of a record
_HISTORY = 52  # records of each key that fill the receptive field of 511
_ROUNDS = 45  # records of each key, one a second, before the first kill
_ROUNDS_PER_KILL = 30
_ROUNDS_PER_ABORT = 5  # an epoch holds all keys in most of them
_STEADY = 2.0  # seconds of steady load before a kill
_PORT = 18_002
_CHECKED_KEYS = 20

KINDS = [("classic", "static"), ("classic", "dynamic"), ("consumer", "static"), ("consumer", "dynamic")]
"""Group protocol and membership."""

Say = Callable[[str], None]


def resumption(progress: Iterator[Progress], published: int) -> Progress:
    """The first look at which more was committed than the `published` records that there were at the kill, so that at least one
    record is among it that only the new process can have seen."""
    return next(now for now in progress if now.records > published)


def kills(
    node: KafkaNode,
    folder: Path,
    protocol: str,
    membership: str,
    keys: int,
    times: int,
    say: Say,
    snapshot_every: str = "30s",
) -> dict[str, object]:
    """A worker under a steady load is killed, and another process of the same instance is started at once, as a supervisor would.

    `seconds` is the median, `each` every time, from the kill until the group has committed a record that was published after it.
    The configuration is the default but for the bench's commit interval; how long a session lasts is the broker's choice with the
    protocol `consumer`. Raises `PenstockError` where the outputs are not what the module gives.
    """
    say(f"{protocol}, {membership}: filling the histories of {keys} keys")
    name = f"kill-{protocol}-{membership}"
    transport, site, load, feed = _site(node, folder, name, keys, _HISTORY + _ROUNDS + times * _ROUNDS_PER_KILL)
    kafka = {"bootstrap.servers": node.bootstrap, "group.protocol": protocol}
    changes: dict[str, Any] = {"kafka": kafka, "group": {"static": membership == "static"}, "metrics": {"port": _PORT}}
    changes["state"] = {"snapshot_every": snapshot_every}
    topics = configure(site, load, network_model(site), **changes)
    transport.admin().create([TopicDescription(site.input, PARTITIONS), *topics], _TIMEOUT)
    each: list[float] = []
    with ExitStack() as stack:

        def start(title: str) -> Program:
            return stack.enter_context(running(title, run_command(site), site.folder / f"{title}.log"))

        worker = start("the first worker")
        feed.publish(_HISTORY * keys)
        watch(transport, name, site.input, feed.published, worker, _PATIENCE)
        with feed.flowing() as expect_flowing:
            wait(lambda: scrape(_PORT)["penstock_snapshots_total"] >= keys, "a snapshot of every stream", _PATIENCE)
            for _ in range(times):
                watch(transport, name, site.input, feed.published, worker, _PATIENCE)
                time.sleep(_STEADY)
                expect_flowing()
                killed = time.monotonic()
                worker.kill()
                published = feed.published
                worker = start(f"the worker after {len(each) + 1} kills")
                looks = _while_all_is_well(commits(transport, name, site.input), worker, expect_flowing)
                each.append(resumption(looks, published).seconds - killed)
                say(f"{protocol}, {membership}: a commit {each[-1]:.2f} s after the kill")
        feed.publish()
        watch(transport, name, site.input, load.records, worker, _PATIENCE)
    _verify(transport, site, load)
    session = node.session_timeout if protocol == "consumer" else read_configuration(site.configuration).group.session_timeout
    case = {"bench": "recovery", "case": "kill", "protocol": protocol, "membership": membership, "keys": keys}
    return case | {"session_timeout": session} | _seconds(each)


def _while_all_is_well(progress: Iterator[Progress], worker: Program, expect_flowing: Callable[[], None]) -> Iterator[Progress]:
    began = time.monotonic()
    for now in progress:
        worker.expect_running()
        expect_flowing()
        if now.seconds - began > _PATIENCE:
            raise PenstockError(f"the new process has committed nothing new within {_PATIENCE:.0f} s")
        yield now


class AbortingSink(KafkaSink):
    """Demands an abort in the place of a commit, as the broker does, of the first transaction that holds at least `due` records.

    `aborted` and `resumed` are the seconds, of a monotonic clock, of the demand and of the commit with which all of that
    transaction's records are in the log after all.
    """

    due: int | None = None
    aborted = 0.0
    resumed: float | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sent: dict[Partition, int] = {}
        self._held: dict[Partition, int] = {}
        self._wanted = 0

    @property
    def committed(self) -> int:
        """Records of input."""
        return sum(self._held.values())

    def demand_abort(self, due: int) -> None:
        self.due, self.resumed = due, None

    def send_offsets(self, offsets: Mapping[Partition, Committed], group: GroupToken) -> None:
        self._sent = {partition: committed.offset for partition, committed in offsets.items()}
        super().send_offsets(offsets, group)

    def commit(self, timeout: float) -> None:
        held = self._held | self._sent
        total = sum(held.values())
        if self.due is not None and total - self.committed >= self.due:
            self.due, self._wanted, self.aborted = None, total, time.monotonic()
            raise EpochAborted("an abort is demanded (by the bench)")
        super().commit(timeout)
        self._held = held
        if self.due is None and self.resumed is None and total >= self._wanted:
            self.resumed = time.monotonic()


class _AbortingTransport(KafkaTransport):
    """Keeps the sink that its worker writes to."""

    def sink(self, transactional_id: str, transaction_timeout: float) -> AbortingSink:
        self.made = AbortingSink(self._properties, transactional_id, transaction_timeout)
        return self.made


def aborts(node: KafkaNode, folder: Path, keys: int, times: int, say: Say) -> dict[str, object]:
    """Transactions in which every key has a record are aborted just before they would be committed.

    The worker runs in this process, and its sink makes the demand, since a broker makes it in trouble only. All that follows is as
    ever: the broker aborts the transaction, every stream goes back in memory, the records are fed again and committed. `seconds` is
    the median, `each` every time, from the demand until all of them are; the commit interval of 0.1 s is part of it.
    Raises `PenstockError` where the outputs are not what the module gives.
    """
    say(f"aborts: filling the histories of {keys} keys")
    transport, site, load, feed = _site(node, folder, "abort", keys, _HISTORY + times * _ROUNDS_PER_ABORT)
    topics = configure(site, load, network_model(site))
    transport.admin().create([TopicDescription(site.input, PARTITIONS), *topics], _TIMEOUT)
    aborting = _AbortingTransport({"bootstrap.servers": node.bootstrap})
    worker = Application.from_config(read_configuration(site.configuration)).worker(aborting)
    try:
        worker.open()
        each = list(_abort(worker, aborting.made, feed, keys, times, say))
        feed.publish()
        _work_off(worker, aborting.made, feed)
        worker.finish()
    finally:
        worker.close()
    _verify(transport, site, load)
    return {"bench": "recovery", "case": "abort", "keys": keys} | _seconds(each)


def _abort(worker: Worker, sink: AbortingSink, feed: Feed, keys: int, times: int, say: Say) -> Iterator[float]:
    feed.publish(_HISTORY * keys)
    _work_off(worker, sink, feed)
    for _ in range(times):
        sink.demand_abort(keys)
        for _ in range(_ROUNDS_PER_ABORT):
            if sink.due is not None:
                feed.publish(keys)
                _work_off(worker, sink, feed)
        if sink.resumed is None:
            raise PenstockError(f"in {_ROUNDS_PER_ABORT} rounds no transaction held a record of each of the {keys} keys")
        say(f"aborts: all {keys} keys committed {sink.resumed - sink.aborted:.3f} s after an abort")
        yield sink.resumed - sink.aborted


def _work_off(worker: Worker, sink: AbortingSink, feed: Feed) -> None:
    deadline = time.monotonic() + _PATIENCE
    while sink.committed < feed.published:
        if time.monotonic() > deadline:
            raise PenstockError(f"only {sink.committed} of {feed.published} records are committed after {_PATIENCE:.0f} s")
        worker.turn()


def _site(node: KafkaNode, folder: Path, name: str, keys: int, rounds: int) -> tuple[Transport, Site, Load, Feed]:
    transport = KafkaTransport({"bootstrap.servers": node.bootstrap})
    load = Load(records=rounds * keys, keys=keys, chunk=_CHUNK)
    site = Site(node.bootstrap, name, f"{name}.input", f"{name}.output", folder / name)
    site.folder.mkdir()
    return transport, site, load, Feed(transport.publisher(), site.input, load)


def _verify(transport: Transport, site: Site, load: Load) -> None:
    verify(transport, site.output, "y", load, bench_network(), range(0, load.keys, max(1, load.keys // _CHECKED_KEYS)))


def _seconds(each: list[float]) -> dict[str, object]:
    return {"seconds": round(statistics.median(each), 2), "each": [round(seconds, 2) for seconds in each]}


def interruptions(node: KafkaNode, folder: Path, keys: int, times: int, say: Say) -> Iterator[dict[str, object]]:
    """A line for each kind of membership, with `times` kills, and one for aborts, two more of them."""
    for protocol, membership in KINDS:
        yield kills(node, folder, protocol, membership, keys, times, say)
    yield aborts(node, folder, keys, times + 2, say)
