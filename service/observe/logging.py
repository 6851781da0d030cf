"""Structured logs on standard error: one event a line, JSON for machines or readable for people.

Events name lengths, offsets and reasons, never payloads. Control characters, which a key may hold, are escaped, so that no key
can forge a line or command a terminal.
"""

from __future__ import annotations

import json
import logging
import re
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def configure_logging(format: str = "console", level: str = "info") -> None:
    """Send structlog's events, and those of the standard library's loggers, to standard error from `level` on.

    `format` is `json` or `console`, `level` one of `debug`, `info`, `warning` and `error`.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _escaped,
    ]
    renderer: Processor
    if format == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_dumps)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)


def escaped(text: str) -> str:
    """`text` with control and direction-changing characters written as escapes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _escaped(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    return {name: _safe(name, value) for name, value in event.items()}


def _safe(name: str, value: object) -> object:
    if name == "exception" and isinstance(value, str):
        return "\n".join(map(escaped, value.split("\n")))
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return escaped(value) if isinstance(value, str) else value


def _dumps(event: EventDict, **options: object) -> str:
    return json.dumps(event, default=str)
