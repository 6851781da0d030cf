"""The JSON Schema of configuration files, for editors: every scalar may also come from the environment."""

from __future__ import annotations

from typing import Any

from service.config.model import Config

_VARIABLE = {"type": "string", "pattern": r"\$\{"}


def json_schema() -> dict[str, Any]:
    schema: dict[str, Any] = _or_variable(Config.model_json_schema())
    return schema


def _or_variable(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    relaxed = dict(schema)
    for group in ("$defs", "properties"):
        if group in schema:
            relaxed[group] = {name: _or_variable(inner) for name, inner in schema[group].items()}
    for part in ("items", "additionalProperties"):
        if part in schema:
            relaxed[part] = _or_variable(schema[part])
    if "anyOf" in schema:
        relaxed["anyOf"] = [_or_variable(choice) for choice in schema["anyOf"]]
    if schema.get("type") in ("integer", "number", "boolean") or {"enum", "const", "pattern"} & schema.keys():
        return {"anyOf": [relaxed, _VARIABLE]}
    return relaxed
