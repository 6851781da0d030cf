"""The demo as a whole: on the in-memory log for seconds, and on a real broker until the fault is detected."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from service.demo import show
from service.demo.broker import KafkaNode, available
from service.demo.machines import PUMPS, RATE, Fleet, key_of
from service.errors import ConfigurationError

RIGHT = {"missing": 0, "duplicates": 0, "unexpected": 0, "out_of_order": 0, "unjudged": 0, "bit_equal": True, "false_alarms": 0}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def performed(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    code = show.run(**{"seconds": None, "json": True, "broker": "memory", "bootstrap": None} | options)
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 0
    assert RIGHT.items() <= result.items()
    assert result["max_abs_difference"] <= 1e-4
    assert result["records"] == result["predictions"] > 0
    return result


def test_every_record_gets_its_prediction_once_and_right(capsys: pytest.CaptureFixture[str]) -> None:
    result = performed(capsys, seconds=4)
    assert result["broker"].startswith("memory")
    assert result["expected"] == result["records"] > 60
    assert result["fault"] is None
    assert result["end_to_end_p50_ms"] > 0
    assert result["commit_ms"] > 0


def test_it_goes_on_until_it_is_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    try:
        performed(capsys)
    finally:
        interrupt.cancel()
    assert signal.getsignal(signal.SIGINT) is before


def test_without_java_it_runs_in_memory_and_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    missing = available()
    assert missing is not None
    assert show.run(1, False, "auto", None) == 0
    shown = capsys.readouterr()
    assert "Java 17" in shown.err
    assert "Audit passed" in shown.out


@pytest.mark.parametrize(
    ("broker", "bootstrap", "said"), [("kafak", None, "auto, kafka, memory"), ("memory", "127.0.0.1:9092", "--bootstrap")]
)
def test_options_that_make_no_sense_are_refused(broker: str, bootstrap: str | None, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        show.run(1, True, broker, bootstrap)


@pytest.mark.broker
def test_on_kafka_the_fault_is_detected_after_an_earlier_demo_on_the_same_broker_too(
    capsys: pytest.CaptureFixture[str], kafka: KafkaNode
) -> None:
    early = min(range(200), key=lambda seed: Fleet(seed).fault.begins)
    fault = Fleet(early).fault
    first = performed(capsys, seconds=1, broker="kafka", bootstrap=kafka.bootstrap, seed=early)
    second = performed(capsys, seconds=fault.begins / RATE + 4, broker="kafka", bootstrap=kafka.bootstrap, seed=early)
    assert second["broker"].startswith("kafka")
    assert second["expected"] == first["records"] + second["records"]
    assert second["streams"] == 2 * PUMPS
    assert second["fault"]["pump"] == key_of(fault.pump)
    assert 0.5 < second["fault"]["delay_s"] < 4
