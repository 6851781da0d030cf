"""From records to `Chunks`, for every format: what may come in at all, the quick columnar way, and whom to blame.

A format reads a whole batch at once (`columns`) as long as every record in it is flawless. Otherwise each record is read by
itself (`row`), so that the reason for a refusal is exact and the others are unharmed. Both ways give the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, Float64, Int64

from service.codec.interface import RESERVED_KEYS, Chunks, Reason, Refusal

TIME_LIMIT = 2.0**53
"""Times lie within ±2⁵³ ms: beyond, float64 cannot tell one millisecond from the next."""

RATES = (1e-6, 1e9)
"""Sampling rates in Hz that make sense, both included."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one input record may cost: its value in bytes, its samples, its key in bytes; and how many milliseconds its time may be
    from its Kafka timestamp, which unlike the wall clock is the same in a replay."""

    record_bytes: int = 1 << 20
    samples: int = 100_000
    key_bytes: int = 1024
    time_apart: float = np.inf


class Row(NamedTuple):
    """One record: samples, the first one's time in epoch milliseconds, the sampling rate in Hz."""

    samples: Float32[np.ndarray, "n C"]
    time: float
    rate: float


class Columns(NamedTuple):
    """R records, as in `Chunks`."""

    samples: Float32[np.ndarray, "N C"]
    lengths: Int64[np.ndarray, "R"]
    times: Float64[np.ndarray, "R"]
    rates: Float64[np.ndarray, "R"]


class Format(Protocol):
    """How the bytes of one input topic's values are laid out."""

    @property
    def fingerprint(self) -> str: ...

    def columns(self, values: Sequence[bytes], timestamps: Sequence[int]) -> Columns | None:
        """All records at once; None as soon as one of them may not be flawless."""

    def row(self, value: bytes, timestamp: int) -> Row | Refusal: ...


class ChunkDecoder:
    """`Decoder` for any format. Whatever it accepts is finite and within `limits`."""

    def __init__(self, format: Format, channels: int, limits: Limits) -> None:
        self._format = format
        self._channels = channels
        self._limits = limits

    @property
    def fingerprint(self) -> str:
        limits = self._limits
        return f"{self._format.fingerprint};limits={limits.record_bytes},{limits.samples},{limits.key_bytes},{limits.time_apart}"

    def decode(self, keys: Sequence[bytes | None], values: Sequence[bytes | None], timestamps: Sequence[int]) -> Chunks:
        """Null values end streams, whatever else may not come in is refused. Never raises for what a record holds."""
        refused = self._inadmissible(keys, values)
        rows: list[int] = []
        bodies: list[bytes] = []
        for row, value in enumerate(values):
            if value is not None and row not in refused:
                rows.append(row)
                bodies.append(value)
        stamps = [timestamps[row] for row in rows]

        columns = self._format.columns(bodies, stamps)
        if columns is None or not self._flawless(columns, stamps):
            columns, blamed = self._row_by_row(bodies, stamps)
            refused |= {rows[position]: refusal for position, refusal in blamed.items()}

        chunks = Chunks(
            samples=columns.samples,
            lengths=np.zeros(len(values), np.int64),
            times=np.zeros(len(values)),
            rates=np.zeros(len(values)),
            ends=np.fromiter((value is None for value in values), bool, len(values)),
            refused=refused,
        )
        chunks.lengths[rows] = columns.lengths
        chunks.times[rows] = columns.times
        chunks.rates[rows] = columns.rates
        chunks.ends[list(refused)] = False
        return chunks

    def _inadmissible(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> dict[int, Refusal]:
        limits = self._limits
        refused: dict[int, Refusal] = {}
        for row, (key, value) in enumerate(zip(keys, values, strict=True)):
            if key is None:
                refused[row] = Refusal(Reason.NO_KEY, "the record has no key, so it belongs to no stream")
            elif len(key) > limits.key_bytes:
                refused[row] = Refusal(Reason.TOO_LARGE, f"key of {len(key)} bytes, at most {limits.key_bytes} are allowed")
            elif value is not None and len(value) > limits.record_bytes:
                refused[row] = Refusal(Reason.TOO_LARGE, f"{len(value)} bytes, at most {limits.record_bytes} are allowed")
            elif value is not None and not value:
                refused[row] = Refusal(Reason.EMPTY, "empty value; a null value ends a stream")
            elif key.startswith(RESERVED_KEYS):
                refused[row] = Refusal(Reason.RESERVED_KEY, "the key begins as those do under which penstock keeps its own records")
        return refused

    def _flawless(self, columns: Columns, timestamps: Sequence[int]) -> bool:
        samples, lengths, times, rates = columns
        stamps = np.array(timestamps, np.float64)
        return bool(
            np.all(lengths >= 1)
            and np.all(lengths <= self._limits.samples)
            and np.all(np.abs(times) < TIME_LIMIT)
            and np.all((np.abs(times - stamps) <= self._limits.time_apart) | (stamps < 0))
            and np.all(rates >= RATES[0])
            and np.all(rates <= RATES[1])
            and np.isfinite(samples).all()
        )

    def _row_by_row(self, values: Sequence[bytes], timestamps: Sequence[int]) -> tuple[Columns, dict[int, Refusal]]:
        accepted: list[Row] = []
        lengths = np.zeros(len(values), np.int64)
        times = np.zeros(len(values))
        rates = np.zeros(len(values))
        refused: dict[int, Refusal] = {}
        for position, (value, timestamp) in enumerate(zip(values, timestamps, strict=True)):
            row = self._format.row(value, timestamp)
            verdict = row if isinstance(row, Refusal) else self._flaw(row, timestamp)
            if verdict is not None:
                refused[position] = verdict
            elif isinstance(row, Row):
                accepted.append(row)
                lengths[position], times[position], rates[position] = len(row.samples), row.time, row.rate
        samples = np.concatenate([np.empty((0, self._channels), np.float32), *(row.samples for row in accepted)])
        return Columns(samples, lengths, times, rates), refused

    def _flaw(self, row: Row, timestamp: int) -> Refusal | None:
        count = len(row.samples)
        if not count:
            return Refusal(Reason.EMPTY, "no samples")
        if count > self._limits.samples:
            return Refusal(Reason.TOO_LARGE, f"{count} samples, at most {self._limits.samples} are allowed")
        if not abs(row.time) < TIME_LIMIT:
            return Refusal(Reason.TIME, "the time is not within 2^53 milliseconds of 1970")
        if timestamp >= 0 and abs(row.time - timestamp) > self._limits.time_apart:
            days = (row.time - timestamp) / 86_400_000
            side = "after" if days > 0 else "before"
            return Refusal(Reason.TIME, f"{abs(days):.1f} days {side} the Kafka timestamp; milliseconds are expected")
        if not RATES[0] <= row.rate <= RATES[1]:
            return Refusal(Reason.RATE, f"the rate is not between {RATES[0]:g} and {RATES[1]:g} Hz")
        finite = np.isfinite(row.samples)
        if not finite.all():
            sample, channel = np.argwhere(~finite)[0]
            return Refusal(
                Reason.NON_FINITE,
                f"sample {sample}, channel {channel} is no finite float32, nor are {finite.size - finite.sum() - 1} more values",
            )
        return None
