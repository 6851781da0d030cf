"""Avro schemas that sensor chunks may be written with, and where they come from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from service.codec.schemas import SENSOR_CHUNK, load_schema
from service.errors import ConfigurationError

_PRIMITIVES = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
_NUMBERS = {"int", "long", "float", "double"}
_CHUNK_FIELDS = {"t", "samples", "rate"}
_ARRAYS = ({"type": "array", "items": "float"}, {"type": "array", "items": "double"})


@dataclass(frozen=True)
class ChunkSchema:
    """A writers' schema that was admitted: fields `t` and `samples`, perhaps `rate`, and others of primitive types."""

    parsed: Any
    fingerprint: str
    has_array: bool


class SchemaSource(Protocol):
    """Who knows the schema that a schema id in front of a datum stands for."""

    @property
    def fingerprint(self) -> str: ...

    def schema(self, schema_id: int) -> ChunkSchema | None:
        """None where there is no such schema."""


class KnownSchema:
    """One schema under the ids that the configuration gives it."""

    def __init__(self, schema: ChunkSchema, ids: Collection[int]) -> None:
        self._schema = schema
        self._ids = frozenset(ids)

    @property
    def fingerprint(self) -> str:
        return f"{self._schema.fingerprint}@{','.join(map(str, sorted(self._ids)))}"

    def schema(self, schema_id: int) -> ChunkSchema | None:
        return self._schema if schema_id in self._ids else None


def admit(definition: Any) -> ChunkSchema:
    """Checks a writers' schema. Raises `ConfigurationError` that names what cannot be read as a sensor chunk.

    Only primitive types, unions of them and the array of samples pass: nothing recursive, which could exhaust the stack, and no
    array of nulls, which could declare millions of items in a few bytes.
    """
    if not isinstance(definition, dict) or definition.get("type") != "record":
        raise ConfigurationError("the Avro schema of a sensor chunk must be a record")
    name, listed = definition.get("name"), definition.get("fields")
    if not isinstance(listed, list) or not all(isinstance(field, dict) and {"name", "type"} <= field.keys() for field in listed):
        raise ConfigurationError(f"Avro schema {name}: fields must be a list of names and types")
    if len({str(field["name"]) for field in listed}) < len(listed):
        raise ConfigurationError(f"Avro schema {name}: two fields have the same name")
    fields = {field["name"]: _plain(field["name"], field["type"]) for field in listed}
    for required in ("t", "samples"):
        if required not in fields:
            raise ConfigurationError(f"Avro schema {name}: there is no field {required}")
    for field, kind in fields.items():
        if not _fits(field, kind):
            raise ConfigurationError(f"Avro schema {name}: field {field} of a sensor chunk cannot be of type {kind}")
    # One name for all, since it is no part of the encoding: a schema with the packaged one's fields is read as fast as that.
    plain = {"type": "record", "name": "SensorChunk", "fields": [{"name": f, "type": kind} for f, kind in fields.items()]}
    identity = fingerprint(to_parsing_canonical_form(plain), "sha256")[:16]
    return ChunkSchema(fastavro.parse_schema(plain), identity, isinstance(fields["samples"], dict))


@cache
def packaged_schema() -> ChunkSchema:
    """`schemas/sensor_chunk.avsc`."""
    return admit(load_schema(f"{SENSOR_CHUNK}.avsc"))


def _plain(field: str, kind: Any) -> Any:
    """Without logical types, which fastavro would turn into dates; kept where dropping one would change the meaning."""
    if not isinstance(kind, dict) or not isinstance(kind.get("type"), str) or kind["type"] not in _PRIMITIVES:
        return kind
    means_something = field in _CHUNK_FIELDS and kind.get("logicalType") not in (None, "timestamp-millis")
    return kind if means_something else kind["type"]


def _fits(field: str, kind: Any) -> bool:
    match field:
        case "t":
            return isinstance(kind, str) and kind in _NUMBERS
        case "samples":
            return kind == "bytes" or kind in _ARRAYS
        case "rate" if isinstance(kind, list):
            return len(kind) == 2 and "null" in kind and any(branch in _NUMBERS for branch in kind if isinstance(branch, str))
        case "rate":
            return isinstance(kind, str) and kind in _NUMBERS
        case _:
            branches = kind if isinstance(kind, list) else [kind]
            return all(isinstance(branch, str) and branch in _PRIMITIVES for branch in branches)
