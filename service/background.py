"""One call at a time beside the loop: a commit waits for the broker, and the loop has records to decode meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Wait = Callable[[], None]
Beside = Callable[[Callable[[], None]], Wait]
"""Starts a call; what it returns waits for its end, and raises what the call has raised."""


def in_thread() -> Beside:
    """Calls run in a thread of their own."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="commit")

    def start(call: Callable[[], None]) -> Wait:
        return pool.submit(call).result

    return start


def at_once(call: Callable[[], None]) -> Wait:
    """For tests: the call is over before anybody waits for it, and its error comes when somebody does."""
    try:
        call()
    except Exception as error:
        failure = error

        def fail() -> None:
            raise failure

        return fail
    return lambda: None


def when_waited_for(call: Callable[[], None]) -> Wait:
    """For tests: as late as can be."""
    return call
