"""The snapshot topic with the settings that it is made with: after many generations of snapshots, a restart reads little more than
the last one."""

from __future__ import annotations

import random
import time

import pytest

from service.transport.interface import Partition, Reader
from tests.faults.conftest import LONG, Scenes

pytestmark = [pytest.mark.broker, pytest.mark.skipif(not LONG, reason="writes 300 MB and waits for the cleaner: `make faults`")]

KEYS = 5500
SIZE = 6000  # bytes of a snapshot
GENERATIONS = 8


def read(reader: Reader, partition: Partition) -> tuple[int, int]:
    """Bytes of what a restart reads, and of the snapshots that are live."""
    low, high = reader.watermarks(partition, 30.0)
    total, live = 0, dict[bytes | None, int]()
    for batch in reader.read(partition, low, high, 30.0):
        for key, value in zip(batch.keys, batch.values, strict=True):
            total += len(value or b"")
            live[key] = len(value or b"")
    return total, sum(live.values())


def test_a_restart_reads_at_most_twice_the_live_bytes(scenes: Scenes) -> None:
    noise = random.Random(1).randbytes(SIZE + KEYS * GENERATIONS)  # nothing that could be compressed
    with scenes() as play:
        partition = Partition(play.config.snapshot_topic, 0)
        publisher, reader = play.transport.publisher(), play.transport.reader()
        for generation in range(GENERATIONS):
            for key in range(KEYS):
                start = generation * KEYS + key
                publisher.publish(partition.topic, noise[start : start + SIZE], key=b"key-%d" % key, partition=0)
            publisher.flush(60.0)
        deadline = time.monotonic() + 90.0
        while True:
            total, live = read(reader, partition)
            assert live == KEYS * SIZE
            if total <= 2 * live:
                break
            assert time.monotonic() < deadline, f"{total} bytes are read for {live} live ones"
        print(f"{total} bytes read for {live} live ones, of {GENERATIONS * KEYS * SIZE} that were written")
        reader.close()
