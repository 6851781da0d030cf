"""Messages of librdkafka as columns. Everything here runs per message, so nothing here is a Python function per message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter, methodcaller

from confluent_kafka import Message

from service.transport.interface import Headers, RecordBatch

Where = tuple[str, int]

_error, _topic, _partition = Message.error, Message.topic, Message.partition
_offset, _timestamp, _key, _value = Message.offset, Message.timestamp, Message.key, Message.value
_milliseconds = itemgetter(1)
_headers = methodcaller("headers")

UNREADABLE: Headers = [("penstock.headers_unreadable", b"a name that is not UTF-8")]
"""Stands for the headers of a record of which one has such a name: the broker takes any, the client gives out none of them."""


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
        message = messages[row]
        try:
            # Through a function of C, which notices that the client returns a list, half made, and raises at once (SystemError in
            # 2.16.1): where Python calls a method itself, it may believe in the list, and dies of it.
            found = _headers(message)
        except (SystemError, UnicodeDecodeError):
            message.set_headers(UNREADABLE)  # or it would give out that list the next time
            found = UNREADABLE
        return list(found or [])

    return RecordBatch(
        topic=where[0],
        partition=where[1],
        offsets=list(map(_offset, messages)),
        timestamps=list(map(_milliseconds, map(_timestamp, messages))),
        keys=list(map(_key, messages)),
        values=list(map(_value, messages)),
        headers=headers,
    )
