"""A performance ends when the worker does, and says why."""

from __future__ import annotations

import threading

import pytest
from rich.console import Console

from service.app import Application
from service.config import load
from service.demo.machines import Fleet
from service.demo.play import Stage, play
from service.demo.trial import SETTINGS
from service.errors import Fenced
from service.incarnation import Incarnation
from service.transport.interface import Isolation
from service.transport.memory import MemoryLog, MemoryTransport


def test_what_the_worker_raises_ends_it() -> None:
    application = Application.from_config(load(SETTINGS, environment={}))
    log, stop = MemoryLog(), threading.Event()
    transport, config, threads = MemoryTransport(log), application.config, threading.active_count()

    def start_another() -> None:
        """As soon as the worker is at work: who signs later is the newer one."""
        while not log.group(config.app).committed:
            stop.wait(0.01)
        reader = transport.reader(Isolation.READ_COMMITTED)
        Incarnation(transport, config.snapshot_topic, config.instance).sign(reader, transport.publisher(), 5.0)
        transport.sink(config.transactional_id, 10.0).open(5.0)

    takeover = threading.Thread(target=start_another, daemon=True)
    takeover.start()
    try:
        with pytest.raises(Fenced):
            play(application, Stage(transport, "memory"), Fleet(1), None, stop, Console(quiet=True))
    finally:
        takeover.join(10.0)
    assert stop.is_set()
    assert threading.active_count() == threads
