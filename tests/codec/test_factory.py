"""Codecs as configurations describe them, and the schemas that come with the package."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from service.codec import Predictions, Reason, decoder, encode_chunk, encoder, load_schema
from service.codec.schemas import schema_path
from service.config import Config, configuration
from service.errors import ConfigurationError

SAMPLES = np.array([[1, 2], [3, 4.5]], np.float32)


def config(directory: Path = Path(), output: dict | None = None, limits: dict | None = None, **source: object) -> Config:
    settings = {
        "app": "a",
        "kafka": {"bootstrap.servers": "x:1"},
        "inputs": [{"topic": "i", "channels": ["a", "b"], "rate": 10} | source],
        "model": {"factory": "m:F"},
        "output": {"topic": "o"} | (output or {}),
        "limits": limits or {},
    }
    return configuration(settings, directory)


CONFLUENT = {"framing": "confluent", "schema_ids": [300, 7]}


@pytest.mark.parametrize(
    "source", [{"format": "json"}, {"format": "raw"}, {"format": "avro"}, {"format": "avro", "avro": CONFLUENT}], ids=str
)
def test_a_sample_record_reads_back_as_configured(source):
    settings = config(**source)
    chunks = decoder(settings).decode([b"k"], [encode_chunk(settings, 12.5, SAMPLES)], [99])
    assert not chunks.refused
    assert chunks.samples.tobytes() == SAMPLES.tobytes()
    assert chunks.times.tolist() == [99.0 if source["format"] == "raw" else 12.5]
    assert chunks.rates.tolist() == [10.0]


def test_limits_come_from_the_configuration():
    settings = config(limits={"samples": 1, "key_bytes": 2, "record_bytes": 40})
    good = encode_chunk(settings, 1, SAMPLES[:1])
    chunks = decoder(settings).decode([b"k", b"kkk", b"k"], [encode_chunk(settings, 1, SAMPLES), good, good + b" " * 40], [0] * 3)
    assert [chunks.refused[row].reason for row in range(3)] == [Reason.TOO_LARGE] * 3


def test_another_writers_schema_is_read_from_its_file(tmp_path):
    schema = copy.deepcopy(load_schema("sensor_chunk.avsc"))
    schema["fields"][1]["type"] = {"type": "array", "items": "float"}
    (tmp_path / "writers.avsc").write_text(json.dumps(schema))
    settings = config(tmp_path, format="avro", avro={"schema": "writers.avsc"})
    value = encode_chunk(settings, 12.5, SAMPLES)
    assert decoder(settings).decode([b"k"], [value], [0]).samples.tobytes() == SAMPLES.tobytes()
    assert decoder(config(format="avro")).decode([b"k"], [value], [0]).refused
    assert decoder(settings).fingerprint != decoder(config(format="avro")).fingerprint


@pytest.mark.parametrize("text", ["{", '{"type": "record", "name": "R", "fields": []}'])
def test_a_file_that_holds_no_schema_of_a_chunk_is_a_configuration_error(tmp_path, text):
    (tmp_path / "writers.avsc").write_text(text)
    with pytest.raises(ConfigurationError, match="Avro schema"):
        decoder(config(tmp_path, format="avro", avro={"schema": "writers.avsc"}))


@pytest.mark.parametrize(
    ("output", "start"),
    [
        ({}, b'{"key":'),
        ({"format": "avro"}, b"\x02k"),
        ({"format": "avro", "avro": {"framing": "confluent", "schema_id": 258}}, b"\x00\x00\x00\x01\x02\x02k"),
    ],
)
def test_predictions_are_written_as_configured(output, start):
    one = np.ones(1, np.int64)
    predictions = Predictions("i", 0, ["k"], one, one, np.ones(1), one, one, np.ones((1, 1), np.float32))
    made = encoder(config(output=output))
    (value,) = made.encode(predictions)
    assert value.startswith(start)
    assert made.decode(value).y.tolist() == [[1.0]]


@pytest.mark.parametrize("name", ["sensor_chunk.avsc", "prediction.avsc", "sensor_chunk.schema.json", "prediction.schema.json"])
def test_the_schemas_are_found(name):
    assert load_schema(name)
    assert schema_path(name).parent.name == "schemas"


@pytest.mark.parametrize("name", ["sensor_chunk.schema.json", "prediction.schema.json"])
def test_the_json_schemas_are_json_schemas(name):
    jsonschema.Draft202012Validator.check_schema(load_schema(name))


def test_a_schema_that_is_not_there_is_told():
    with pytest.raises(FileNotFoundError, match="installation is incomplete"):
        load_schema("nothing.avsc")
