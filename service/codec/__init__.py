"""Bytes to chunks, predictions to bytes: JSON, Avro and raw records, and what makes a record poison."""

from service.codec.chunks import Limits
from service.codec.factory import decoder, encode_chunk, encoder
from service.codec.interface import Chunks, Decoder, Encoder, Prediction, Predictions, Reason, Refusal
from service.codec.schemas import load_schema

__all__ = [
    "Chunks",
    "Decoder",
    "Encoder",
    "Limits",
    "Prediction",
    "Predictions",
    "Reason",
    "Refusal",
    "decoder",
    "encode_chunk",
    "encoder",
    "load_schema",
]
