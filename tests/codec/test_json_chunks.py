"""JSON sensor chunks: what is accepted, what is refused and why, and that no record's fate depends on its company."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec import Limits, Reason, load_schema
from service.codec.chunks import ChunkDecoder
from service.codec.json_records import JsonChunks, json_chunk

RATE = 100.0
GOOD = b'{"t": 1700000000000, "x": [[1, 2.5], [3, 4]]}'


def json_decoder(channels: int = 2, **limits: int) -> ChunkDecoder:
    return ChunkDecoder(JsonChunks(channels, RATE), channels, Limits(**limits))


def decoded(*values: bytes, channels: int = 2, **limits: int):
    return json_decoder(channels, **limits).decode([b"key"] * len(values), values, [0] * len(values))


def test_samples_times_and_rates_come_out_as_columns():
    chunks = decoded(GOOD, b'{"t": 0.5, "x": [[5, 6]], "rate": 25}')
    assert chunks.samples.dtype == np.float32
    assert chunks.samples.tolist() == [[1, 2.5], [3, 4], [5, 6]]
    assert chunks.lengths.tolist() == [2, 1]
    assert chunks.times.tolist() == [1700000000000.0, 0.5]
    assert chunks.rates.tolist() == [RATE, 25.0]
    assert not chunks.ends.any()
    assert not chunks.refused


@pytest.mark.parametrize("value", [b'{"t": 1, "x": [1, 2.5]}', b'{"t": 1, "x": [[1], [2.5]]}'])
def test_one_channel_comes_flat_or_nested(value):
    assert decoded(value, channels=1).samples.tolist() == [[1], [2.5]]


def test_flat_and_nested_records_of_one_channel_may_mix():
    chunks = decoded(b'{"t": 1, "x": [1]}', b'{"t": 1, "x": [[2], [3]]}', channels=1)
    assert chunks.samples.ravel().tolist() == [1, 2, 3]


def test_names_beyond_the_schema_are_ignored_and_of_two_the_last_counts():
    chunks = decoded(b'{"t": 1, "t": 2, "x": [[1, 2]], "site": {"floor": 18446744073709551616}}')
    assert chunks.times.tolist() == [2]
    assert not chunks.refused


@pytest.mark.parametrize(
    ("value", "reason", "words"),
    [
        (b"\x00\x00\x00\x00\x07\x02", Reason.DECODE, "not JSON"),
        (b"{", Reason.DECODE, "not JSON"),
        (b'{"t": 1, "x": [[NaN, 1]]}', Reason.DECODE, "not JSON"),
        (b'{"t": 1, "x": [[1e400, 1]]}', Reason.DECODE, "infinity"),
        (b'{"t": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", Reason.DECODE, "depth"),
        (b'{"t": 1, "x": [[1, 2]], "key": "\xff"}', Reason.DECODE, "UTF-8"),
        (b'{"x": [[1, 2]]}', Reason.DECODE, "t is missing"),
        (b'{"t": 1}', Reason.DECODE, "x is missing"),
        (b"[1, 2]", Reason.TYPE, "the record is an array"),
        (b"7", Reason.TYPE, "the record is a number"),
        (b'{"t": true, "x": [[1, 2]]}', Reason.TYPE, "t is a boolean"),
        (b'{"t": "1", "x": [[1, 2]]}', Reason.TYPE, "t is a string"),
        (b'{"t": 1, "x": [[1, 2]], "rate": null}', Reason.TYPE, "rate is null"),
        (b'{"t": 1, "x": [[1, 2]], "rate": "100"}', Reason.TYPE, "rate is a string"),
        (b'{"t": 1, "x": [[1, 2]], "rate": true}', Reason.TYPE, "rate is a boolean"),
        (b'{"t": 1, "x": {"0": [1, 2]}}', Reason.TYPE, "x is an object"),
        (b'{"t": 1, "x": [[1, 2], [1, true]]}', Reason.TYPE, "x[1][1] is a boolean"),
        (b'{"t": 1, "x": [[1, "2"]]}', Reason.TYPE, "x[0][1] is a string"),
        (b'{"t": 1, "x": [[1, 2], null]}', Reason.TYPE, "x[1] is null"),
        (b'{"t": 1, "x": [[1, 9223372036854775808]]}', Reason.TYPE, "beyond 64 bits"),
        (b'{"t": 1, "x": [[1, -18446744073709551617]]}', Reason.TYPE, "beyond 64 bits"),
        (b'{"t": 18446744073709551617, "x": [[1, 2]]}', Reason.TYPE, "beyond 64 bits"),
        (b'{"t": 1, "x": [1, 2]}', Reason.SHAPE, "x[0] is a number, an array of 2"),
        (b'{"t": 1, "x": [[1, 2], [3]]}', Reason.SHAPE, "x[1] holds 1 values, 2"),
        (b'{"t": 1, "x": [[1, 2, 3]]}', Reason.SHAPE, "x[0] holds 3 values"),
        (b'{"t": 1, "x": [[[1, 2], [3, 4]]]}', Reason.SHAPE, "x[0][0] is an array"),
        (b'{"t": 1, "x": []}', Reason.EMPTY, "no samples"),
        (b'{"t": 1, "x": [[1, 1e39]]}', Reason.NON_FINITE, "sample 0, channel 1"),
        (b'{"t": 9007199254740992, "x": [[1, 2]]}', Reason.TIME, "2^53"),
        (b'{"t": -1e300, "x": [[1, 2]]}', Reason.TIME, "2^53"),
        (b'{"t": 1, "x": [[1, 2]], "rate": 0}', Reason.RATE, "rate"),
        (b'{"t": 1, "x": [[1, 2]], "rate": -5}', Reason.RATE, "rate"),
        (b'{"t": 1, "x": [[1, 2]], "rate": 1e10}', Reason.RATE, "rate"),
    ],
)
def test_a_bad_record_is_refused_with_its_reason_and_harms_no_other(value, reason, words):
    chunks = decoded(GOOD, value, GOOD)
    assert list(chunks.refused) == [1]
    assert chunks.refused[1].reason is reason
    assert words in chunks.refused[1].message
    assert chunks.lengths.tolist() == [2, 0, 2]
    assert chunks.samples.tolist() == [[1, 2.5], [3, 4]] * 2


@pytest.mark.parametrize(
    "number", [b"9223372036854775807", b"-9223372036854775808", b"1e30", b"9223372036854775808.0", b"18446744073709551616e0"]
)
def test_large_numbers_that_are_no_integers_beyond_64_bits_pass(number):
    chunks = decoded(b'{"t": 1, "x": [[' + number + b", 0]]}")
    assert not chunks.refused
    assert chunks.samples[0, 0] == np.float32(float(number))


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        (b'{"t": 1, "x": [[1e19, 0]], "note": "18446744073709551616"}', False),
        (b'{"t": 1, "x": [[1e19, 0]], "no\\"te": "\\\\\\",18446744073709551616,"}', False),
        (b'{"t": 1, "x": [[1e19, 0]], "note": 18446744073709551616}', False),
        (b'{"t": 1, "x": [[1e19, 0]], "\\u007818446744073709551616": 18446744073709551616}', False),
        (b'{"t": 1, "x": [[1e19, 0]], ":18446744073709551616": "\\n 18446744073709551616,\\u0031"}', False),
        (b'{"t": 1, "x": [[1e19, 0]], "note": ", ' + b"1" * 5000 + b'"}', False),
        (b'{"t": 1, "x": [[1e19, 0.18446744073709551616]]}', False),
        (b'{"t": 1, "x": [[1e19, 0e18446744073709551616]]}', False),
        (b'{"t": 1, "x": [[18446744073709551616, 0]], "x": [[1e19, 0]]}', False),
        (b'{"t": 1, "x": [[1e19, 0]], "note": "\\\\", "\\u0078": [[18446744073709551616, 0]]}', True),
        (b'{"t": 1, "x": [[0,-18446744073709551616]], "note": "\\""}', True),
        (b'{"t": 1, "x": [[1, 0]], "rate": 18446744073709551616}', True),
    ],
)
def test_only_an_integer_that_counts_is_found_beyond_64_bits(value, refused):
    assert [refusal.reason for refusal in decoded(value).refused.values()] == [Reason.TYPE] * refused


@pytest.mark.parametrize(("number", "reasons"), [(b"1e19", []), (b"18446744073709551616", [Reason.TYPE])])
@pytest.mark.parametrize("nesting", [10, 500, 960, 1000, 1023])
def test_the_fate_of_a_record_never_depends_on_how_deep_the_stack_is(number, reasons, nesting):
    """A replay decodes in another place than the live loop does."""
    value = b'{"t": 1, "x": [[%s, 0]], "note": %s}' % (number, b"[" * nesting + b"]" * nesting)

    def found(frames: int) -> list[Reason]:
        return found(frames - 1) if frames else [refusal.reason for refusal in decoded(value).refused.values()]

    assert [found(frames) for frames in (0, 50, 500)] == [reasons] * 3


def test_one_channel_does_not_mix_flat_and_nested_in_a_record():
    assert decoded(b'{"t": 1, "x": [1, [2]]}', channels=1).refused[0].reason is Reason.SHAPE
    assert decoded(b'{"t": 1, "x": [[2], 1]}', channels=1).refused[0].reason is Reason.SHAPE


def test_refusals_never_show_payload():
    secret = "swordfish"
    values = [f'{{"t": 1, "x": [["{secret}", 1]]}}', f'{{"t": "{secret}", "x": []}}', f'{{"{secret}": 1}}', secret, f'"{secret}"']
    chunks = decoded(*(value.encode() for value in values))
    assert len(chunks.refused) == len(values)
    assert not any(secret in refusal.message for refusal in chunks.refused.values())


def test_limits_are_kept():
    assert decoded(GOOD, samples=1).refused[0].reason is Reason.TOO_LARGE
    assert decoded(GOOD, record_bytes=len(GOOD) - 1).refused[0].reason is Reason.TOO_LARGE
    assert not decoded(GOOD, samples=2, record_bytes=len(GOOD)).refused


def test_a_sample_record_reads_back():
    samples = np.array([[0.1, -2], [3e-8, 4]], np.float32)
    chunks = decoded(json_chunk(12.0, samples), json_chunk(12.5, samples))
    assert chunks.times.tolist() == [12.0, 12.5]
    assert chunks.samples.tobytes() == samples.tobytes() * 2


# The fast way, the careful way, and the slowest way agree.

_numbers = st.one_of(
    st.integers(-10, 10),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**53, 2**63, -(2**63), 2**63 - 1, 2**64, -(2**65), 10**30, 1e39, 3.5e38, 0.0, -0.0]),
)
_anything = st.recursive(
    st.none() | st.booleans() | _numbers | st.text("a1\x00é", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["t", "x", "rate", "y"]), inner, max_size=3),
    max_leaves=4,
)
_chunk = st.one_of(
    st.lists(st.lists(_numbers, min_size=2, max_size=2), max_size=4),
    st.lists(st.lists(_numbers, min_size=1, max_size=1), max_size=4),
    st.lists(_numbers, max_size=4),
    st.lists(st.lists(_anything, min_size=1, max_size=3), max_size=3),
    _anything,
)
_record = st.fixed_dictionaries(
    {"t": _numbers | _anything, "x": _chunk}, optional={"rate": _numbers | _anything, "note": _anything}
)
_good_record = st.builds(
    lambda t, x, rate: {"t": t, "x": x} | ({} if rate is None else {"rate": rate}),
    st.integers(-(2**52), 2**52) | st.floats(-1e15, 1e15),
    st.lists(st.lists(st.integers(-5, 5) | st.floats(-1e18, 1e18), min_size=2, max_size=2), min_size=1, max_size=4),
    st.none() | st.floats(1e-3, 1e6),
)
_garbage = st.tuples(st.binary(max_size=3), _record.map(lambda r: json.dumps(r).encode()), st.integers(0, 60)).map(
    lambda parts: parts[1][: parts[2]] + parts[0] + parts[1][parts[2] :]
)
_value = st.one_of(_record.map(lambda r: json.dumps(r).encode()), _good_record.map(lambda r: json.dumps(r).encode()), _garbage)


def reference(value: bytes, channels: int) -> tuple[float, float, list[list[float]]] | Reason:
    """The rules, written down as slowly and plainly as can be."""

    def number(found: Any) -> bool:
        return type(found) in (int, float)

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    def finite(text: str) -> float:
        return float(text) if abs(float(text)) < float("inf") else refuse(text)

    try:
        record = json.loads(value.decode(), parse_constant=refuse, parse_float=finite)
    except ValueError:
        return Reason.DECODE
    if type(record) is not dict:
        return Reason.TYPE
    if "t" not in record or "x" not in record:
        return Reason.DECODE
    time, rate, x = record["t"], record.get("rate", RATE), record["x"]
    if not number(time) or not number(rate) or type(x) is not list:
        return Reason.TYPE
    flat = channels == 1 and x and type(x[0]) is not list
    for sample in x:
        if not flat:
            if type(sample) is not list:
                return Reason.SHAPE if number(sample) else Reason.TYPE
            if len(sample) != channels:
                return Reason.SHAPE
        for entry in [sample] if flat else sample:
            if not number(entry):
                return Reason.SHAPE if type(entry) is list else Reason.TYPE
    rows = [[sample] for sample in x] if flat else x
    if any(type(n) is int and not -(2**63) <= n < 2**63 for n in [time, rate, *(n for row in rows for n in row)]):
        return Reason.TYPE
    if not rows:
        return Reason.EMPTY
    if not abs(time) < 2**53:
        return Reason.TIME
    if not 1e-6 <= rate <= 1e9:
        return Reason.RATE
    with np.errstate(over="ignore"):
        samples = [[float(np.float32(float(n))) for n in row] for row in rows]
    if any(abs(n) == float("inf") for row in samples for n in row):
        return Reason.NON_FINITE
    return float(time), float(rate), samples


@given(st.lists(_value, max_size=4), st.sampled_from([1, 2]))
def test_every_record_is_read_as_the_reference_reads_it_whatever_its_company(values, channels):
    chunks = decoded(*values, channels=channels)
    stops = np.cumsum(chunks.lengths)
    assert len(chunks.samples) == chunks.lengths.sum()
    for row, value in enumerate(values):
        expected = Reason.EMPTY if not value else reference(value, channels)
        if isinstance(expected, Reason):
            assert chunks.refused[row].reason is expected
            assert chunks.lengths[row] == 0
        else:
            samples = chunks.samples[stops[row] - chunks.lengths[row] : stops[row]]
            assert (chunks.times[row], chunks.rates[row], samples.tolist()) == expected
            assert row not in chunks.refused


@given(st.lists(_good_record.map(lambda r: json.dumps(r).encode()), min_size=1, max_size=5))
def test_the_fast_way_is_taken_for_flawless_batches_and_gives_the_careful_way_s_bits(values):
    layout = JsonChunks(2, RATE)
    columns = layout.columns(values, [0] * len(values))
    rows = [layout.row(value, 0) for value in values]
    assert columns is not None
    assert columns.samples.tobytes() == b"".join(row.samples.tobytes() for row in rows)
    assert columns.lengths.tolist() == [len(row.samples) for row in rows]
    assert list(zip(columns.times, columns.rates, strict=True)) == [(row.time, row.rate) for row in rows]


@given(_value)
def test_the_decoder_and_the_json_schema_agree(value):
    chunks = decoded(value)
    try:
        record = json.loads(value.decode(), parse_constant=lambda name: name)
    except ValueError:
        return
    valid = jsonschema.Draft202012Validator(load_schema("sensor_chunk.schema.json")).is_valid(record)
    if not chunks.refused:
        assert valid
    elif valid:
        beyond_a_schema = {Reason.SHAPE, Reason.NON_FINITE, Reason.TYPE, Reason.DECODE}
        assert chunks.refused[0].reason in beyond_a_schema
