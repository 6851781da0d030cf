"""Calls of librdkafka's that may outlast the time they are given, and what to do with them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future


def bounded(call: Callable[[], None], seconds: float) -> None:
    """Run `call` in a thread of its own and raise what it raises; `TimeoutError` where it has not returned after `seconds`.

    The thread then stays behind, waiting, and so does what it holds: the client must not be used again.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=run, name="bounded", daemon=True).start()
    outcome.result(seconds)
