"""Throughput of a program from topic to topic, by what its group has committed: the same for penstock and its peers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from service.errors import OffsetsPending, PenstockError, TransportUnavailable
from service.transport.interface import Membership, Partition, Transport

_PERIOD = 0.05  # seconds between two looks at the committed offsets; an epoch lasts twice as long
_LOG_TAIL = 20  # lines shown of a program that ended before its time
_STOP_TIMEOUT = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class Progress:
    """How many input records a group had committed at a moment, in seconds of a monotonic clock."""

    seconds: float
    records: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Committed records between the first commit that was seen and the last; the start before it does not count."""

    records: int
    seconds: float
    startup: float

    @property
    def records_per_second(self) -> float:
        return self.records / self.seconds


def throughput(started: float, progress: Sequence[Progress]) -> Throughput:
    """Raises `ValueError` unless the progress shows two commits."""
    moves = [now for before, now in zip([Progress(started, 0), *progress], progress, strict=False) if now.records > before.records]
    if len(moves) < 2:
        raise ValueError(f"{len(moves)} commits were seen, and a rate takes two: give it more records")
    first, last = moves[0], moves[-1]
    return Throughput(last.records - first.records, last.seconds - first.seconds, first.seconds - started)


def commits(transport: Transport, group: str, topic: str) -> Iterator[Progress]:
    """What the group has committed of `topic`, every 50 ms, for ever."""
    reader = transport.reader()
    partitions = [Partition(topic, partition) for partition in range(reader.partitions(topic, 10.0) or 0)]
    reader.close()
    source = transport.source(Membership(group, "bench", static=False))
    records = 0
    try:
        while True:
            # An open transaction, or a coordinator that is still starting: nothing new is seen for once.
            with suppress(OffsetsPending, TransportUnavailable):
                committed = source.committed(partitions, timeout=1.0)
                records = sum(entry.offset for entry in committed.values() if entry is not None)
            yield Progress(time.monotonic(), records)
            time.sleep(_PERIOD)
    finally:
        source.close()


def watch(transport: Transport, group: str, topic: str, total: int, program: Program, timeout: float) -> list[Progress]:
    """The group's progress until it has committed `total` records of `topic`.

    Raises `PenstockError` when the program ends before, or makes no progress for `timeout` seconds.
    """
    progress = [Progress(time.monotonic(), 0)]
    moved = progress[0].seconds
    for now in commits(transport, group, topic):
        program.expect_running()
        if now.records > progress[-1].records:
            moved = now.seconds
        elif now.seconds - moved > timeout:
            raise PenstockError(f"{program.name} made no progress for {timeout:.0f} s, at {now.records} of {total} records")
        progress.append(now)
        if now.records >= total:
            break
    return progress


@dataclass(slots=True)
class Program:
    """A program under measurement: its process and what it prints."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def expect_running(self) -> None:
        code = self.process.poll()
        if code is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL:])
            raise PenstockError(f"{self.name} ended with {code} before its input; the end of what it printed:\n{tail}")

    def resident(self, which: str = "VmHWM") -> int:
        """Bytes of memory that the process has had at most, or with `VmRSS` has now, as Linux counts them."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith(which)))

    def kill(self) -> None:
        """As a machine dies: nothing is finished, nobody is told."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running(name: str, command: Sequence[str | Path], log: Path) -> Iterator[Program]:
    """The program in a process of its own, stopped by SIGTERM at the end, and when this process is. For the main thread only."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield Program(name, process, log)
    finally:
        signal.signal(signal.SIGTERM, before)
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def wait(done: Callable[[], bool], what: str, timeout: float) -> None:
    """Raises `PenstockError` unless it is done within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise PenstockError(f"{what} has not come within {timeout:.0f} s")
        time.sleep(0.5)


def scrape(port: int) -> dict[str, float]:
    """The metrics without labels that a worker on this machine serves."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10.0) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines if "{" not in name}
