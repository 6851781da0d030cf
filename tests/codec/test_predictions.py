"""Prediction records: the same bits back, in the layout that the schemas promise."""

from __future__ import annotations

from io import BytesIO

import fastavro
import jsonschema
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec import Predictions, load_schema
from service.codec.avro_records import AvroPredictions
from service.codec.json_records import JsonPredictions

ENCODERS = [JsonPredictions(), AvroPredictions(), AvroPredictions(schema_id=7)]
MIDPOINT = np.array([0x15AE43FD, 0x95AE43FD], np.uint32).view(np.float32)

_bits = st.integers(0, 2**32 - 1).map(lambda bits: np.array([bits], np.uint32).view(np.float32)[0])
_finite = _bits.filter(np.isfinite)


def predictions(values: np.ndarray, lengths: list[int], **columns) -> Predictions:
    rows = len(lengths)
    given = {
        "topic": "pumps.vibration",
        "partition": 3,
        "keys": [f"pump-{row}" for row in range(rows)],
        "streams": np.arange(rows),
        "indices": np.arange(rows) * 10,
        "times": 1.7e12 + np.arange(rows),
        "offsets": np.arange(rows) + 100,
    }
    return Predictions(lengths=np.array(lengths, np.int64), values=values, **(given | columns))


_longs = st.integers(0, 2**62)


@st.composite
def _many(draw):
    lengths = draw(st.lists(st.integers(1, 3), max_size=4))
    channels = draw(st.integers(1, 3))
    outputs = sum(lengths) * channels
    values = np.array(draw(st.lists(_finite, min_size=outputs, max_size=outputs)), np.float32).reshape(-1, channels)
    rows = len(lengths)
    return predictions(
        values,
        lengths,
        topic=draw(st.text("ab.é", max_size=3)),
        partition=draw(st.integers(0, 2**31 - 1)),
        keys=draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=rows, max_size=rows)),
        streams=np.array(draw(st.lists(_longs, min_size=rows, max_size=rows)), np.int64),
        indices=np.array(draw(st.lists(_longs, min_size=rows, max_size=rows)), np.int64),
        times=np.array(draw(st.lists(st.floats(-1e15, 1e15), min_size=rows, max_size=rows)), np.float64),
        offsets=np.array(draw(st.lists(_longs, min_size=rows, max_size=rows)), np.int64),
    )


@pytest.mark.parametrize("encoder", ENCODERS, ids=["json", "avro", "confluent"])
@given(given_predictions=_many())
def test_every_prediction_reads_back_with_the_same_bits(encoder, given_predictions):
    encoded = encoder.encode(given_predictions)
    stops = np.cumsum(given_predictions.lengths)
    assert len(encoded) == len(given_predictions.keys)
    for row, value in enumerate(encoded):
        prediction = encoder.decode(value)
        expected = given_predictions.values[stops[row] - given_predictions.lengths[row] : stops[row]]
        assert prediction.y.shape == expected.shape
        assert prediction.y.tobytes() == expected.tobytes()
        assert prediction.t == given_predictions.times[row]
        assert (prediction.key, prediction.topic, prediction.partition) == (
            given_predictions.keys[row],
            given_predictions.topic,
            given_predictions.partition,
        )
        assert (prediction.stream, prediction.index, prediction.offset) == (
            given_predictions.streams[row],
            given_predictions.indices[row],
            given_predictions.offsets[row],
        )


@given(st.lists(_finite, min_size=1, max_size=200))
def test_every_finite_float32_reads_back_from_json(values):
    encoder = ENCODERS[0]
    column = np.array(values, np.float32)[:, None]
    (value,) = encoder.encode(predictions(column, [len(values)]))
    assert encoder.decode(value).y.tobytes() == column.tobytes()


def test_the_one_float32_that_float64_misleads_reads_back_from_json():
    (value,) = ENCODERS[0].encode(predictions(MIDPOINT[:, None], [2]))
    misled = np.array(orjson.loads(value)["y"], np.float64).astype(np.float32)
    assert not np.array_equal(misled, MIDPOINT[:, None])
    assert ENCODERS[0].decode(value).y.tobytes() == MIDPOINT.tobytes()


def test_what_is_not_finite_is_null_in_json_and_kept_in_avro():
    values = np.array([[np.nan, np.inf, -np.inf, 1]], np.float32)
    (text,) = ENCODERS[0].encode(predictions(values, [1]))
    assert orjson.loads(text)["y"] == [[None, None, None, 1.0]]
    assert np.isnan(ENCODERS[0].decode(text).y).tolist() == [[True, True, True, False]]
    (data,) = ENCODERS[1].encode(predictions(values, [1]))
    assert ENCODERS[1].decode(data).y.tobytes() == values.tobytes()


def test_json_is_as_documented():
    values = np.array([[0.1, 2], [3, 4]], np.float32)
    first, second = ENCODERS[0].encode(predictions(values, [1, 1], times=np.array([1.7e12, 1.7e12 + 0.25])))
    assert first == (
        b'{"key":"pump-0","stream":0,"index":0,"t":1700000000000,"y":[[0.1,2.0]],'
        b'"topic":"pumps.vibration","partition":3,"offset":100}'
    )
    assert b'"t":1700000000000.25,' in second


@given(_many())
def test_json_keeps_to_its_schema(some):
    validator = jsonschema.Draft202012Validator(load_schema("prediction.schema.json"))
    for value in ENCODERS[0].encode(some):
        validator.validate(orjson.loads(value))


@given(_many())
def test_avro_is_what_fastavro_reads_and_writes_with_the_schema(some):
    schema = fastavro.parse_schema(load_schema("prediction.avsc"))
    for bare, framed in zip(ENCODERS[1].encode(some), ENCODERS[2].encode(some), strict=True):
        stream = BytesIO(bare)
        record = fastavro.schemaless_reader(stream, schema, None)
        assert not stream.read()
        again = BytesIO()
        fastavro.schemaless_writer(again, schema, record)
        assert again.getvalue() == bare
        assert framed == b"\x00\x00\x00\x00\x07" + bare


def test_both_formats_have_the_same_fields():
    avro = [field["name"] for field in load_schema("prediction.avsc")["fields"]]
    assert avro == load_schema("prediction.schema.json")["required"]
    assert avro == list(orjson.loads(ENCODERS[0].encode(predictions(np.ones((1, 1), np.float32), [1]))[0]))


@pytest.mark.parametrize("encoder", ENCODERS, ids=["json", "avro", "confluent"])
@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"\x00\x00\x00\x00\x07\xff", b'{"y": 1}', b'{"y": [[1], [2, 3]]}'])
def test_what_is_no_prediction_is_a_value_error(encoder, value):
    with pytest.raises(ValueError, match="prediction"):
        encoder.decode(value)


@pytest.mark.parametrize(
    ("name", "wrong"), [("stream", "1"), ("offset", 1.5), ("t", None), ("key", 1), ("partition", True), ("y", [1.0]), ("y", [])]
)
def test_a_field_of_a_wrong_type_is_no_prediction(name, wrong):
    (value,) = ENCODERS[0].encode(predictions(np.ones((1, 1), np.float32), [1]))
    with pytest.raises(ValueError, match=f"{name} is of a wrong type"):
        ENCODERS[0].decode(orjson.dumps(orjson.loads(value) | {name: wrong}))


def test_left_over_bytes_are_no_prediction():
    (value,) = ENCODERS[1].encode(predictions(np.ones((1, 1), np.float32), [1]))
    with pytest.raises(ValueError, match="left over"):
        ENCODERS[1].decode(value + b"\x00")
