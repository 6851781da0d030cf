"""`penstock broker`: a Kafka node to try things on, without Docker."""

from __future__ import annotations

import signal
import socket
import threading

from service.demo.broker import KafkaNode
from service.errors import TransportUnavailable


def broker(port: int) -> None:
    """Runs until SIGINT or SIGTERM; its data goes with it. Raises `TransportUnavailable` where the port is taken."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TransportUnavailable(f"port {port} on 127.0.0.1: {error.strerror}; choose another one with --port") from error
    with KafkaNode(port=port) as node:
        print(f"kafka {node.version} at {node.bootstrap}, with its data in a temporary folder; Ctrl-C ends both", flush=True)
        stop.wait()
