"""Avro records: `schemas/sensor_chunk.avsc` in, `schemas/prediction.avsc` out, bare or framed as Confluent's registry does.

Sensor chunks of the packaged schema have a fixed layout but for the samples' length, so a batch of them is read with a few
array operations; fastavro reads all others, one by one. Predictions are laid out with array operations, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import SEEK_END, BytesIO
from typing import Any

import fastavro
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from service.codec.avro_schema import ChunkSchema, SchemaSource, packaged_schema
from service.codec.chunks import Columns, Row
from service.codec.interface import Prediction, Predictions, Reason, Refusal
from service.codec.raw_records import FLOAT32, float32_samples
from service.codec.schemas import PREDICTION, load_schema
from service.errors import ConfigurationError

_FLOAT64 = np.dtype("<f8")
_WIDTHS = {"null": 0, "float": 4, "double": 8}
_HEADER = 5
"""Confluent's framing: a zero byte, then the schema id, big-endian."""


class AvroChunks:
    """`Format` of Avro sensor chunks with `channels` values per sample, at `rate` Hz where a record names none.

    `schema` is either the schema of all values, or the source of those that the values' framing names.
    """

    def __init__(self, channels: int, rate: float, schema: ChunkSchema | SchemaSource) -> None:
        self._channels = channels
        self._rate = rate
        self._schema = schema
        self._packaged = packaged_schema().fingerprint

    @property
    def fingerprint(self) -> str:
        return f"avro/2;channels={self._channels};rate={self._rate!r};schema={self._schema.fingerprint}"

    def columns(self, values: Sequence[bytes], timestamps: Sequence[int]) -> Columns | None:
        schema: ChunkSchema | Refusal
        if isinstance(self._schema, ChunkSchema):
            schema = self._schema
        else:
            if len({value[:_HEADER] for value in values}) != 1:
                return None
            schema = self._named(values[0])
            values = [value[_HEADER:] for value in values]
        if isinstance(schema, Refusal) or schema.fingerprint != self._packaged:
            return None
        return self._packaged_columns(values)

    def row(self, value: bytes, timestamp: int) -> Row | Refusal:
        if isinstance(self._schema, ChunkSchema):
            schema, body = self._schema, value
        else:
            named = self._named(value)
            if isinstance(named, Refusal):
                return named
            schema, body = named, value[_HEADER:]
        record = _datum(schema, body)
        if isinstance(record, Refusal):
            return record
        samples = self._samples(record["samples"])
        if isinstance(samples, Refusal):
            return samples
        rate = record.get("rate")
        return Row(samples, float(record["t"]), self._rate if rate is None else float(rate))

    def _named(self, value: bytes) -> ChunkSchema | Refusal:
        if len(value) < _HEADER or value[0] != 0 or isinstance(self._schema, ChunkSchema):
            return Refusal(Reason.DECODE, f"{len(value)} bytes that do not begin with a zero byte and a schema id")
        schema_id = int.from_bytes(value[1:_HEADER], "big")
        schema = self._schema.schema(schema_id)
        return Refusal(Reason.UNKNOWN_SCHEMA, f"schema id {schema_id} is unknown") if schema is None else schema

    def _packaged_columns(self, bodies: Sequence[bytes]) -> Columns | None:
        """A double, a length, samples, then a zero byte or a two and a double: anything else is for `row` to tell."""
        sizes = np.fromiter(map(len, bodies), np.int64, len(bodies))
        if not len(bodies) or sizes.min() < 10:
            return None
        joined = b"".join(bodies)
        data = np.frombuffer(joined + bytes(8), np.uint8)
        stops = np.cumsum(sizes)
        starts = stops - sizes
        counts, first = _lengths(data, starts + 8)
        tail = first + counts
        if (tail >= stops).any() or (counts % (FLOAT32.itemsize * self._channels)).any():
            return None
        rated = data[tail] == 2
        if ((data[tail] != 0) & ~rated).any() or (stops - tail != np.where(rated, 9, 1)).any():
            return None
        rates = np.full(len(bodies), self._rate)
        rates[rated] = _doubles(data, tail[rated] + 1)
        samples = b"".join([joined[start:stop] for start, stop in zip(first.tolist(), tail.tolist(), strict=True)])
        return Columns(
            np.frombuffer(samples, FLOAT32).astype(np.float32, copy=False).reshape(-1, self._channels),
            counts // (FLOAT32.itemsize * self._channels),
            _doubles(data, starts),
            rates,
        )

    def _samples(self, samples: bytes | list[float]) -> Float32[np.ndarray, "n C"] | Refusal:
        if isinstance(samples, bytes):
            return float32_samples(samples, self._channels)
        if len(samples) % self._channels:
            return Refusal(Reason.SHAPE, f"{len(samples)} values are no multiple of {self._channels} channels")
        with np.errstate(over="ignore"):
            return np.array(samples, np.float32).reshape(-1, self._channels)


class AvroPredictions:
    """`Encoder` of Avro prediction records, framed where they have a schema id."""

    def __init__(self, schema_id: int | None = None) -> None:
        self._header = _header(schema_id)
        self._schema = fastavro.parse_schema(load_schema(f"{PREDICTION}.avsc"))

    def encode(self, predictions: Predictions) -> list[bytes]:
        outputs, width = _items(predictions.values)
        stops = np.cumsum(predictions.lengths) * width
        topic = predictions.topic.encode()
        (size, partition) = _longs(np.array([len(topic), predictions.partition]))
        source = size + topic + partition
        keys = [key.encode() for key in predictions.keys]
        times = predictions.times.astype(_FLOAT64).tobytes()
        rows = zip(
            _longs(np.fromiter(map(len, keys), np.int64, len(keys))),
            keys,
            _longs(predictions.streams),
            _longs(predictions.indices),
            _longs(predictions.lengths),
            (stops - predictions.lengths * width).tolist(),
            stops.tolist(),
            _longs(predictions.offsets),
            strict=True,
        )
        return [
            b"".join(
                (
                    self._header,
                    key_size,
                    key,
                    stream,
                    index,
                    times[8 * row : 8 * row + 8],
                    count,
                    outputs[start:stop],
                    # An array ends with a block of no items; one without any is that alone.
                    b"\0" if stop > start else b"",
                    source,
                    offset,
                )
            )
            for row, (key_size, key, stream, index, count, start, stop, offset) in enumerate(rows)
        ]

    def decode(self, value: bytes) -> Prediction:
        """Raises `ValueError` where the value is no prediction record."""
        if not value.startswith(self._header):
            raise ValueError("the value does not begin with the schema id of predictions")
        body = BytesIO(value[len(self._header) :])
        try:
            record: Any = fastavro.schemaless_reader(body, self._schema, None)
        except Exception as error:  # fastavro raises whatever hostile bytes make it stumble over
            raise ValueError(f"not an Avro prediction record: {error}") from error
        if body.read(1):
            raise ValueError("not an Avro prediction record: bytes are left over")
        outputs = np.array(record.pop("y"), np.float32)
        return Prediction(y=outputs.reshape(len(outputs), -1), **record)


def avro_chunk(time: float, samples: Float32[np.ndarray, "n C"], rate: float, schema: ChunkSchema, schema_id: int | None) -> bytes:
    """A record as `AvroChunks` reads it. Raises `ConfigurationError` where the schema has fields that a chunk cannot fill."""
    kinds = {field["name"]: field["type"] for field in schema.parsed["fields"]}
    record = {
        "t": round(time) if kinds["t"] in ("int", "long") else time,
        "samples": samples.ravel().tolist() if schema.has_array else samples.astype(FLOAT32).tobytes(),
        "rate": rate,
    }
    out = BytesIO(_header(schema_id))
    out.seek(0, SEEK_END)
    try:
        fastavro.schemaless_writer(out, schema.parsed, record)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"sample records cannot be written with this Avro schema: {error}") from error
    return out.getvalue()


def _header(schema_id: int | None) -> bytes:
    return b"" if schema_id is None else b"\0" + schema_id.to_bytes(_HEADER - 1, "big")


def _datum(schema: ChunkSchema, body: bytes) -> dict[str, Any] | Refusal:
    stream = BytesIO(body)
    try:
        record: Any = fastavro.schemaless_reader(stream, schema.parsed, None)
    except Exception as error:  # fastavro raises whatever hostile bytes make it stumble over
        return Refusal(Reason.DECODE, f"no Avro datum of the schema in {len(body)} bytes ({type(error).__name__})")
    if stream.tell() != len(body):
        return Refusal(Reason.DECODE, f"{len(body) - stream.tell()} bytes are left over after the Avro datum")
    if not _as_specified(schema.parsed["fields"], body):
        return Refusal(Reason.DECODE, "the Avro datum is not encoded as the specification says")
    datum: dict[str, Any] = record
    return datum


def _as_specified(fields: list[dict[str, Any]], body: bytes) -> bool:
    """Whether every number is as short as can be and fits its type, and every index and size is one: fastavro looks away."""
    at = 0
    try:
        for field in fields:
            at = _after(field["type"], body, at)
    except (IndexError, ValueError):
        return False
    return at == len(body)


def _after(kind: Any, body: bytes, at: int) -> int:
    """Where a value stops. Raises `IndexError` or `ValueError` where it is none."""
    if type(kind) is list:
        branch, at = _long(body, at)
        if branch < 0:
            raise ValueError("no union index")
        return _after(kind[branch], body, at)
    if type(kind) is dict:
        return _after_array(_WIDTHS[kind["items"]], body, at)
    if kind in _WIDTHS:
        return at + _WIDTHS[kind]
    if kind == "boolean":
        if body[at] > 1:
            raise ValueError("no boolean")
        return at + 1
    number, at = _long(body, at)
    if kind in ("bytes", "string"):
        if number < 0:
            raise ValueError("no length")
        return at + number
    if kind == "int" and not -(2**31) <= number < 2**31:
        raise ValueError("no int")
    return at


def _long(body: bytes, at: int) -> tuple[int, int]:
    """A zigzag number and where it stops. Raises `ValueError` where it is longer than need be, or than 64 bits."""
    number = shift = 0
    while (group := body[at]) >= 0x80 and shift < 63:
        number |= (group & 0x7F) << shift
        shift += 7
        at += 1
    number |= group << shift
    if number >> 64 or (shift and not group):
        raise ValueError("no long")
    return (number >> 1) ^ -(number & 1), at + 1


def _after_array(width: int, body: bytes, at: int) -> int:
    """Arrays come in any number of blocks. The count of one whose size in bytes is told is negative."""
    while True:
        count, at = _long(body, at)
        if count < 0:
            count = -count
            size, at = _long(body, at)
            if size != count * width:
                raise ValueError("no block size")
        if not count:
            return at
        at += count * width


def _doubles(data: UInt8[np.ndarray, "bytes"], at: Int64[np.ndarray, "R"]) -> Float64[np.ndarray, "R"]:
    return data[at[:, None] + np.arange(8)].view(_FLOAT64)[:, 0].astype(np.float64, copy=False)


def _lengths(data: UInt8[np.ndarray, "bytes"], at: Int64[np.ndarray, "R"]) -> tuple[Int64[np.ndarray, "R"], Int64[np.ndarray, "R"]]:
    """Zigzag numbers of at most four bytes and where they stop; −1, which no float32 fill, where one is negative or longer
    than that, or than needed."""
    groups = data[at[:, None] + np.arange(4)].astype(np.int64)
    sizes = 1 + np.cumprod(groups >= 0x80, axis=1).sum(axis=1)
    used = np.arange(4) < sizes[:, None]
    zigzag = (np.where(used, groups & 0x7F, 0) << np.arange(0, 28, 7)).sum(axis=1)
    shortest = (sizes == 1) | (zigzag >> (7 * (sizes - 1)) > 0)
    return np.where((zigzag & 1 == 0) & (sizes <= 4) & shortest, zigzag >> 1, -1), at + sizes


def _longs(values: Int64[np.ndarray, "R"]) -> list[bytes]:
    """Each number, none of them negative, in zigzag, seven bits a byte, low ones first."""
    zigzag = values.astype(np.uint64) << np.uint64(1)
    groups = zigzag[:, None] >> np.arange(0, 70, 7, dtype=np.uint64)
    sizes = np.maximum(1, (groups != 0).sum(axis=1))
    more = np.arange(10) < sizes[:, None] - 1
    data = ((groups & np.uint64(0x7F)) | np.where(more, np.uint64(0x80), np.uint64(0))).astype(np.uint8).tobytes()
    return [data[10 * row : 10 * row + size] for row, size in enumerate(sizes.tolist())]


def _items(values: Float32[np.ndarray, "M C_out"]) -> tuple[bytes, int]:
    """Every row as an array of floats in one block, and the bytes of each."""
    (count,) = _longs(np.array([values.shape[1]]))
    rows = np.zeros((len(values), len(count) + FLOAT32.itemsize * values.shape[1] + 1), np.uint8)
    rows[:, : len(count)] = np.frombuffer(count, np.uint8)
    rows[:, len(count) : -1] = np.ascontiguousarray(values, FLOAT32).view(np.uint8)
    return rows.tobytes(), rows.shape[1]
