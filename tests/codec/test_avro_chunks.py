"""Avro sensor chunks: read as fastavro reads them where they are right, refused where fastavro would look away."""

from __future__ import annotations

import copy
from io import BytesIO

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec import Limits, Reason, load_schema
from service.codec.avro_records import AvroChunks, avro_chunk
from service.codec.avro_schema import KnownSchema, admit, packaged_schema
from service.codec.chunks import ChunkDecoder
from service.errors import ConfigurationError

RATE = 100.0
PARSED = fastavro.parse_schema(load_schema("sensor_chunk.avsc"))


def written(t: float, samples: bytes, rate: float | None = None) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, PARSED, {"t": t, "samples": samples, "rate": rate})
    return out.getvalue()


def decoded(*values: bytes, channels: int = 2, schema=None):
    decoder = ChunkDecoder(AvroChunks(channels, RATE, schema or packaged_schema()), channels, Limits())
    return decoder.decode([b"key"] * len(values), values, [0] * len(values))


def with_field(name: str, kind: object) -> dict:
    """The packaged schema with one field's type changed, or with one more field."""
    schema = copy.deepcopy(load_schema("sensor_chunk.avsc"))
    fields = {field["name"]: field["type"] for field in schema["fields"]} | {name: kind}
    return schema | {"fields": [{"name": field, "type": kind} for field, kind in fields.items()]}


SAMPLES = np.array([[1, 2], [3, 4]], "<f4").tobytes()
GOOD = written(1.5, SAMPLES)
NAN = np.array([1, np.nan], "<f4").tobytes()
LENGTH = 8  # where the samples' length stands, after the time


@given(
    st.lists(
        st.tuples(
            st.floats(-1e15, 1e15),
            st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=300).filter(
                lambda samples: len(samples) % 2 == 0
            ),
            st.none() | st.floats(1e-3, 1e6),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_flawless_batch_is_read_at_once_and_just_as_record_by_record(records):
    values = [written(t, np.array(samples, "<f4").tobytes(), rate) for t, samples, rate in records]
    layout = AvroChunks(2, RATE, packaged_schema())
    columns = layout.columns(values, [0] * len(values))
    rows = [layout.row(value, 0) for value in values]
    assert columns is not None
    assert columns.samples.tobytes() == b"".join(row.samples.tobytes() for row in rows)
    assert columns.samples.ravel().tolist() == [sample for _, samples, _ in records for sample in samples]
    assert columns.lengths.tolist() == [len(samples) // 2 for _, samples, _ in records]
    assert columns.times.tolist() == [row.time for row in rows] == [t for t, _, _ in records]
    assert columns.rates.tolist() == [row.rate for row in rows] == [rate or RATE for _, _, rate in records]


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.binary(max_size=4), st.integers(0, 40)).map(
            lambda cut: GOOD[: cut[0]] + cut[1] + GOOD[cut[2] :]
        ),
        max_size=4,
    )
)
def test_the_fate_of_a_record_never_depends_on_its_company(values):
    together = decoded(*values, GOOD)
    alone = [decoded(value) for value in values]
    assert {row: r.reason for row, r in together.refused.items()} == {
        row: refusal.reason for row, chunks in enumerate(alone) for refusal in chunks.refused.values()
    }
    assert together.samples.tobytes() == b"".join(chunks.samples.tobytes() for chunks in alone) + SAMPLES


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"t": 1, "x": [[1, 2]]}', Reason.DECODE),
        (b"\x00", Reason.DECODE),
        (GOOD[:-1], Reason.DECODE),
        (GOOD[:-4], Reason.DECODE),
        (GOOD + b"\x00", Reason.DECODE),
        (GOOD[:-1] + b"\x01", Reason.DECODE),  # union index −1, which fastavro takes for the last branch
        (GOOD[:-1] + b"\x03" + bytes(8), Reason.DECODE),  # union index −2
        (GOOD[:-1] + b"\x04", Reason.DECODE),
        (GOOD[:LENGTH] + b"\xa0\x00" + GOOD[LENGTH + 1 :], Reason.DECODE),  # the length, longer than need be
        (GOOD[:LENGTH] + b"\x80" * 9 + b"\x01" + GOOD[LENGTH + 1 :], Reason.DECODE),
        (GOOD[:LENGTH] + b"\x01" + GOOD[LENGTH + 1 :], Reason.DECODE),  # a length of −1
        (GOOD[:LENGTH] + b"\xfe\xff\xff\xff\x0f" + GOOD[LENGTH + 1 :], Reason.DECODE),  # of 2³¹ − 1
        (written(1.0, SAMPLES[:-1]), Reason.SHAPE),
        (written(1.0, SAMPLES[:-4]), Reason.SHAPE),
        (written(1.0, b""), Reason.EMPTY),
        (written(1.0, NAN), Reason.NON_FINITE),
        (written(float("nan"), SAMPLES), Reason.TIME),
        (written(2.0**53, SAMPLES), Reason.TIME),
        (written(1.0, SAMPLES, 0.0), Reason.RATE),
        (written(1.0, SAMPLES, float("nan")), Reason.RATE),
    ],
)
def test_a_bad_record_is_refused_and_harms_no_other(value, reason):
    chunks = decoded(GOOD, value, GOOD)
    assert {row: refusal.reason for row, refusal in chunks.refused.items()} == {1: reason}
    assert chunks.samples.tobytes() == SAMPLES * 2


# Confluent's framing


def framed(schema_id: int, value: bytes) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + value


def test_framed_records_name_a_known_schema():
    known = KnownSchema(packaged_schema(), [7, 8])
    chunks = decoded(framed(7, GOOD), framed(8, GOOD), framed(7, GOOD), schema=known)
    assert not chunks.refused
    assert chunks.samples.tobytes() == SAMPLES * 3


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (framed(9, GOOD), Reason.UNKNOWN_SCHEMA),
        (b"\x01" + framed(7, GOOD)[1:], Reason.DECODE),
        (b"\x00\x00\x00", Reason.DECODE),
        (b'{"t": 1, "x": [[1, 2]]}', Reason.DECODE),
        (framed(7, b""), Reason.DECODE),
    ],
)
def test_other_framings_are_refused(value, reason):
    for company in ([], [framed(7, GOOD)]):
        chunks = decoded(value, *company, schema=KnownSchema(packaged_schema(), [7]))
        assert {row: refusal.reason for row, refusal in chunks.refused.items()} == {0: reason}


# Other writers' schemas


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("samples", {"type": "array", "items": "float"}),
        ("samples", {"type": "array", "items": "double"}),
        ("t", {"type": "long", "logicalType": "timestamp-millis"}),
        ("rate", "double"),
        ("rate", ["float", "null"]),
    ],
)
def test_other_schemas_of_a_chunk_are_read_as_well(name, kind):
    schema = admit(with_field(name, kind))
    samples = np.array([[1.5, -2], [3, 4]], np.float32)
    chunks = decoded(*[avro_chunk(12.0, samples, 25.0, schema, None)] * 2, schema=schema)
    assert not chunks.refused
    assert chunks.samples.tobytes() == samples.tobytes() * 2
    assert chunks.times.tolist() == [12.0, 12.0]
    assert chunks.rates.tolist() == [25.0, 25.0]


def test_further_fields_of_a_schema_are_read_over():
    definition = with_field("site", ["null", "string"])
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(definition), {"t": 1.0, "samples": SAMPLES, "rate": None, "site": "é"})
    good = out.getvalue()
    broken = good.replace("é".encode(), b"\xff\xff")
    chunks = decoded(good, broken, schema=admit(definition))
    assert chunks.samples.tobytes() == SAMPLES
    assert {row: refusal.reason for row, refusal in chunks.refused.items()} == {1: Reason.DECODE}


@pytest.mark.parametrize(("samples", "reason"), [([1.0], Reason.SHAPE), ([], Reason.EMPTY), ([1.0, 1e39], Reason.NON_FINITE)])
def test_arrays_are_checked_like_bytes(samples, reason):
    definition = with_field("samples", {"type": "array", "items": "double"})
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(definition), {"t": 1.0, "samples": samples, "rate": None})
    assert decoded(out.getvalue(), schema=admit(definition)).refused[0].reason is reason
    assert decoded(out.getvalue() + b"\x00", schema=admit(definition)).refused[0].reason is Reason.DECODE


ARRAY = with_field("samples", {"type": "array", "items": "float"})
TIME = GOOD[:LENGTH]


@pytest.mark.parametrize(
    "array",
    [
        b"\x08" + SAMPLES + b"\x00",
        b"\x04" + SAMPLES[:8] + b"\x04" + SAMPLES[8:] + b"\x00",
        b"\x07\x20" + SAMPLES + b"\x00",  # four items, negative since their sixteen bytes are told
        b"\x02" + SAMPLES[:4] + b"\x05\x18" + SAMPLES[4:] + b"\x00",
    ],
)
@pytest.mark.parametrize(("rate", "hertz"), [(b"\x00", RATE), (b"\x02" + np.array(25.0).tobytes(), 25.0)])
def test_an_array_comes_in_any_blocks(array, rate, hertz):
    chunks = decoded(TIME + array + rate, schema=admit(ARRAY))
    assert not chunks.refused
    assert chunks.samples.tobytes() == SAMPLES
    assert chunks.rates.tolist() == [hertz]


@pytest.mark.parametrize(
    "body",
    [
        b"\x08" + SAMPLES + b"\x00\x01" + bytes(8),  # union index −1, which fastavro takes for the last branch
        b"\x08" + SAMPLES + b"\x00\x03",  # −2
        b"\x08" + SAMPLES + b"\x00\x04",
        b"\x08" + SAMPLES + b"\x00\x80\x00",  # an index longer than need be
        b"\x88\x00" + SAMPLES + b"\x00\x00",  # a count longer than need be
        b"\x88" + b"\x80" * 9 + b"\x02" + SAMPLES + b"\x00\x00",  # and beyond 64 bits
        b"\x08" + SAMPLES + b"\x80\x00\x00",  # an end longer than need be
        b"\x07\x1e" + SAMPLES + b"\x00\x00",  # four items in fifteen bytes
        b"\x07\xa0\x00" + SAMPLES + b"\x00\x00",
        b"\x08" + SAMPLES + b"\x00",
        b"\xff" * 100_000,
    ],
)
def test_what_is_no_array_record_is_refused(body):
    assert decoded(TIME + body, schema=admit(ARRAY)).refused[0].reason is Reason.DECODE


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("int", [b"\x00", b"\xff\xff\xff\xff\x0f"], [b"\x80\x00", b"\x80\x80\x80\x80\x10"]),
        ("long", [b"\x01", b"\xff" * 9 + b"\x01"], [b"\x81\x00", b"\xff" * 9 + b"\x02", b"\xff" * 10 + b"\x01"]),
        ("float", [b"\x01\x00\xa0\x7f"], [bytes(3), bytes(5)]),  # a NaN that no writer repeats
        ("boolean", [b"\x00", b"\x01"], [b"\x02", b""]),
        ("null", [b""], [b"\x00"]),
        ("string", [b"\x00", b"\x02a"], [b"\x01", b"\x82\x00a", b"\x04a"]),
        (["int", "long"], [b"\x00\x02", b"\x02\x02"], [b"\x01\x02", b"\x03\x02", b"\x04\x02", b"\x82\x00\x02"]),
    ],
)
def test_a_value_of_a_further_field_is_one_or_the_record_is_refused(kind, good, bad):
    for samples in (load_schema("sensor_chunk.avsc"), ARRAY):
        schema = admit(samples | {"fields": [*samples["fields"], {"name": "further", "type": kind}]})
        body = GOOD if samples is not ARRAY else TIME + b"\x08" + SAMPLES + b"\x00\x00"
        assert not decoded(*(body + value for value in good), schema=schema).refused
        chunks = decoded(*(body + value for value in bad), schema=schema)
        assert [refusal.reason for refusal in chunks.refused.values()] == [Reason.DECODE] * len(bad)


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ({"type": "string"}, "must be a record"),
        ([{"type": "record"}], "must be a record"),
        ({"type": "record", "name": "R", "fields": [{"name": "t", "type": "double"}]}, "no field samples"),
        (with_field("t", "string"), "field t"),
        (with_field("t", {"type": "long", "logicalType": "timestamp-micros"}), "field t"),
        (with_field("samples", {"type": "array", "items": "null"}), "field samples"),
        (with_field("rate", ["null", "string"]), "field rate"),
        (with_field("next", ["null", "penstock.SensorChunk"]), "field next"),
        (with_field("bomb", {"type": "array", "items": "null"}), "field bomb"),
        (with_field("kind", {"type": "enum", "name": "E", "symbols": ["A"]}), "field kind"),
        ({"type": "record", "name": "R", "fields": ["t", "samples"]}, "list of names and types"),
        ({"type": "record", "name": "R"}, "list of names and types"),
        (with_field("t", {"type": {"type": "double"}}), "field t"),
        ({"type": "record", "name": "R", "fields": [{"name": "t", "type": "double"}] * 2}, "the same name"),
    ],
)
def test_schemas_that_cannot_be_read_safely_are_refused_by_field(definition, words):
    with pytest.raises(ConfigurationError, match=words):
        admit(definition)


def test_sample_records_cannot_fill_what_they_do_not_know():
    with pytest.raises(ConfigurationError, match="cannot be written"):
        avro_chunk(0.0, np.ones((1, 2), np.float32), RATE, admit(with_field("site", "string")), None)
