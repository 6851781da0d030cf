"""Decoders and encoders as a configuration describes them."""

from __future__ import annotations

import numpy as np
import orjson
from jaxtyping import Float32

from service.codec.avro_records import AvroChunks, AvroPredictions, avro_chunk
from service.codec.avro_schema import ChunkSchema, KnownSchema, admit, packaged_schema
from service.codec.chunks import ChunkDecoder, Format, Limits
from service.codec.interface import Decoder, Encoder
from service.codec.json_records import JsonChunks, JsonPredictions, json_chunk
from service.codec.raw_records import FLOAT32, RawChunks
from service.config import AvroInput, Config, InputFormat, OutputFormat
from service.errors import ConfigurationError


def decoder(config: Config) -> Decoder:
    """Reads the input topic's records. Raises `ConfigurationError` where a given Avro schema is none of a sensor chunk."""
    source, channels = config.input, config.channels
    layout: Format
    match source.format:
        case InputFormat.JSON:
            layout = JsonChunks(channels, source.rate)
        case InputFormat.RAW:
            layout = RawChunks(channels, source.rate)
        case InputFormat.AVRO:
            schema, ids = _schema(source.avro), source.avro.schema_ids
            layout = AvroChunks(channels, source.rate, KnownSchema(schema, ids) if ids else schema)
    limits = config.limits
    return ChunkDecoder(layout, channels, Limits(limits.record_bytes, limits.samples, limits.key_bytes, limits.time_apart * 1000))


def encoder(config: Config) -> Encoder:
    """Writes, and reads back, the records of the output topic."""
    match config.output.format:
        case OutputFormat.JSON:
            return JsonPredictions()
        case OutputFormat.AVRO:
            return AvroPredictions(config.output.avro.schema_id)


def encode_chunk(config: Config, time: float, samples: Float32[np.ndarray, "n C"]) -> bytes:
    """A sample record for the input topic: `time` in epoch milliseconds is the first sample's (raw records do not hold it)."""
    source = config.input
    match source.format:
        case InputFormat.JSON:
            return json_chunk(time, samples)
        case InputFormat.RAW:
            return samples.astype(FLOAT32).tobytes()
        case InputFormat.AVRO:
            return avro_chunk(time, samples, source.rate, _schema(source.avro), min(source.avro.schema_ids, default=None))


def _schema(settings: AvroInput) -> ChunkSchema:
    path = settings.schema_file
    if path is None:
        return packaged_schema()
    try:
        return admit(orjson.loads(path.read_bytes()))
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"{path} is no Avro schema: {error}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
