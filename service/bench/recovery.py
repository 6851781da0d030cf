"""`penstock bench recovery`: a worker is killed; how long until a new one predicts, and until all keys have caught up.

Also how long predictions stop where the new worker is there at once, and after an abort (`service/bench/interruption.py`); and what
snapshots cost while nothing goes wrong: throughput with them beside throughput without, in turns.
"""

from __future__ import annotations

import json as json_lines
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console

from service.bench.contenders import PARTITIONS, Site, bench_network, configure, network_model, penstock_with, run_command
from service.bench.interruption import interruptions
from service.bench.load import Load
from service.bench.measure import Program, commits, running, scrape, wait, watch
from service.bench.outputs import verify
from service.bench.service import Bench
from service.demo.broker import KafkaNode
from service.observe.logging import configure_logging
from service.transport.interface import Partition, TopicDescription, Transport
from service.transport.kafka import KafkaTransport

_PATIENCE = 120.0  # seconds without a commit
_TIMEOUT = 60.0
_CHUNKS = 6  # records of each key; all but the last are processed before the kill
_CHUNK = 128  # samples; five of them fill the receptive field of 511
_CHECKED_KEYS = 20
_INTERRUPTED_KEYS = 1_000  # at most


@dataclass(frozen=True, slots=True)
class Recovery:
    """One kill and one start. Times in seconds from the start of the new process; `first` and `all` are commits of new input."""

    case: str
    keys: int
    first: float
    all: float
    restore: float
    replayed_records: int
    snapshots_read: int
    snapshot_bytes: int

    def line(self) -> dict[str, object]:
        return {"bench": "recovery"} | {
            name: round(value, 2) if isinstance(value, float) else value for name, value in asdict(self).items()
        }


def recover(
    bootstrap: str, folder: Path, keys: int, on_disk: bool, say: Callable[[str], None], snapshot_every: str = "10s"
) -> Recovery:
    """Feed every key until all are snapshotted, half of them once more, kill the worker, publish for all, start another one.

    Raises `PenstockError` where what was published in the end is not what the module gives.
    """
    case = "local disk" if on_disk else "snapshot topic"
    transport = KafkaTransport({"bootstrap.servers": bootstrap})
    load = Load(records=_CHUNKS * keys, keys=keys, chunk=_CHUNK)
    group = f"recovery-{'disk' if on_disk else 'topic'}"
    site = Site(bootstrap, group, f"{group}.input", f"{group}.output", folder / group)
    site.folder.mkdir()
    port = 18_000 + on_disk
    state: dict[str, object] = {"slots": keys + keys // 4, "snapshot_every": snapshot_every}
    state |= {"directory": str(site.folder / "state")} if on_disk else {}
    metrics = {"port": port}
    topics = configure(site, load, network_model(site), state=state, metrics=metrics, group={"session_timeout": "30s"})
    transport.admin().create([TopicDescription(site.input, PARTITIONS), *topics], _TIMEOUT)
    records = iter(load)
    before = (_CHUNKS - 1) * keys
    with running("the first worker", run_command(site), site.folder / "first.log") as first:
        _publish(transport, site.input, islice(records, before))
        watch(transport, group, site.input, before, first, _PATIENCE)
        say(f"{case}: every stream has its history; waiting for a snapshot of each")
        wait(lambda: scrape(port)["penstock_snapshots_total"] >= keys, "a snapshot of every stream", _PATIENCE)
        # Half of them go on, and are dirty when the kill comes.
        _publish(transport, site.input, islice(records, keys // 2))
        watch(transport, group, site.input, before + keys // 2, first, _PATIENCE)
        first.kill()
    _publish(transport, site.input, records)
    count, size = _snapshots(transport, f"{group}.snapshots")
    say(f"{case}: killed with {count:,} snapshots of {size / 1e6:.1f} MB in the topic; starting another worker")
    started = time.monotonic()
    with running("the second worker", run_command(site), site.folder / "second.log") as second:
        progress: list[tuple[float, int]] = []
        for now in _until(transport, site, load.records, second):
            if now[1] > before + keys // 2:
                if not progress:
                    say(f"{case}: first prediction after {now[0] - started:.2f} s")
                progress.append(now)
        say(f"{case}: all keys caught up after {progress[-1][0] - started:.2f} s")
        figures = scrape(port)
    verify(transport, site.output, "y", load, bench_network(), range(0, keys, max(1, keys // _CHECKED_KEYS)))
    return Recovery(
        case,
        keys,
        progress[0][0] - started,
        progress[-1][0] - started,
        figures["penstock_restore_seconds_sum"] / figures["penstock_restore_seconds_count"],
        int(figures["penstock_replayed_records_total"]),
        count,
        size,
    )


def _until(transport: Transport, site: Site, total: int, program: Program) -> Iterator[tuple[float, int]]:
    for now in commits(transport, site.group, site.input):
        program.expect_running()
        yield now.seconds, now.records
        if now.records >= total:
            return


def _publish(transport: Transport, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
    publisher = transport.publisher()
    for key, value in records:
        publisher.publish(topic, value, key)
    publisher.flush(_TIMEOUT)


def _snapshots(transport: Transport, topic: str) -> tuple[int, int]:
    """Records and bytes of the snapshot topic, superseded ones included, as a recovery reads them."""
    count = size = 0
    reader = transport.reader()
    for number in range(PARTITIONS):
        partition = Partition(topic, number)
        low, high = reader.watermarks(partition, _TIMEOUT)
        for batch in reader.read(partition, low, high, _TIMEOUT):
            count += len(batch)
            size += sum(len(value or b"") for value in batch.values)
    reader.close()
    return count, size


def cost(bootstrap: str, folder: Path, keys: int, records: int, rounds: int, say: Callable[[str], None]) -> dict[str, object]:
    """Records per second with the default snapshots beside those with none, in turns; a ratio is that of neighbours in time."""
    bench = Bench(bootstrap, folder, say)
    load = Load(records=records, keys=keys)
    bench.provide("cost.input", load)
    with_them = penstock_with("with snapshots", state={"slots": keys + keys // 4})
    without = penstock_with("without snapshots", state={"slots": keys + keys // 4, "snapshot_every": "24h"})
    rates: dict[str, list[float]] = {with_them.name: [], without.name: []}
    for turn in range(rounds):
        for contender in [with_them, without][:: 1 if turn % 2 else -1]:
            rates[contender.name].append(bench.run(contender, "cost.input", load).records_per_second)
        ratio = rates[with_them.name][-1] / rates[without.name][-1]
        say(f"turn {turn + 1} of {rounds}: with snapshots {ratio:.3f} of the throughput without")
    ratios = [one / other for one, other in zip(*rates.values(), strict=True)]
    return {
        "bench": "recovery",
        "case": "cost of snapshots",
        "keys": keys,
        "with": [round(rate) for rate in rates[with_them.name]],
        "without": [round(rate) for rate in rates[without.name]],
        "ratio": round(statistics.median(ratios), 3),
        "cost_percent": round(100 * (1 - statistics.median(ratios)), 1),
    }


def main(json: bool = False, keys: int = 10_000, records: int = 400_000, rounds: int = 5, kills: int = 3) -> int:
    """Run on a broker of its own and print JSON lines, or the same for people, each as soon as it is known.

    Raises `PenstockError` where an output is wrong.
    """
    say = Console(stderr=True, highlight=False).print

    def show(line: dict[str, object]) -> None:
        print(json_lines.dumps(line) if json else ", ".join(f"{name} {value}" for name, value in line.items() if name != "bench"))
        sys.stdout.flush()

    with KafkaNode() as node, tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        for on_disk in (False, True):
            show(recover(node.bootstrap, Path(folder), keys, on_disk, say).line())
        if kills:
            configure_logging(level="error")  # the worker of the aborts is in this process
            for line in interruptions(node, Path(folder), min(keys, _INTERRUPTED_KEYS), kills, say):
                show(line)
        if rounds:
            show(cost(node.bootstrap, Path(folder), keys, records, rounds, say))
    return 0
