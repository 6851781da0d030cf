"""`penstock replay` and the audit of a part, on the real broker."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from service.app import required_topics
from service.config import Config, load
from service.demo.broker import KafkaNode
from service.errors import OffsetsPending
from service.transport.interface import Membership, Partition
from service.transport.kafka import KafkaTransport
from tests.applications import chunk, write

PARTITIONS = 4
KEYS = 200
PENSTOCK = [str(Path(sys.executable).with_name("penstock"))]

pytestmark = pytest.mark.broker


@pytest.fixture
def path(kafka: KafkaNode, tmp_path: Path) -> Path:
    return application(kafka, tmp_path)


def application(kafka: KafkaNode, directory: Path, changes: dict[str, Any] | None = None, **properties: str) -> Path:
    """The configuration of an application of its own, with its topics made."""
    name = f"app-{uuid.uuid4().hex[:8]}"
    inputs = [{"topic": f"{name}.in", "channels": ["a", "b"], "rate": 1000}]
    small_steps = {"max_records": 50}  # many steps and commits, so that kills meet all of them
    kafka_settings = {"bootstrap.servers": kafka.bootstrap} | properties
    settings = {"app": name, "inputs": inputs, "output": {"topic": f"{name}.out"}, "poll": small_steps, "kafka": kafka_settings}
    path = write(directory, **(settings | (changes or {})))
    config = load(path)
    KafkaTransport(config.kafka).admin().create(required_topics(config, PARTITIONS), 10.0)
    return path


def fill(config: Config, records: int) -> None:
    """Records of one to four samples, the keys in random order; one in a thousand ends its key's stream."""
    generator = np.random.default_rng(5)
    publisher = KafkaTransport(config.kafka).publisher()
    values = [chunk(1_700_000_000_000 + 4 * number, 1 + number % 4, seed=number) for number in range(97)]
    for number in range(records):
        value = None if number % 1000 == 999 else values[number % 97]
        publisher.publish(config.input.topic, value, key=b"key-%03d" % generator.integers(KEYS))
    publisher.flush(60.0)


def wait_for(config: Config, offsets: int, process: subprocess.Popen[bytes], seconds: float = 90.0) -> None:
    """Until the group has committed so many offsets, by `process` as long as it lives."""
    partitions = [Partition(config.input.topic, number) for number in range(PARTITIONS)]
    source = KafkaTransport(config.kafka).source(Membership(config.app, "looking", static=False))
    deadline, done = time.monotonic() + seconds, 0
    while done < offsets:
        assert process.poll() is None, f"the worker ended with exit code {process.returncode}"
        assert time.monotonic() < deadline, f"only {done} of {offsets} offsets are committed after {seconds} s"
        with suppress(OffsetsPending):
            done = sum(committed.offset for committed in source.committed(partitions, 1.0).values() if committed)
        time.sleep(0.005)
    source.close()


@contextmanager
def running(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = path.with_suffix(".log")
    with log.open("ab") as out:
        process = subprocess.Popen([*PENSTOCK, "run", str(path)], stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_part_computed_again_is_what_was_published(path: Path) -> None:
    config, records = load(path), 5_000
    fill(config, records)
    with running(path) as process:
        wait_for(config, records, process)
        process.terminate()
        assert process.wait(30) == 0
    into = f"{config.app}.again"
    done = subprocess.run([*PENSTOCK, "replay", str(path), "--into", into, "--json"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert orjson.loads(done.stdout)["predictions"] == records - records // 1000
    assert committed_values(config, into) == committed_values(config, config.output.topic)
    again = subprocess.run([*PENSTOCK, "replay", str(path), "--into", into], capture_output=True, check=False)
    assert again.returncode == 1
    assert b"holds records already" in again.stderr
    key = ["--keys", "key-007", "--from", "1h", "--to", "1ms"]
    one = subprocess.run([*PENSTOCK, "audit", str(path), "--json", *key], capture_output=True, check=False)
    assert one.returncode == 0, one.stderr.decode()
    values = [value for value in committed_values(config, into) if orjson.loads(value)["key"] == "key-007"]
    assert orjson.loads(one.stdout)["expected"] == len(values) > 0


def committed_values(config: Config, topic: str) -> list[bytes]:
    reader = KafkaTransport(config.kafka).reader()
    found = []
    for number in range(PARTITIONS):
        low, high = reader.watermarks(Partition(topic, number), 10.0)
        found += [value or b"" for batch in reader.read(Partition(topic, number), low, high, 10.0) for value in batch.values]
    reader.close()
    return sorted(found)
