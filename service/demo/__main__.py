"""The pumps alone: `python -m service.demo CONFIG` sends their records to the configuration's input until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from service.config import load
from service.demo.feeder import Feeder
from service.demo.machines import SEED, Fleet
from service.errors import PenstockError
from service.observe.logging import configure_logging
from service.transport.kafka import KafkaTransport


def main(path: Path) -> None:
    """Raises what the transport raises; at the end every stream is ended."""
    config, stop = load(path), threading.Event()
    configure_logging(config.log.format, config.log.level)

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    Feeder(Fleet(SEED), KafkaTransport(config.kafka), config.input.topic).run(stop)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (PenstockError, IndexError) as error:
        sys.exit(str(error) if isinstance(error, PenstockError) else "usage: python -m service.demo CONFIG")
