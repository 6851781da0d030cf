"""`penstock bench service`: records per second, exactly once, beside Quix Streams on the same broker and the same records."""

from __future__ import annotations

import json as json_lines
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from service.bench.contenders import (
    COMMIT_MILLISECONDS,
    PARTITIONS,
    Contender,
    Site,
    penstock,
    penstock_pass,
    quix_network,
    quix_pass,
)
from service.bench.load import Load, fill
from service.bench.measure import Throughput, running, throughput, watch
from service.bench.outputs import verify
from service.bench.peers import environment
from service.demo.broker import KafkaNode
from service.transport.interface import TopicDescription
from service.transport.kafka import KafkaTransport

_SAMPLE = 10  # the peer that takes a minute gets a tenth of the keys, each as long, so that its windows fill as they do for all
_CHECKED_KEYS = 10
_PATIENCE = 60.0  # seconds without a commit
_TIMEOUT = 30.0  # seconds, of the admin


@dataclass(frozen=True, slots=True)
class Figure:
    """A contender's measured rounds."""

    name: str
    rounds: Sequence[Throughput]

    @property
    def records_per_second(self) -> float:
        return statistics.median(measured.records_per_second for measured in self.rounds)

    def line(self) -> dict[str, Any]:
        return {
            "records_per_second": round(self.records_per_second),
            "rounds": [round(measured.records_per_second) for measured in self.rounds],
            "records": self.rounds[0].records,
            "startup_seconds": round(statistics.median(measured.startup for measured in self.rounds), 1),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One case: penstock's figure beside those of its peers."""

    case: str
    subject: Figure
    peers: Sequence[Figure]

    def ratio(self, peer: Figure) -> float:
        return self.subject.records_per_second / peer.records_per_second

    def line(self) -> dict[str, Any]:
        peers = {peer.name: peer.line() | {"ratio": round(self.ratio(peer), 3)} for peer in self.peers}
        return {"bench": "service", "case": self.case, "penstock": self.subject.line(), "peers": peers}


class Bench:
    """One broker, its input topics, and a run of a contender at a time."""

    def __init__(self, bootstrap: str, folder: Path, say: Callable[[str], None]) -> None:
        self._bootstrap = bootstrap
        self._folder = folder
        self._say = say
        self._transport = KafkaTransport({"bootstrap.servers": bootstrap})
        self._runs = 0

    def provide(self, topic: str, load: Load) -> None:
        self._say(f"{topic}: {load.records:,} records of {load.chunk} samples × {load.channels} channels, {load.keys:,} keys")
        self._transport.admin().create([TopicDescription(topic, PARTITIONS)], _TIMEOUT)
        fill(self._transport.publisher(), topic, load)

    def run(self, contender: Contender, topic: str, load: Load) -> Throughput:
        """Start it, let it do the whole topic, stop it, judge what it wrote. Startup is not part of the figure."""
        self._runs += 1
        group = f"bench-{self._runs}"
        site = Site(self._bootstrap, group, topic, f"{group}.output", self._folder / group)
        site.folder.mkdir()
        topics, command = contender.prepare(site, load)
        self._transport.admin().create(topics, _TIMEOUT)
        started = time.monotonic()
        with running(contender.name, command, site.folder / "log") as program:
            measured = throughput(started, watch(self._transport, group, topic, load.records, program, _PATIENCE))
        keys = range(0, load.keys, max(1, load.keys // _CHECKED_KEYS))
        verify(self._transport, site.output, contender.field, load, contender.module, keys)
        self._say(f"{contender.name}: {measured.records_per_second:,.0f} records/s over {measured.seconds:.1f} s, outputs verified")
        return measured


def compare(bench: Bench, load: Load, rounds: int, python: Path | None) -> list[Comparison]:
    """Every contender of every case; those that are quick take turns, so that a noisy moment hits all of them.

    Without `python`, the peers' interpreter, penstock runs alone.
    """
    bench.provide("bench.input", load)
    quick = [penstock(), penstock_pass(), *([quix_pass(python)] if python else [])]
    measured: dict[str, list[Throughput]] = {contender.name: [] for contender in quick}
    for _ in range(rounds):
        for contender in quick:
            measured[contender.name].append(bench.run(contender, "bench.input", load))
    network, through, *peers = [Figure(name, figures) for name, figures in measured.items()]
    slow = []
    if python:
        sample = Load(records=load.records // _SAMPLE, keys=load.keys // _SAMPLE)
        bench.provide("bench.sample", sample)
        slow.append(Figure("quix", [bench.run(quix_network(python), "bench.sample", sample)]))
    return [Comparison("network", network, [*slow, *peers]), Comparison("pass-through", through, peers)]


def main(json: bool = False, records: int = 200_000, keys: int = 1_000, rounds: int = 3, peers: bool = True) -> int:
    """Run the bench on a broker of its own and print it: JSON lines, or a table for people.

    Raises `PenstockError` when a contender fails or writes anything but what it should; nothing is printed then.
    """
    say = Console(stderr=True, highlight=False).print
    python = environment.prepare(say) if peers else None
    with KafkaNode() as node, tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        comparisons = compare(Bench(node.bootstrap, Path(folder), say), Load(records=records, keys=keys), rounds, python)
    if json:
        for comparison in comparisons:
            print(json_lines.dumps(comparison.line() | {"machine": _machine()}))
    else:
        Console().print(_table(comparisons))
    return 0


def _machine() -> dict[str, Any]:
    versions = {"torch": torch.__version__, "broker": f"kafka {KafkaNode.version}", "quix": environment.VERSION}
    return {"cpus": os.cpu_count(), "commit_milliseconds": COMMIT_MILLISECONDS} | versions


def _table(comparisons: Sequence[Comparison]) -> Table:
    table = Table(title=f"records per second, exactly once, commits every {COMMIT_MILLISECONDS} ms")
    for heading in ("case", "program"):
        table.add_column(heading)
    for heading in ("records/s", "penstock ÷ peer", "of records"):
        table.add_column(heading, justify="right")
    for comparison in comparisons:
        for figure in (comparison.subject, *comparison.peers):
            ratio = "" if figure is comparison.subject else f"{comparison.ratio(figure):.2f}"
            rate, records = f"{figure.records_per_second:,.0f}", f"{figure.rounds[0].records:,}"
            table.add_row(comparison.case, figure.name, rate, ratio, records)
        table.add_section()
    return table
