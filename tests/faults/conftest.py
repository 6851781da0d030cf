"""What the fault suite shares: a broker with a proxy before it, how many rounds, and the table at the end.

`PENSTOCK_FAULTS=long` asks for the long rounds; `PENSTOCK_FAULTS_REPORT` names where the table goes, without the ending.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from service.demo.broker import KafkaNode
from service.demo.broker.node import _free_ports
from service.errors import OperatorActionRequired
from service.worker import Worker
from tests.faults.ledger import Entry, Refused
from tests.faults.proxy import Proxy
from tests.faults.report import LEDGER
from tests.faults.scene import Scene, scene
from tests.needs import require_broker

LONG = os.environ.get("PENSTOCK_FAULTS") == "long"

Rounds = Callable[[int, int], int]
Judged = Callable[..., None]
Refuses = Callable[..., None]
Scenes = Callable[..., Any]


@dataclass(frozen=True)
class Stage:
    """A broker, and a proxy through which it can be reached as well."""

    node: KafkaNode
    proxy: Proxy

    @property
    def proxied(self) -> str:
        return f"127.0.0.1:{self.proxy.port}"


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """Not the broker of the other tests: this one is killed. Sessions are short, so that the dead are missed soon."""
    require_broker()
    proxy = Proxy()
    ports = {*_free_ports()}
    while len(ports) < 3:
        ports |= {*_free_ports()}
    plain, proxied, controller = list(ports)[:3]
    proxy.target = proxied
    names = {"PLAINTEXT": plain, "PROXIED": proxied, "CONTROLLER": controller}
    settings = {
        "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in names.items()),
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},PROXIED://127.0.0.1:{proxy.port}",
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "broker.session.timeout.ms": "4000",
        "group.consumer.session.timeout.ms": "1500",
        "group.consumer.heartbeat.interval.ms": "300",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "300",
    }
    with KafkaNode(settings, port=plain) as node:
        yield Stage(node, proxy)
    proxy.close()


@pytest.fixture
def scenes(stage: Stage) -> Scenes:
    """Makes an application of its own on the broker."""
    return partial(scene, stage.node.bootstrap)


@pytest.fixture
def rounds() -> Rounds:
    """The first number in the suite, the second in the long run."""
    return lambda short, long: long if LONG else short


@pytest.fixture
def judged(request: pytest.FixtureRequest) -> Judged:
    """Writes a scenario down, and fails the test unless everything is right: predictions, dead letters, bits, and with `states` the
    state of every key."""
    began = time.monotonic()

    def judge(play: Scene, row: int, scenario: str, faults: int, states: bool = True) -> None:
        report = play.verdict()
        wrong = play.wrong_states() if states else []
        seconds = time.monotonic() - began
        request.config.stash[LEDGER].entries.append(Entry.of(row, scenario, faults, report, not wrong if states else None, seconds))
        assert report.passed(exact=True), (report, play.said())
        assert report.unjudged == 0
        assert not wrong, (wrong[:5], play.said())

    return judge


@pytest.fixture
def refused(request: pytest.FixtureRequest) -> Refuses:
    """Runs a worker that must end with an error of this meaning, within 10 s and without writing anything."""

    def refuse(play: Scene, row: int, scenario: str, message: str, start: Callable[[], Worker] | None = None) -> None:
        before, began = play.written(), time.monotonic()
        with pytest.raises(OperatorActionRequired, match=message):
            play.turn((start or play.worker)(), until=lambda: False, seconds=10.0)
        seconds = time.monotonic() - began
        play.close()
        written = sum(abs(now - then) for now, then in zip(play.written(), before, strict=True))
        request.config.stash[LEDGER].refusals.append(Refused(row, scenario, round(seconds, 1), written))
        assert written == 0
        assert seconds < 10.0

    return refuse
