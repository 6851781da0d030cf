"""Durations: written as `50ms`, `30s`, `5m` or `2h`, held as seconds."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PATTERN = r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)"


def parse_duration(text: object) -> float:
    """Seconds. Raises `ValueError` for anything but a positive number with its unit."""
    match = re.fullmatch(_PATTERN, text) if isinstance(text, str) else None
    if match is None or not float(match[1]):
        raise ValueError(f"found {text!r}, but a duration above zero with its unit is expected, such as 50ms, 30s, 5m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def format_duration(seconds: float) -> str:
    """The way to write `seconds` with the largest unit that leaves a whole number, milliseconds at the least."""
    unit = next((unit for unit in ("h", "m", "s") if seconds % _SECONDS[unit] == 0), "ms")
    return f"{seconds / _SECONDS[unit]:.6f}".rstrip("0").rstrip(".") + unit


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{_PATTERN}$", "examples": ["50ms", "30s", "5m"]}),
]
"""Seconds."""


def lasting(text: str) -> Any:
    """A field's default, as people would write it."""
    return Field(default=parse_duration(text), json_schema_extra={"default": text})
