"""Raw records: the samples alone, little-endian float32, sample after sample; the time is the Kafka timestamp."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from service.codec.chunks import Columns, Row
from service.codec.interface import Reason, Refusal

FLOAT32 = np.dtype("<f4")


class RawChunks:
    """`Format` of raw sensor chunks with `channels` values per sample, at `rate` Hz."""

    def __init__(self, channels: int, rate: float) -> None:
        self._channels = channels
        self._rate = rate

    @property
    def fingerprint(self) -> str:
        return f"raw/1;channels={self._channels};rate={self._rate!r}"

    def columns(self, values: Sequence[bytes], timestamps: Sequence[int]) -> Columns | None:
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        times = np.array(timestamps, np.float64)
        lengths, remainders = np.divmod(sizes, FLOAT32.itemsize * self._channels)
        if remainders.any() or (times < 0).any():
            return None
        samples = np.frombuffer(b"".join(values), FLOAT32).astype(np.float32, copy=False)
        return Columns(samples.reshape(-1, self._channels), lengths, times, np.full(len(values), self._rate))

    def row(self, value: bytes, timestamp: int) -> Row | Refusal:
        samples = float32_samples(value, self._channels)
        if isinstance(samples, Refusal):
            return samples
        if timestamp < 0:
            return Refusal(Reason.TIME, "the record has no Kafka timestamp, from which raw samples take their time")
        return Row(samples, float(timestamp), self._rate)


def float32_samples(data: bytes, channels: int) -> Float32[np.ndarray, "n C"] | Refusal:
    """Little-endian float32 bytes as `[n, C]`."""
    if len(data) % (FLOAT32.itemsize * channels):
        size = FLOAT32.itemsize * channels
        return Refusal(Reason.SHAPE, f"{len(data)} bytes of samples are no multiple of {size}: {channels} channels of float32")
    return np.frombuffer(data, FLOAT32).astype(np.float32, copy=False).reshape(-1, channels)
