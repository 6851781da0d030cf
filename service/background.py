"""Calls beside the loop: a commit waits for the broker, and the loop has records to decode meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

Wait = Callable[[], None]
Beside = Callable[[Callable[[], None]], Wait]
"""Starts a call; what it returns waits for its end, and raises what the call has raised."""


def begun(call: Callable[[], None], name: str) -> Future[None]:
    """The call's outcome. It runs in a thread of its own, which is gone when it is over."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome


def in_thread(call: Callable[[], None]) -> Wait:
    return begun(call, "commit").result
