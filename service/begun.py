"""What a task's first commit leaves in the snapshot topic for good.

Without it, a group whose offsets have expired after all its keys had ended would look like one that never ran, and compute
everything again; and a snapshot topic that was emptied like one of keys without streams.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from service.codec.interface import RESERVED_KEYS

BEGUN_KEY = RESERVED_KEYS + b"begun"

_MAGIC = b"PSNB\x01"
_FIRST = struct.Struct("<q")
_CHECKSUM = struct.Struct("<I")
_LEAST = len(_MAGIC) + _FIRST.size + _CHECKSUM.size


@dataclass(frozen=True, slots=True)
class Begun:
    """The first offset that was fed, and the input topic's id, where the broker tells it. Neither is needed to go on."""

    first: int
    input_id: str | None

    def to_bytes(self) -> bytes:
        body = _MAGIC + _FIRST.pack(self.first) + (self.input_id or "").encode()
        return body + _CHECKSUM.pack(zlib.crc32(body))

    @classmethod
    def read(cls, key: bytes, value: bytes | None) -> Begun | None:
        """A record of the snapshot topic; None for one that is about something else. Damaged, or as versions before and after this
        one write it, it says no more than that the task has begun, if with the log's very first record."""
        if key != BEGUN_KEY or value is None:
            return None
        body, checksum = value[: -_CHECKSUM.size], value[-_CHECKSUM.size :]
        if not value.startswith(_MAGIC) or len(value) < _LEAST or checksum != _CHECKSUM.pack(zlib.crc32(body)):
            return cls(0, None)
        (first,) = _FIRST.unpack_from(body, len(_MAGIC))
        return cls(first, body[len(_MAGIC) + _FIRST.size :].decode() or None)
