"""JSON records: `{"t": 1700000000000, "x": [[ax, ay, az], …]}` in, `{"key": …, "y": [[…], …], …}` out.

Numbers pass through float64 into float32, each time to the nearest. Names beyond those of the schema are ignored, so that
producers may add some; of a name given twice the last value counts. Outputs are written with the shortest digits that give
the same float32 again, and non-finite ones as `null`, which reads back as NaN: JSON has no word for them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson
from jaxtyping import Float32, Float64

from service.codec.chunks import Columns, Row
from service.codec.interface import Prediction, Predictions, Reason, Refusal

_NUMBERS: set[type] = {int, float}
_INT64 = 2.0**63
# Where JSON has a number. In a text it finds some, too, which may be changed: neither t nor x nor rate has digits in its name.
_LONG_INTEGER = re.compile(rb"(?<=[\[,:\s])-?[0-9]{19,}(?![0-9.eE])")
# Of all float32 this one alone has shortest digits that miss it when read through float64 (shown by trying all of them).
_MIDPOINT = (7.038531e-26, np.uint32(0x15AE43FD).view(np.float32))
_FIELDS: dict[str, set[type]] = {
    "key": {str},
    "stream": {int},
    "index": {int},
    "t": _NUMBERS,
    "topic": {str},
    "partition": {int},
    "offset": {int},
}
_WORDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


class JsonChunks:
    """`Format` of JSON sensor chunks with `channels` values per sample, at `rate` Hz where a record names none."""

    def __init__(self, channels: int, rate: float) -> None:
        self._channels = channels
        self._rate = rate

    @property
    def fingerprint(self) -> str:
        return f"json/2;channels={self._channels};rate={self._rate!r}"

    def columns(self, values: Sequence[bytes], timestamps: Sequence[int]) -> Columns | None:
        try:
            records: list[dict[str, Any]] = list(map(orjson.loads, values))
            times = [record["t"] for record in records]
            chunks = [record["x"] for record in records]
            rates = [record.get("rate", self._rate) for record in records]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None
        # `type` rather than isinstance: a boolean is an int to Python.
        if not set(map(type, times)) <= _NUMBERS or not set(map(type, rates)) <= _NUMBERS or set(map(type, chunks)) != {list}:
            return None
        numbers = _numbers_of(list(chain.from_iterable(chunks)), self._channels)
        if numbers is None:
            return None
        flat = _float32(numbers)
        # What is so large may have been written as an integer beyond 64 bits, which `row` refuses.
        if flat.size and (flat.max() >= _INT64 or flat.min() <= -_INT64):
            return None
        return Columns(
            flat.reshape(-1, self._channels),
            np.fromiter(map(len, chunks), np.int64, len(chunks)),
            np.array(times, np.float64),
            np.array(rates, np.float64),
        )

    def row(self, value: bytes, timestamp: int) -> Row | Refusal:
        try:
            record = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            return Refusal(Reason.DECODE, f"not JSON: {error.msg} (character {error.pos})")
        if type(record) is not dict:
            return Refusal(Reason.TYPE, f"the record is {_kind(record)}, an object is expected")
        for name in ("t", "x"):
            if name not in record:
                return Refusal(Reason.DECODE, f"{name} is missing")
        record.setdefault("rate", self._rate)
        for name in ("t", "rate"):
            if type(record[name]) not in _NUMBERS:
                return Refusal(Reason.TYPE, f"{name} is {_kind(record[name])}, a number is expected")
        if type(record["x"]) is not list:
            return Refusal(Reason.TYPE, f"x is {_kind(record['x'])}, an array is expected")
        numbers = _numbers_of(record["x"], self._channels)
        if numbers is None:
            return self._misshapen(record["x"])
        if _written_beyond_64_bits([record["t"], record["rate"], *numbers], value):
            return Refusal(Reason.TYPE, "an integer is beyond 64 bits")
        return Row(_float32(numbers).reshape(-1, self._channels), float(record["t"]), float(record["rate"]))

    def _misshapen(self, chunk: list[Any]) -> Refusal:
        flat = self._channels == 1 and type(chunk[0]) is not list
        for index, sample in enumerate(chunk):
            if flat:
                refusal = _misfit(f"x[{index}]", sample, _NUMBERS, "a number")
            elif type(sample) is not list:
                refusal = _misfit(f"x[{index}]", sample, {list}, f"an array of {self._channels}")
            elif len(sample) != self._channels:
                refusal = Refusal(Reason.SHAPE, f"x[{index}] holds {len(sample)} values, {self._channels} are expected")
            else:
                misfits = (_misfit(f"x[{index}][{channel}]", v, _NUMBERS, "a number") for channel, v in enumerate(sample))
                refusal = next(filter(None, misfits), None)
            if refusal is not None:
                return refusal
        raise AssertionError("nothing is misshapen here")


class JsonPredictions:
    """`Encoder` of JSON prediction records."""

    def encode(self, predictions: Predictions) -> list[bytes]:
        values = np.ascontiguousarray(predictions.values)
        stops = np.cumsum(predictions.lengths)
        rows = zip(
            predictions.keys,
            predictions.streams.tolist(),
            predictions.indices.tolist(),
            _numbers(predictions.times),
            (stops - predictions.lengths).tolist(),
            stops.tolist(),
            predictions.offsets.tolist(),
            strict=True,
        )
        return [
            orjson.dumps(
                {
                    "key": key,
                    "stream": stream,
                    "index": index,
                    "t": time,
                    "y": values[start:stop],
                    "topic": predictions.topic,
                    "partition": predictions.partition,
                    "offset": offset,
                },
                option=orjson.OPT_SERIALIZE_NUMPY,
            )
            for key, stream, index, time, start, stop, offset in rows
        ]

    def decode(self, value: bytes) -> Prediction:
        """Raises `ValueError` where the value is no prediction record."""
        try:
            record = orjson.loads(value)
            fields = {name: record[name] for name in _FIELDS}
            exact = np.array(record["y"], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a JSON prediction record: {error}") from error
        strangers = [name for name, found in fields.items() if type(found) not in _FIELDS[name]]
        if strangers or exact.ndim != 2:
            raise ValueError(f"not a JSON prediction record: {', '.join(strangers) or 'y'} is of a wrong type")
        with np.errstate(over="ignore"):
            outputs = np.where(np.abs(exact) == _MIDPOINT[0], np.copysign(_MIDPOINT[1], exact), exact).astype(np.float32)
        return Prediction(y=outputs, **fields | {"t": float(fields["t"])})


def json_chunk(time: float, samples: Float32[np.ndarray, "n C"]) -> bytes:
    """A record as `JsonChunks` reads it."""
    (t,) = _numbers(np.array([time], np.float64))
    return orjson.dumps({"t": t, "x": np.ascontiguousarray(samples, np.float32)}, option=orjson.OPT_SERIALIZE_NUMPY)


def _numbers(times: Float64[np.ndarray, "R"]) -> list[int] | list[float]:
    """Whole milliseconds as integers, so that they are printed without a fraction."""
    whole = times == np.floor(times)
    if whole.all():
        integers: list[int] = times.astype(np.int64).tolist()
        return integers
    return [int(time) if time.is_integer() else time for time in times.tolist()]


def _kind(value: object) -> str:
    return _WORDS.get(type(value), "a number")


def _misfit(place: str, value: object, types: set[type], expected: str) -> Refusal | None:
    """Numbers and arrays in each other's place are a matter of nesting, anything else is of a wrong type."""
    if type(value) in types:
        return None
    reason = Reason.SHAPE if type(value) in {*_NUMBERS, list} else Reason.TYPE
    return Refusal(reason, f"{place} is {_kind(value)}, {expected} is expected")


def _numbers_of(samples: list[Any], channels: int) -> list[int | float] | None:
    """The numbers of `[n][C]`, or of `[n]` where C = 1, one after another; None where anything else is in there."""
    kinds = set(map(type, samples))
    if kinds == {list}:
        if set(map(len, samples)) != {channels}:
            return None
        samples = list(chain.from_iterable(samples))
        kinds = set(map(type, samples))
    elif channels != 1 and samples:
        return None
    return samples if kinds <= _NUMBERS else None


def _float32(numbers: list[int | float]) -> Float32[np.ndarray, "N"]:
    with np.errstate(over="ignore"):
        return np.fromiter(numbers, np.float32, len(numbers))


def _written_beyond_64_bits(numbers: list[int | float], value: bytes) -> bool:
    """Whether an integer beyond 64 bits was written. orjson reads it as a float, so it is blanked, and missed then.

    Python's own reader would know, but how deep it reads depends on how deep the stack is: not the same in a replay.
    """
    if max(numbers) < _INT64 and min(numbers) > -_INT64:
        return False
    record = orjson.loads(_LONG_INTEGER.sub(_blanked, value))
    samples = (sample if type(sample) is list else [sample] for sample in record["x"])
    return None in (record["t"], record.get("rate", 0), *chain.from_iterable(samples))


def _blanked(integer: re.Match[bytes]) -> bytes:
    found = integer[0]
    return found if len(found) <= 20 and -(2**63) <= int(found) < 2**63 else b"null"
