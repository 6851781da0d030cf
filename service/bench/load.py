"""What the benches feed: records of random samples, the same ones at every run, key after key in turn as devices send them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import orjson
from jaxtyping import Float32

from service.errors import ConfigurationError
from service.transport.interface import Publisher

START = 1_700_000_000_000
"""Time of every stream's first sample, in epoch milliseconds."""


@dataclass(frozen=True)
class Load:
    """`records` records over `keys` keys, each of `chunk` samples of `channels` channels at `rate` Hz.

    Samples have four decimals, as converters of 14 to 16 bits deliver them. `records` must be a multiple of `keys`.
    """

    records: int = 200_000
    keys: int = 1_000
    chunk: int = 10
    channels: int = 3
    rate: int = 1_000
    seed: int = 1

    def __post_init__(self) -> None:
        if self.records % self.keys:
            raise ConfigurationError(f"{self.records} records do not divide among {self.keys} keys; take a multiple of {self.keys}")

    @cached_property
    def samples(self) -> Float32[np.ndarray, "keys T C"]:
        """Every key's whole stream."""
        shape = (self.keys, self.records // self.keys * self.chunk, self.channels)
        noise = np.random.default_rng(self.seed).standard_normal(shape, dtype=np.float32)
        return np.round(noise, 4)

    def key(self, index: int) -> bytes:
        return b"sensor-%04d" % index

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and JSON value of each record: the keys in turn, time going on from round to round."""
        keys = [self.key(index) for index in range(self.keys)]
        period = 1000 * self.chunk // self.rate
        for turn in range(self.records // self.keys):
            chunks = np.ascontiguousarray(self.samples[:, turn * self.chunk : (turn + 1) * self.chunk])
            time = START + turn * period
            for key, chunk in zip(keys, chunks, strict=True):
                yield key, orjson.dumps({"t": time, "x": chunk}, option=orjson.OPT_SERIALIZE_NUMPY)


def fill(publisher: Publisher, topic: str, load: Load, timeout: float = 60.0) -> None:
    """Publish the load; raises `TransportUnavailable` unless all of it is in the log within `timeout` seconds."""
    for key, value in load:
        publisher.publish(topic, value, key)
    publisher.flush(timeout)
