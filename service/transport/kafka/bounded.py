"""Calls of librdkafka's that may outlast the time they are given, and what to do with them."""

from __future__ import annotations

from collections.abc import Callable

from service.background import begun


def bounded(call: Callable[[], None], seconds: float) -> None:
    """Run `call` in a thread of its own and raise what it raises; `TimeoutError` where it has not returned after `seconds`.

    The thread then stays behind, waiting, and so does what it holds: the client must not be used again.
    """
    begun(call, "bounded").result(seconds)
