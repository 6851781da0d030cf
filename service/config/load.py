"""From a file to `Config`, or to one line per problem."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from service.config.model import PATTERNS, Config
from service.config.redaction import is_secret
from service.config.yaml_source import Place, parse
from service.errors import ConfigurationError


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration in a YAML file. Files that it names are relative to it.

    Raises `ConfigurationError` with one line per problem: the file, the line, the setting's path, what was found and what is
    allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{path} cannot be read: {reason}") from error
    source = parse(text, environment)
    if source.problems:
        raise _error(str(path), source.problems, source.lines)
    return _validated(source.data, path.parent, str(path), source.lines)


def configuration(settings: Mapping[str, Any], directory: Path = Path()) -> Config:
    """The configuration made of plain settings, as a program rather than a file gives them.

    Raises `ConfigurationError` with one line per problem.
    """
    return _validated(settings, directory, "configuration", {})


def _validated(settings: object, directory: Path, origin: str, lines: Mapping[Place, int]) -> Config:
    try:
        return Config.model_validate(settings, context={"directory": directory})
    except ValidationError as error:
        # A default that could not be made only repeats that another setting is wrong.
        details = [details for details in error.errors(include_url=False) if details["type"] != "default_factory_not_called"]
    raise _error(origin, [_problem(detail) for detail in details], lines)


def _error(origin: str, problems: list[tuple[Place, str]], lines: Mapping[Place, int]) -> ConfigurationError:
    located = sorted(((_nearest(place, lines), place, message) for place, message in problems), key=lambda problem: problem[0])
    return ConfigurationError("\n".join(_line(origin, *problem) for problem in located))


def _nearest(place: Place, lines: Mapping[Place, int]) -> int:
    return next((lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in lines), 0)


def _line(origin: str, line: int, place: Place, message: str) -> str:
    where = f"{origin}:{line}" if line else origin
    return f"{where}: {'.'.join(map(str, place))}: {message}" if place else f"{where}: {message}"


def _problem(details: ErrorDetails) -> tuple[Place, str]:
    place: Place = tuple(part for part in details["loc"] if part != "[key]")
    kind = details["type"]
    if kind == "missing":
        return place, "is missing"
    if kind == "extra_forbidden":
        valid = _names_at(place[:-1])
        close = difflib.get_close_matches(str(place[-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(valid)}"
        return place, f"there is no such setting; {hint}"
    if kind == "value_error":
        return place, str(details["ctx"]["error"])
    return place, f"found {_found(place, details['input'])}, but {_expected(details)}"


def _expected(details: ErrorDetails) -> str:
    message = details["msg"]
    match details["type"]:
        case "string_pattern_mismatch":
            return PATTERNS[details["ctx"]["pattern"]]
        case "model_type" | "dict_type":
            return "a mapping is expected"
        case "tuple_type":
            return "a list is expected"
    return f"it{message.removeprefix('Input')}" if message.startswith("Input ") else message[0].lower() + message[1:]


def _found(place: Place, value: object) -> str:
    if any(is_secret(str(part)) for part in place):
        return "a value that is not shown"
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _names_at(place: Place) -> list[str]:
    section: type[BaseModel] = Config
    for part in place:
        if isinstance(part, str):
            fields = {field.alias or name: field for name, field in section.model_fields.items()}
            section = _section(fields[part].annotation)
    return [field.alias or name for name, field in section.model_fields.items()]


def _section(annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(section for inner in get_args(annotation) if inner is not type(None) for section in [_section(inner)])
