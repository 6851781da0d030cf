"""Where the schemas of records are found: `schemas/` beside the package in a checkout, inside the package in a wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import orjson

_PACKAGE = Path(__file__).resolve().parent.parent
_PLACES = (_PACKAGE / "schemas", _PACKAGE.parent / "schemas")

SENSOR_CHUNK = "sensor_chunk"
PREDICTION = "prediction"


@cache
def schema_path(name: str) -> Path:
    """The file of a schema, `sensor_chunk.avsc` for example. Raises `FileNotFoundError` where the installation lacks it."""
    for place in _PLACES:
        if (path := place / name).is_file():
            return path
    raise FileNotFoundError(f"schema {name} is in none of {', '.join(map(str, _PLACES))}: the installation is incomplete")


def load_schema(name: str) -> dict[str, Any]:
    """A fresh copy of a packaged schema: `<record>.avsc` (Avro) or `<record>.schema.json` (JSON Schema)."""
    schema: dict[str, Any] = orjson.loads(schema_path(name).read_bytes())
    return schema
