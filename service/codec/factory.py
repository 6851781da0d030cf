"""Decoders and encoders by name of format."""

from __future__ import annotations

from enum import StrEnum

from service.codec.chunks import ChunkDecoder, Limits
from service.codec.interface import Decoder, Encoder
from service.codec.json_records import JsonChunks, JsonPredictions


class RecordFormat(StrEnum):
    JSON = "json"


def decoder(format: RecordFormat, channels: int, rate: float, limits: Limits = Limits()) -> Decoder:  # noqa: B008
    return ChunkDecoder(JsonChunks(channels, rate), channels, limits)


def encoder(format: RecordFormat) -> Encoder:
    return JsonPredictions()
