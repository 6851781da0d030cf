"""One stream's state as bytes, with the input offsets at which it is true.

Layout, little-endian: `PSNP`, version u8, number of positions u16, then stream i64, frames i64, last_start i64, last_time f64,
rate f64, one i64 per position, CRC-32 of all that, and the program's own blob (which carries its own checksum). The header is
checksummed apart from the blob, so that a key whose blob is damaged can still be told where to begin again.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from service.errors import SnapshotDamaged, SnapshotMismatch

MAGIC = b"PSNP"
_VERSION = 1
_FIXED = struct.Struct("<4sBHqqqdd")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a later decision about one stream reads.

    `stream` is the offset of its first record; `positions` the offset of the first record *not* contained, one per input
    topic; `frames` how many samples it was fed; `last_time` (epoch ms) and `last_start` (frame index) place its latest samples in
    time; `rate` is in Hz; `blob` is what `Program.freeze` returned.
    """

    stream: int
    positions: tuple[int, ...]
    frames: int
    last_start: int
    last_time: float
    rate: float
    blob: bytes

    def to_bytes(self) -> bytes:
        fixed = _FIXED.pack(
            MAGIC, _VERSION, len(self.positions), self.stream, self.frames, self.last_start, self.last_time, self.rate
        )
        header = fixed + struct.pack(f"<{len(self.positions)}q", *self.positions)
        return header + _CRC.pack(zlib.crc32(header)) + self.blob

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Raises `SnapshotDamaged` for a damaged header, `SnapshotMismatch` for an unknown version; the blob is judged by
        `Program.thaw`."""
        if len(data) < _FIXED.size or data[: len(MAGIC)] != MAGIC:
            raise SnapshotDamaged(f"a snapshot of {len(data)} bytes without a header")
        _, version, count, stream, frames, last_start, last_time, rate = _FIXED.unpack_from(data)
        if version != _VERSION:
            raise SnapshotMismatch(f"it has version {version}, and this penstock reads version {_VERSION}")
        end = _FIXED.size + 8 * count
        if len(data) < end + _CRC.size or _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
            raise SnapshotDamaged("the header's checksum does not match")
        positions = struct.unpack_from(f"<{count}q", data, _FIXED.size)
        return cls(stream, positions, frames, last_start, last_time, rate, data[end + _CRC.size :])
