"""Logs: one event a line, whatever a key or a message holds."""

from __future__ import annotations

import json
import logging
from datetime import datetime

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from service.observe.logging import configure_logging, escaped

HOSTILE = 'pump\n2026-01-01 [error] forged\r\x1b[31m\x9b\u2028"\u202e'


@pytest.fixture(autouse=True)
def restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize("value", [HOSTILE, HOSTILE.encode(), b"\xff\n", [HOSTILE], {"key": HOSTILE}])
def test_no_value_can_forge_a_line_or_command_the_terminal(format, value, capsys):
    configure_logging(format)
    structlog.get_logger().warning("dead_letter", key=value)
    logging.getLogger("library").warning("about %s", HOSTILE)
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 2
    assert not set(text) & {"\x1b", "\x9b", "\r", "\u2028", "\u202e"}


def test_json_events_have_time_level_and_fields(capsys):
    configure_logging("json")
    structlog.get_logger().info("started", tasks=[1, 2], app="pumps")
    event = json.loads(capsys.readouterr().err)
    assert (event["event"], event["level"], event["tasks"], event["app"]) == ("started", "info", [1, 2], "pumps")
    assert datetime.fromisoformat(event["timestamp"]).utcoffset().total_seconds() == 0


def test_exceptions_stay_readable_but_harmless(capsys):
    configure_logging("console")
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        structlog.get_logger().exception("failed")
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "\x1b" not in text


def test_levels_hold_for_us_and_for_libraries(capsys):
    configure_logging("json", "warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    structlog.get_logger().error("loud")
    logging.getLogger("library").error("loud")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["loud", "loud"]


@given(st.text())
def test_escaping_leaves_printable_text_alone_and_no_line_break(text):
    assert len(escaped(text).splitlines()) <= 1
    if text.isprintable():
        assert escaped(text) == text
