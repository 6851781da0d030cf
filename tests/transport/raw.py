"""Records as clients in other languages may send them: Python's client takes header names that are text, the broker any bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from importlib.metadata import files
from typing import Any

_PRODUCER = 0
_TOPIC, _VALUE, _KEY, _HEADER = 1, 4, 5, 9  # rd_kafka_vtype_t


class _Memory(ctypes.Structure):
    _fields_ = (("at", ctypes.c_char_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("content", ctypes.c_char_p), ("size", ctypes.c_ssize_t))


class _Any(ctypes.Union):
    _fields_ = (("text", ctypes.c_char_p), ("memory", _Memory), ("header", _Header), ("room", ctypes.c_char * 64))


class _Argument(ctypes.Structure):
    """`rd_kafka_vu_t`"""

    _fields_ = (("kind", ctypes.c_int), ("of", _Any))


@cache
def _librdkafka() -> Any:
    """The library inside the package confluent-kafka."""
    path = next(file for file in files("confluent-kafka") or [] if file.name.startswith("librdkafka-"))
    library = ctypes.CDLL(str(path.locate()))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_produceva"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


def publish(bootstrap: str, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """One record, and wait until it is there."""
    library, words = _librdkafka(), ctypes.create_string_buffer(512)
    configuration = ctypes.c_void_p(library.rd_kafka_conf_new())
    assert library.rd_kafka_conf_set(configuration, b"bootstrap.servers", bootstrap.encode(), words, 512) == 0, words.value
    producer = ctypes.c_void_p(library.rd_kafka_new(_PRODUCER, configuration, words, 512))
    arguments = [
        _Argument(_TOPIC, _Any(text=topic.encode())),
        _Argument(_KEY, _Any(memory=_Memory(key, len(key)))),
        _Argument(_VALUE, _Any(memory=_Memory(value, len(value)))),
        *[_Argument(_HEADER, _Any(header=_Header(name, content, len(content)))) for name, content in headers],
    ]
    try:
        assert not library.rd_kafka_produceva(producer, (_Argument * len(arguments))(*arguments), ctypes.c_size_t(len(arguments)))
        assert library.rd_kafka_flush(producer, 20_000) == 0
    finally:
        library.rd_kafka_destroy(producer)
