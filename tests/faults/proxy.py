"""A TCP proxy before a Kafka broker. It passes everything on, until it is told to lose answers, to stand still or to cut."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from enum import Enum

_END_TXN = 26  # Kafka's number for the request that commits or aborts a transaction
_FLEXIBLE = 3  # the version of it from which on tagged fields follow the last field
_HEADER = struct.Struct(">hhi")  # of a request: what, in which version, with which number


class Loss(Enum):
    """What becomes of a commit; in each case its client does not learn whether it happened."""

    REQUEST = "request lost, connection cut"
    RESPONSE = "response lost, connection cut"
    SILENCE = "response lost, connection stands"


class Proxy:
    """Listens on `port`; `target` is the broker's port for it, to be set before the first connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.target = 0
        self.lost = 0
        self._losses: list[Loss] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, loss: Loss) -> None:
        """Once, of the next transaction to be committed."""
        with self._lock:
            self._losses.append(loss)

    def stall(self) -> None:
        """Connections stay, and nothing passes."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        """Every connection that there is; new ones are taken."""
        with self._lock:
            held = list(self._open)
        for end in held:
            _close(end)

    def close(self) -> None:
        _close(self._listener)
        self.resume()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    broker = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                except OSError:
                    _close(client)
                    continue
                broker.settimeout(None)
                with self._lock:
                    self._open |= {client, broker}
                _Connection(self, client, broker)

    def _loss(self, request: bytes) -> Loss | None:
        """What is to become of this request."""
        what, version, _ = _HEADER.unpack_from(request)
        commits = what == _END_TXN and request[-1 if version < _FLEXIBLE else -2]
        with self._lock:
            if not commits or not self._losses:
                return None
            self.lost += 1
            return self._losses.pop(0)

    def _forget(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(ends)


class _Connection:
    def __init__(self, proxy: Proxy, client: socket.socket, broker: socket.socket) -> None:
        self._proxy, self._client, self._broker = proxy, client, broker
        self._muted: dict[int, Loss] = {}  # by the number of the request
        for run in (self._requests, self._responses):
            threading.Thread(target=self._guarded, args=(run,), daemon=True).start()

    def _guarded(self, run: object) -> None:
        assert callable(run)
        with contextlib.suppress(OSError):
            run()
        _close(self._client)
        _close(self._broker)
        self._proxy._forget(self._client, self._broker)

    def _requests(self) -> None:
        while (request := _frame(self._client)) is not None:
            self._proxy._flowing.wait()
            loss = self._proxy._loss(request)
            if loss is Loss.REQUEST:
                return
            if loss is not None:
                self._muted[_HEADER.unpack_from(request)[2]] = loss
            self._broker.sendall(struct.pack(">i", len(request)) + request)

    def _responses(self) -> None:
        while (response := _frame(self._broker)) is not None:
            self._proxy._flowing.wait()
            loss = self._muted.pop(struct.unpack_from(">i", response)[0], None)
            if loss is Loss.RESPONSE:
                return
            if loss is None:
                self._client.sendall(struct.pack(">i", len(response)) + response)


def _frame(end: socket.socket) -> bytes | None:
    """One message; None where the other side has closed."""
    size = _exactly(end, 4)
    return None if size is None else _exactly(end, int.from_bytes(size, "big"))


def _exactly(end: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = end.recv(min(count - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
