"""The table at the end of a run. Where tests run in several processes, each hands what it wrote to the one that prints."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.faults.ledger import Entry, Ledger, Refused

LEDGER = pytest.StashKey[Ledger]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEDGER] = Ledger()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (handed_over := getattr(session.config, "workeroutput", None)) is not None:
        ledger = session.config.stash[LEDGER]
        handed_over["judged"] = [asdict(entry) for entry in ledger.entries]
        handed_over["refused"] = [asdict(entry) for entry in ledger.refusals]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    found, ledger = getattr(node, "workeroutput", None) or {}, node.config.stash[LEDGER]
    ledger.entries += [Entry(**entry) for entry in found.get("judged", [])]
    ledger.refusals += [Refused(**entry) for entry in found.get("refused", [])]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    ledger = config.stash[LEDGER]
    if not ledger.tables():
        return
    terminalreporter.section("faults")
    for line in ledger.tables():
        terminalreporter.line(line)
    if where := os.environ.get("PENSTOCK_FAULTS_REPORT"):
        ledger.write(Path(where))
