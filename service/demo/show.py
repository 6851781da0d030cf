"""`penstock demo`: a broker, simulated pumps, the service, a live view, and an audit at the end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from types import FrameType

import orjson
from rich.console import Console

from service.app import Application
from service.config import Config, Numerics, load
from service.demo.broker import KafkaNode, available
from service.demo.machines import SEED, Fleet
from service.demo.play import Stage, play
from service.demo.trial import SETTINGS
from service.demo.view import verdict
from service.errors import ConfigurationError
from service.observe.logging import configure_logging
from service.transport.kafka import KafkaTransport
from service.transport.memory import MemoryLog, MemoryTransport


class Broker(StrEnum):
    """What the demo runs on. `auto` takes a Kafka node of its own where Java and Maven allow it."""

    AUTO = "auto"
    KAFKA = "kafka"
    MEMORY = "memory"


def run(seconds: float | None, json: bool, broker: str, bootstrap: str | None, seed: int = SEED) -> int:
    """Print the view and the verdict, or with `json` one object; 0 only when the audit says that all is right.

    Without `seconds` it goes on until Ctrl-C; a second Ctrl-C breaks off. Raises `ConfigurationError` for an unknown broker.
    """
    console, stop = Console(quiet=json), threading.Event()
    configure_logging(level="critical")  # what matters is raised or audited; librdkafka repeats each trouble hundreds of times
    with _interruptible(stop), _stage(_broker(broker, bootstrap), bootstrap, console) as (stage, config):
        if stage.notice and (json or not console.is_terminal):
            print(stage.notice, file=sys.stderr)
        application = Application.from_config(config)
        outcome = play(application, stage, Fleet(seed), seconds, stop, console)
    passed = outcome.report.passed(exact=config.numerics is Numerics.EXACT)
    if json:
        print(orjson.dumps(outcome.to_dict(), option=orjson.OPT_INDENT_2).decode())
    else:
        console.print(verdict(outcome.report, passed))
    return 0 if passed else 1


def _broker(name: str, bootstrap: str | None) -> Broker:
    try:
        broker = Broker(name)
    except ValueError:
        raise ConfigurationError(f"--broker: found {name!r}; allowed are {', '.join(Broker)}") from None
    if broker is Broker.MEMORY and bootstrap is not None:
        raise ConfigurationError("--broker memory and --bootstrap exclude each other; leave one of them out")
    return broker


@contextmanager
def _stage(broker: Broker, bootstrap: str | None, console: Console) -> Iterator[tuple[Stage, Config]]:
    """The log to perform on, for as long as the `with` block lasts, and the application's settings on it."""
    missing = available() if broker is Broker.AUTO and bootstrap is None else None
    if broker is Broker.MEMORY or missing:
        transport = MemoryTransport(MemoryLog())
        notice = f"This is an in-memory log, not Kafka: {missing}." if missing else None
        yield Stage(transport, transport.describe(), notice), _settings("none:0")
    elif bootstrap is not None:
        config = _settings(bootstrap)
        kafka = KafkaTransport(config.kafka)
        yield Stage(kafka, kafka.describe()), config
    else:
        with ExitStack() as stack:
            with console.status(f"starting Apache Kafka {KafkaNode.version}; the first time Maven fetches its jars, 54 MB"):
                node = stack.enter_context(KafkaNode())
            config = _settings(node.bootstrap)
            yield Stage(KafkaTransport(config.kafka), f"kafka {node.version} at {node.bootstrap}"), config


def _settings(bootstrap: str) -> Config:
    return load(SETTINGS, environment={"PENSTOCK_BOOTSTRAP": bootstrap, "HOSTNAME": "demo"})


@contextmanager
def _interruptible(stop: threading.Event) -> Iterator[None]:
    """The first SIGINT or SIGTERM sets `stop`, the second one breaks off."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
