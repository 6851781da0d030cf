"""A worker that stands still for longer than its transaction and its group membership live, on the real broker."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from service.config import load
from service.demo.broker import KafkaNode
from tests.broker.test_kills import application, audited, fill, running, wait_for

SHORT = {"commit": {"interval": "50ms", "transaction_timeout": "3s"}, "group": {"session_timeout": "6s"}}
STALL = 9.0  # seconds

pytestmark = pytest.mark.broker


def test_alone_it_recovers(kafka: KafkaNode, tmp_path: Path) -> None:
    path = application(kafka, tmp_path, changes=SHORT)
    config, records = load(path), 6_000
    fill(config, records)
    with running(path) as process:
        wait_for(config, records // 4, process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(STALL)
        process.send_signal(signal.SIGCONT)
        wait_for(config, records, process)
        process.terminate()
        assert process.wait(30) == 0, path.with_suffix(".log").read_text()[-3000:]
    report = audited(path)
    assert (report["exit"], report["bit_equal"]) == (0, True)


def test_it_ends_where_a_newer_process_has_its_name_and_that_one_goes_on(kafka: KafkaNode, tmp_path: Path) -> None:
    path = application(kafka, tmp_path, changes=SHORT)
    config, records = load(path), 6_000
    fill(config, records)
    with running(path) as older:
        wait_for(config, records // 4, older)
        older.send_signal(signal.SIGSTOP)
        time.sleep(STALL)
        with running(path) as newer:
            wait_for(config, records, newer)
            older.send_signal(signal.SIGCONT)
            fill(config, 1_000)
            assert older.wait(40) == 3, path.with_suffix(".log").read_text()[-3000:]
            wait_for(config, records + 1_000, newer)
            newer.terminate()
            assert newer.wait(30) == 0, path.with_suffix(".log").read_text()[-3000:]
    report = audited(path)
    assert (report["exit"], report["bit_equal"]) == (0, True)
