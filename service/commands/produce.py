"""`penstock produce`: sample records into the input topic, made up or from a file of JSON lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from jaxtyping import Float32

from service.codec import encode_chunk
from service.config import Config
from service.errors import ConfigurationError
from service.transport.interface import Transport


class Signal(NamedTuple):
    """How much to make up: keys, records per key, samples per record, and whether each key's stream ends."""

    keys: int
    records: int
    samples: int
    end: bool
    realtime: bool
    seed: int


def produce(config: Config, transport: Transport, signal: Signal, file: Path | None) -> int:
    """How many records were published and acknowledged."""
    publisher = transport.publisher()
    topic, count = config.input.topic, 0
    for key, value in _lines(config, file) if file else _made_up(config, signal):
        publisher.publish(topic, value, key=key)
        count += 1
    publisher.flush(30.0)
    return count


def _made_up(config: Config, signal: Signal) -> Iterator[tuple[bytes, bytes | None]]:
    """Sines with noise, `signal.keys` devices in turn; in real time where asked for."""
    generator = np.random.default_rng(signal.seed)
    began, rate = time.time(), config.input.rate
    span = signal.samples / rate
    start = began - (0 if signal.realtime else signal.records * span)
    for record in range(signal.records):
        if signal.realtime:
            time.sleep(max(0.0, began + (record + 1) * span - time.time()))
        at = (record * signal.samples + np.arange(signal.samples)) / rate
        for key in range(signal.keys):
            frequency = 0.02 * rate * (1 + key / max(signal.keys, 1))
            wave = np.sin(2 * np.pi * frequency * at)[:, None] + 0.1 * generator.standard_normal((len(at), config.channels))
            yield f"device-{key + 1}".encode(), _chunk(config, (start + record * span) * 1000, wave.astype(np.float32))
    if signal.end:
        for key in range(signal.keys):
            yield f"device-{key + 1}".encode(), None


def _chunk(config: Config, time_ms: float, samples: Float32[np.ndarray, "n C"]) -> bytes:
    return encode_chunk(config, round(time_ms), samples)


def _lines(config: Config, file: Path) -> Iterator[tuple[bytes, bytes | None]]:
    """One record a line: `{"key": …, "t": …, "x": …}`; without `x`, the end of the key's stream."""
    source = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    with source:
        for number, line in enumerate(source, 1):
            if not line.strip():
                continue
            try:
                found = orjson.loads(line)
                key = found["key"].encode()
                if found.get("x") is None:
                    yield key, None
                else:
                    samples = np.array(found["x"], np.float32).reshape(-1, config.channels)
                    yield key, _chunk(config, float(found["t"]), samples)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ConfigurationError(
                    f'{file}, line {number}: {error}; {{"key": "…", "t": epoch ms, "x": [[…], …]}} is expected'
                ) from error
