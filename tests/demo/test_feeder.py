"""The feeder sends what the fleet's sensors would, in real time, and ends every stream."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import orjson

from service.demo.feeder import Feeder
from service.demo.machines import Fleet
from service.transport.interface import Partition, RecordBatch, TopicDescription
from service.transport.memory import MemoryLog, MemoryTransport

FEED = "feed"


def sent(transport: MemoryTransport) -> RecordBatch:
    partition, reader = Partition(FEED, 0), transport.reader()
    (batch,) = reader.read(partition, 0, reader.watermarks(partition, 1.0)[1], 1.0)
    return batch


def test_records_are_the_fleets_sent_no_sooner_than_they_are_complete_and_every_stream_ends() -> None:
    transport, stop = MemoryTransport(MemoryLog()), threading.Event()
    transport.admin().create([TopicDescription(FEED, 1)], 1.0)
    feeder = Feeder(Fleet(3), transport, FEED)
    with ThreadPoolExecutor(1) as thread:
        feeding = thread.submit(feeder.run, stop)
        deadline = time.monotonic() + 20
        while feeder.chunks < 30 and not feeding.done() and time.monotonic() < deadline:
            stop.wait(0.01)
        stop.set()
        feeding.result(10)
    batch = sent(transport)
    chunks = [row for row, value in enumerate(batch.values) if value is not None]
    assert len(chunks) == feeder.chunks >= 30
    assert len(batch) == feeder.chunks + feeder.ends
    for row, record in zip(chunks, Fleet(3).records(), strict=False):
        assert batch.keys[row] == record.key.encode()
        assert batch.values[row] == record.encode(feeder.origin)
        assert batch.timestamps[row] >= feeder.origin + record.stop - 2  # two clocks, each rounded to a millisecond
    assert feeder.samples == sum(len(orjson.loads(value)["x"]) for value in batch.values if value is not None)
    ended = [key for key, value in zip(batch.keys, batch.values, strict=True) if value is None]
    assert sorted(ended) == sorted(set(batch.keys))
