"""What crosses the boundary between bytes and samples, as columns.

A decoder never raises for what a record holds: each refused record gets a `Refusal` with a stable reason, the others are
unharmed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

RESERVED_KEYS = b"\x00penstock."
"""How the keys of the service's own records in the snapshot topic begin; no device may have such a key."""


class Reason(StrEnum):
    """Stable codes of dead letters, in the header `penstock.error`."""

    NO_KEY = "no_key"
    RESERVED_KEY = "reserved_key"
    EMPTY = "empty"
    DECODE = "decode"
    UNKNOWN_SCHEMA = "unknown_schema"
    TYPE = "type"
    SHAPE = "shape"
    NON_FINITE = "non_finite"
    RATE = "rate"
    TIME = "time"
    TOO_LARGE = "too_large"
    LENGTH = "length"
    OUTPUT_TOO_LARGE = "output_too_large"
    STEP_FAILED = "step_failed"
    KILLS = "kills"


class Refusal(NamedTuple):
    """Why a record was refused: the code for machines, the message for people (lengths and names, never payload)."""

    reason: Reason
    message: str


@dataclass(slots=True)
class Chunks:
    """R decoded records.

    `samples` holds the accepted records' samples, record after record, `N = lengths.sum()`; `lengths` is 0 where a record is
    null or refused. `times` are the first samples' epoch milliseconds and `rates` the sampling rates in Hz (the input's
    declared rate where a record names none); both are meaningless where `lengths` is 0. `ends` marks null values. `refused`
    maps rows to refusals.
    """

    samples: Float32[np.ndarray, "N C"]
    lengths: Int64[np.ndarray, "R"]
    times: Float64[np.ndarray, "R"]
    rates: Float64[np.ndarray, "R"]
    ends: Bool[np.ndarray, "R"]
    refused: dict[int, Refusal]


class Decoder(Protocol):
    """Bytes to chunks for one input topic."""

    @property
    def fingerprint(self) -> str:
        """Whatever decides how bytes become samples (format, channels, rate, limits), as a short stable string."""

    def decode(self, keys: Sequence[bytes | None], values: Sequence[bytes | None], timestamps: Sequence[int]) -> Chunks: ...


@dataclass(slots=True)
class Predictions:
    """R predictions of one input partition; row r owns `lengths[r]` consecutive rows of `values`.

    `keys` are for people (UTF-8, other bytes escaped); `streams` the offsets of the streams' first records; `indices` the
    absolute index of each row's first output and `times` its epoch milliseconds; `offsets` the records that completed them.
    """

    topic: str
    partition: int
    keys: list[str]
    streams: Int64[np.ndarray, "R"]
    indices: Int64[np.ndarray, "R"]
    times: Float64[np.ndarray, "R"]
    offsets: Int64[np.ndarray, "R"]
    lengths: Int64[np.ndarray, "R"]
    values: Float32[np.ndarray, "M C_out"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One prediction record, decoded again (audit, tail)."""

    key: str
    stream: int
    index: int
    t: float
    y: Float32[np.ndarray, "m C_out"]
    topic: str
    partition: int
    offset: int


class Encoder(Protocol):
    """Predictions to bytes, and back for readers.

    Finite outputs read back with the same bits. Of those that are not, Avro keeps the bits; JSON writes null, read as NaN.
    """

    def encode(self, predictions: Predictions) -> list[bytes]: ...

    def decode(self, value: bytes) -> Prediction:
        """Raises `ValueError` where the value is no prediction record."""
