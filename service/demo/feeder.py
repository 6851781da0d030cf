"""Sends a fleet's records in real time, as its sensors would."""

from __future__ import annotations

import threading
import time

from service.demo.machines import RATE, Fleet
from service.transport.interface import Transport

_FLUSH_SECONDS = 30.0


class Feeder:
    """Publishes until told to stop, then ends every stream. `run` belongs to one thread; the counts may be read by others.

    `origin` is the time of sample 0 in epoch milliseconds, `chunks` counts records that hold samples, `samples` those samples.
    """

    def __init__(self, fleet: Fleet, transport: Transport, topic: str) -> None:
        self.origin = round(time.time() * 1000)
        self.chunks = 0
        self.ends = 0
        self.samples = 0
        self._began = time.monotonic()
        self._fleet = fleet
        self._transport = transport
        self._topic = topic

    @property
    def elapsed(self) -> float:
        """Seconds since sample 0."""
        return time.monotonic() - self._began

    def run(self, stop: threading.Event) -> None:
        """Raises `TransportUnavailable` when the broker has not acknowledged everything at the end."""
        publisher = self._transport.publisher()
        streams: set[str] = set()
        for record in self._fleet.records():
            if stop.wait(max(0.0, record.stop / RATE - self.elapsed)):
                break
            publisher.publish(self._topic, record.encode(self.origin), key=record.key.encode())
            if record.samples is None:
                streams.discard(record.key)
                self.ends += 1
            else:
                streams.add(record.key)
                self.samples += len(record.samples)
                self.chunks += 1
        for key in sorted(streams):
            publisher.publish(self._topic, None, key=key.encode())
            self.ends += 1
        publisher.flush(_FLUSH_SECONDS)
