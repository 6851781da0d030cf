"""The membership that a transaction's offsets are sent under."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_FORM = struct.Struct("=7si")  # librdkafka's rd_kafka_consumer_group_metadata_write: a magic word, the generation, the names
_MAGIC = b"CGMDv2:"


@dataclass(frozen=True, slots=True)
class KafkaToken:
    """librdkafka's group metadata, read just now."""

    metadata: bytes | None  # None from a member that is leaving

    @property
    def joined(self) -> bool:
        if self.metadata is None:
            return False
        magic, generation = _FORM.unpack_from(self.metadata)
        if magic != _MAGIC:
            raise RuntimeError(f"this version of librdkafka writes group metadata in another form: {magic!r}")
        return bool(generation >= 0)
