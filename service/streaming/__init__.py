"""Exact streaming of torch modules over many ragged streams at once.

`convert` turns an unmodified `nn.Module` into a `Program`; a program steps packed batches of chunks over an arena of states. The
law: concatenated, its outputs are what the module computes on the whole stream, and with `numerics="exact"` they are the same bits
for every split into chunks and every company.
"""

from service.errors import NotStreamable, SnapshotMismatch, StreamLengthError
from service.streaming import operators
from service.streaming.arena import State
from service.streaming.convert import convert
from service.streaming.lowering import register_streamer
from service.streaming.numerics import Numerics
from service.streaming.precision import Precision
from service.streaming.program import Program
from service.streaming.ragged import Ragged
from service.streaming.snapshot import Checkpoint
from service.streaming.verify import Verified, verify

__all__ = [
    "Checkpoint",
    "NotStreamable",
    "Numerics",
    "Precision",
    "Program",
    "Ragged",
    "SnapshotMismatch",
    "State",
    "StreamLengthError",
    "Verified",
    "convert",
    "operators",
    "register_streamer",
    "verify",
]
