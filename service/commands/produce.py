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
    """How many records were published and acknowledged. A file is read and checked whole before anything is published."""
    records = list(_lines(config, file)) if file else _made_up(config, signal)
    publisher = transport.publisher()
    topic, count = config.input.topic, 0
    for key, value in records:
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
    """One record a line: `{"key": …, "t": …, "x": …}`; `"x": null` ends the key's stream."""
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield _record(config, line)
            except ValueError as error:
                form = '{"key": "…", "t": epoch ms, "x": [[…], …]} is expected, or "x": null for the end of a stream'
                raise ConfigurationError(f"{file}, line {number}: {error}; {form}") from error


def _record(config: Config, line: bytes) -> tuple[bytes, bytes | None]:
    """Raises `ValueError` for anything but a record that fits the configured channels."""
    found = orjson.loads(line)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    if missing := [name for name in ("key", "x") if name not in found]:
        raise ValueError(f"{' and '.join(missing)} missing")
    if not isinstance(found["key"], str):
        raise ValueError("key is no text")
    key = found["key"].encode()
    if found["x"] is None:
        return key, None
    if type(found.get("t")) not in (int, float):
        raise ValueError("t is no number")
    samples = np.array(found["x"], np.float32)
    if config.channels == 1 and samples.ndim == 1:
        samples = samples[:, None]
    if samples.ndim != 2 or samples.shape[1] != config.channels or not len(samples):
        raise ValueError(f"x has the shape {list(samples.shape)}, samples × {config.channels} channels are expected")
    return key, _chunk(config, float(found["t"]), samples)
