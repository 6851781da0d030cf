"""`penstock run`: the worker until SIGTERM or SIGINT."""

from __future__ import annotations

import gc
import signal
import threading
from types import FrameType

import structlog

from service.app import Application
from service.config import Config
from service.observe.metrics import Metrics
from service.transport.interface import Transport

log = structlog.get_logger("penstock")


def run(config: Config, transport: Transport, accept_fingerprint: bool = False) -> None:
    """Returns after a clean stop: the epoch finished, dirty streams snapshotted, offsets committed, the group left."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    application = Application.from_config(config)
    log.info(
        "starting",
        app=config.app,
        instance=config.instance,
        broker=transport.describe(),
        fingerprint=application.fingerprint,
        bytes_per_key=application.program.bytes_per_slot,
    )
    # Decoding makes many short-lived lists; without this, each batch has the collector walk all that torch has loaded.
    gc.freeze()
    gc.enable()
    gc.set_threshold(100_000, 20, 100)
    metrics = Metrics()
    metrics.serve(config.metrics)
    application.worker(transport, metrics, accept_fingerprint).run(stop)
    log.info("stopped")
