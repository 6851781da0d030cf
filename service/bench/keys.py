"""`penstock bench keys`: far more keys than slots, and the memory that the worker takes for them."""

from __future__ import annotations

import json as json_lines
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from service.bench.contenders import PARTITIONS, Site, bench_network, configure, network_model, run_command
from service.bench.load import Load, fill
from service.bench.measure import running, watch
from service.bench.outputs import verify
from service.demo.broker import KafkaNode
from service.errors import PenstockError
from service.transport.interface import Partition, TopicDescription, Transport
from service.transport.kafka import KafkaTransport

_PATIENCE = 300.0  # seconds without a commit
_TIMEOUT = 300.0
_CHECKED_KEYS = 200


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many keys over few slots. Sizes in bytes; `resident` is the worker's highest, `resident_few` with as many keys as slots;
    `quarters` what was resident after each quarter of the input, to see whether keys make it grow."""

    keys: int
    slots: int
    memory_bytes: int
    records: int
    seconds: float
    resident: int
    resident_few: int
    disk: int
    quarters: list[int]

    def line(self) -> dict[str, object]:
        return (
            {"bench": "keys", "records_per_second": round(self.records / self.seconds)}
            | asdict(self)
            | {"seconds": round(self.seconds, 1)}
        )


def crowd(
    bootstrap: str, folder: Path, keys: int, slots: int, memory_bytes: int, chunks: int, chunk: int, say: Callable[[str], None]
) -> Crowd:
    """Every key sends in turn, so that whoever comes has been cold the longest.

    Raises `PenstockError` where a key has not as many predictions as records, or a checked one values that are not the module's.
    """
    few = _run(bootstrap, folder / "few", Load(records=slots * chunks, keys=slots, chunk=chunk), slots, memory_bytes, say)
    many = _run(bootstrap, folder / "many", Load(records=keys * chunks, keys=keys, chunk=chunk), slots, memory_bytes, say)
    return Crowd(keys, slots, memory_bytes, keys * chunks, many.seconds, many.resident, few.resident, many.disk, many.quarters)


@dataclass(frozen=True, slots=True)
class _Run:
    """Seconds, the worker's highest resident memory and that after each quarter, and the bytes on its disk."""

    seconds: float
    resident: int
    quarters: list[int]
    disk: int


def _run(bootstrap: str, folder: Path, load: Load, slots: int, memory_bytes: int, say: Callable[[str], None]) -> _Run:
    transport = KafkaTransport({"bootstrap.servers": bootstrap})
    group = f"keys-{load.keys}"
    site = Site(bootstrap, group, f"{group}.input", f"{group}.output", folder)
    folder.mkdir()
    state = {"slots": slots, "memory_bytes": memory_bytes, "directory": str(folder / "state")}
    topics = configure(site, load, network_model(site), state=state)
    transport.admin().create([TopicDescription(site.input, PARTITIONS), *topics], _TIMEOUT)
    say(f"{load.keys:,} keys over {slots:,} slots: {load.records:,} records of {load.chunk} samples")
    fill(transport.publisher(), site.input, load, _TIMEOUT)
    started = time.monotonic()
    with running("penstock", run_command(site), folder / "log") as program:
        quarters = []
        for part in range(1, 5):
            watch(transport, group, site.input, load.records * part // 4, program, _PATIENCE)
            quarters.append(program.resident("VmRSS"))
            say(f"{part} of 4 parts after {time.monotonic() - started:.0f} s, {quarters[-1] / 1e6:,.0f} MB resident")
        seconds = time.monotonic() - started
        resident = program.resident()
    verify(transport, site.output, "y", load, bench_network(), range(0, load.keys, max(1, load.keys // _CHECKED_KEYS)))
    _expect_each(transport, site.output, load)
    say(f"{load.records / seconds:,.0f} records/s, {resident / 1e6:,.0f} MB resident; every key has its predictions")
    return _Run(seconds, resident, quarters, sum(file.stat().st_size for file in (folder / "state").iterdir()))


def _expect_each(transport: Transport, topic: str, load: Load) -> None:
    found: Counter[bytes | None] = Counter()
    reader = transport.reader()
    for number in range(reader.partitions(topic, _TIMEOUT) or 0):
        partition = Partition(topic, number)
        for batch in reader.read(partition, 0, reader.watermarks(partition, _TIMEOUT)[1], _TIMEOUT):
            found.update(batch.keys)
    reader.close()
    each = load.records // load.keys
    if len(found) != load.keys or set(found.values()) != {each}:
        wrong = next((key for key, count in found.items() if count != each), None)
        raise PenstockError(f"{topic} has {len(found)} keys, and {found[wrong]} predictions of {wrong!r} where {each} are due")


def main(
    json: bool = False, keys: int = 1_000_000, slots: int = 4096, memory_bytes: int = 64 << 20, chunks: int = 2, chunk: int = 10
) -> int:
    """Run on a broker of its own and print the figures. Raises `PenstockError` where an output is missing or wrong."""
    say = Console(stderr=True, highlight=False).print
    with KafkaNode() as node, tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        line = crowd(node.bootstrap, Path(folder), keys, slots, memory_bytes, chunks, chunk, say).line()
    print(json_lines.dumps(line) if json else ", ".join(f"{name} {value}" for name, value in line.items() if name != "bench"))
    return 0
