"""Questions to a broker that may be starting, or whose connection may just have been cut."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

from service.transport.kafka.errors import reason

GONE = frozenset({KafkaError._TRANSPORT, KafkaError._DESTROY, KafkaError._DESTROY_BROKER})
"""The connection that the question waited for."""
PASSING = GONE | frozenset(
    {
        KafkaError._WAIT_CACHE,
        KafkaError._WAIT_COORD,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_CONTROLLER,
    }
)
"""Answers that may be others a moment later."""
PAUSE = 0.1  # seconds
_LEAST = 0.1

Answer = TypeVar("Answer")


def patiently(ask: Callable[[float], Answer], timeout: float, passing: Callable[[int], bool] = PASSING.__contains__) -> Answer:
    """What `ask` returns, given the seconds that are left; it is called again while it raises a `passing` error and time is left.

    Raises the last `KafkaException`.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return ask(max(deadline - time.monotonic(), _LEAST))
        except KafkaException as error:
            if time.monotonic() >= deadline or not passing(reason(error).code()):
                raise
        time.sleep(PAUSE)
