"""A load that is published by and by, while a program runs: all at once for its histories, then as steadily as devices send."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from service.background import begun
from service.bench.load import Load
from service.errors import PenstockError
from service.transport.interface import Publisher

_TIMEOUT = 60.0
_PORTIONS = 50  # publishes per second


class Feed:
    """Publishes a load, by and by. `published` never counts less than what the topic holds."""

    def __init__(self, publisher: Publisher, topic: str, load: Load) -> None:
        self.published = 0
        self._publisher = publisher
        self._topic = topic
        self._load = load
        self._records = iter(load)

    def publish(self, records: int | None = None) -> None:
        """So many of those that are left, or all."""
        for key, value in islice(self._records, records):
            self.published += 1
            self._publisher.publish(self._topic, value, key)
        self._publisher.flush(_TIMEOUT)

    @contextmanager
    def flowing(self) -> Iterator[Callable[[], None]]:
        """Meanwhile each key has a record a second. Yields what raises `PenstockError` once the load has run out."""
        stop = threading.Event()
        end = begun(lambda: self._flow(stop), "load")

        def expect_flowing() -> None:
            if end.done():
                end.result()
                raise PenstockError(f"all {self._load.records} records are published, and the measurement has not ended")

        try:
            yield expect_flowing
        finally:
            stop.set()
            end.result(_TIMEOUT)

    def _flow(self, stop: threading.Event) -> None:
        portion = max(1, self._load.keys // _PORTIONS)
        began, before = time.monotonic(), self.published
        while self.published < self._load.records:
            if stop.wait(began + (self.published - before) / self._load.keys - time.monotonic()):
                return
            self.publish(portion)
