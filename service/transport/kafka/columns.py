"""Messages of librdkafka as columns. Everything here runs per message, so nothing here is a Python function per message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter

from confluent_kafka import Message

from service.transport.interface import Headers, RecordBatch

Where = tuple[str, int]

_error, _topic, _partition = Message.error, Message.topic, Message.partition
_offset, _timestamp, _key, _value = Message.offset, Message.timestamp, Message.key, Message.value
_milliseconds = itemgetter(1)


def split_errors(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    """Records, and messages that stand for errors."""
    if not any(map(_error, messages)):
        return messages, []
    return [message for message in messages if not message.error()], [message for message in messages if message.error()]


def by_partition(messages: Sequence[Message]) -> dict[Where, list[Message]]:
    """The messages of each partition, in their order."""
    groups: defaultdict[Where, list[Message]] = defaultdict(list)
    for where, message in zip(zip(map(_topic, messages), map(_partition, messages), strict=True), messages, strict=True):
        groups[where].append(message)
    return groups


def as_batch(where: Where, messages: list[Message]) -> RecordBatch:
    """One partition's messages as columns."""

    def headers(row: int) -> Headers:
        return list(messages[row].headers() or [])

    return RecordBatch(
        topic=where[0],
        partition=where[1],
        offsets=list(map(_offset, messages)),
        timestamps=list(map(_milliseconds, map(_timestamp, messages))),
        keys=list(map(_key, messages)),
        values=list(map(_value, messages)),
        headers=headers,
    )
