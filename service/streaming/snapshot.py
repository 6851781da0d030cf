"""A stream's state outside the arena: as bytes (`freeze`, `thaw`) and as an in-memory picture (`Checkpoint`).

Both hold the frames fed, the tail of each source and the recurrences' memories; every other ring is recomputed from them.
A snapshot is, little-endian: format (u16), reserved (u16), CRC-32 of all that follows (u32), state fingerprint (8 bytes), frames
(i64), then per source its tail rows in time order, then per recurrence its memory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from service.errors import SnapshotDamaged, SnapshotMismatch
from service.streaming.arena import State
from service.streaming.fingerprint import SNAPSHOT_FORMAT
from service.streaming.plan import Plan
from service.streaming.turn import Span

HEAD = struct.Struct("<HHI")
BODY = struct.Struct("<8sq")


@dataclass(frozen=True)
class Checkpoint:
    """The streams in `slots` as they were: `frames`, the sources' rings and the recurrences' memories."""

    slots: Int64[Tensor, "B"]
    frames: Int64[Tensor, "B"]
    rings: dict[int, Float[Tensor, "B depth_C"]]
    hidden: dict[int, Float[Tensor, "B S"]]


def take(plan: Plan, state: State, slots: Int64[Tensor, "B"]) -> Checkpoint:
    (at,) = state.send(slots)
    return Checkpoint(
        slots.clone(),
        state.frames.index_select(0, slots),
        {index: state.stores[index].per_slot.index_select(0, at) for index, tail in plan.tails.items() if tail},
        {index: hidden.index_select(0, at) for index, hidden in state.hidden.items()},
    )


def put_back(state: State, checkpoint: Checkpoint) -> None:
    (at,) = state.send(checkpoint.slots)
    state.frames.index_copy_(0, checkpoint.slots, checkpoint.frames)
    for index, rings in checkpoint.rings.items():
        state.stores[index].per_slot.index_copy_(0, at, rings)
    for index, hidden in checkpoint.hidden.items():
        state.hidden[index].index_copy_(0, at, hidden)


def tail_spans(plan: Plan, frames: Int64[Tensor, "B"]) -> dict[int, Span]:
    """Per source with a tail: which of its elements a snapshot of streams at `frames` holds."""
    spans = {}
    for value in plan.sources:
        if plan.tails[value.index]:
            stop = value.timeline.ready(frames)
            spans[value.index] = Span(torch.minimum(plan.warm[value.index](frames), stop), stop)
    return spans


def freeze(plan: Plan, fingerprint: str, state: State, slots: Int64[Tensor, "B"]) -> list[bytes]:
    """One snapshot per slot; the slots stay as they are."""
    frames = state.frames.index_select(0, slots)
    spans = tail_spans(plan, frames)
    stores = [state.stores[index] for index in spans]
    at, *places = state.send(
        slots, *(span.ring_rows(slots, store.depth) for span, store in zip(spans.values(), stores, strict=True))
    )
    tails = [store.ring.index_select(0, rows) for store, rows in zip(stores, places, strict=True)]
    held = state.fetch(*tails, *(hidden.index_select(0, at) for hidden in state.hidden.values()))
    one_each = list(range(len(slots) + 1))
    ends = [[0, *span.ends.tolist()] for span in spans.values()] + [one_each] * len(state.hidden)
    parts = [(rows.numpy(), begins) for rows, begins in zip(held, ends, strict=True)]
    mark = bytes.fromhex(fingerprint)
    snapshots = []
    for row, count in enumerate(frames.tolist()):
        body = BODY.pack(mark, count) + b"".join(rows[at[row] : at[row + 1]].tobytes() for rows, at in parts)
        snapshots.append(HEAD.pack(SNAPSHOT_FORMAT, 0, zlib.crc32(body)) + body)
    return snapshots


def thaw(plan: Plan, fingerprint: str, state: State, slots: Int64[Tensor, "B"], data: Sequence[bytes]) -> None:
    """Puts snapshots back into sources and memories; the other rings are the program's to recompute.

    Raises SnapshotMismatch, before anything changes, when one is damaged or belongs to another program.
    """
    frames = torch.tensor([check(row, blob, fingerprint) for row, blob in enumerate(data)], dtype=torch.int64)
    spans = tail_spans(plan, frames)
    sizes = sum(
        (span.lengths * plan.graph.values[index].channels for index, span in spans.items()), torch.zeros_like(frames)
    ) + sum(hidden.shape[1] for hidden in state.hidden.values())
    itemsize = np.dtype(np.float32).itemsize
    for row, (blob, size) in enumerate(zip(data, sizes.tolist(), strict=True)):
        expected = HEAD.size + BODY.size + size * itemsize
        if len(blob) != expected:
            raise SnapshotMismatch(
                f"snapshot {row} has {len(blob)} bytes; this program's at {int(frames[row])} frames has {expected}"
            )
    numbers = [np.frombuffer(blob, np.float32, offset=HEAD.size + BODY.size) for blob in data]
    at = [0] * len(data)

    def next_rows(lengths: list[int], channels: int) -> Tensor:
        pieces = []
        for row, length in enumerate(lengths):
            pieces.append(numbers[row][at[row] : at[row] + length * channels])
            at[row] += length * channels
        return torch.from_numpy(np.concatenate(pieces)).view(-1, channels)

    stores = [state.stores[index] for index in spans]
    tails = [next_rows(span.lengths.tolist(), store.channels) for span, store in zip(spans.values(), stores, strict=True)]
    memories = [next_rows([1] * len(data), hidden.shape[1]) for hidden in state.hidden.values()]
    places = [span.ring_rows(slots, store.depth) for span, store in zip(spans.values(), stores, strict=True)]
    there, *sent = state.send(slots, *places, *tails, *memories)
    state.frames.index_copy_(0, slots, frames)
    for store, rows, tail in zip(stores, sent, sent[len(stores) :], strict=False):
        store.ring.index_copy_(0, rows, tail)
    for hidden, memory in zip(state.hidden.values(), sent[2 * len(stores) :], strict=True):
        hidden.index_copy_(0, there, memory)


def check(row: int, blob: bytes, fingerprint: str) -> int:
    """How many frames the stream had. Raises SnapshotMismatch for a blob that is damaged, or of another program."""
    if len(blob) < HEAD.size + BODY.size:
        raise SnapshotDamaged(f"snapshot {row} is cut off: {len(blob)} bytes")
    version, _, checksum = HEAD.unpack_from(blob)
    if version != SNAPSHOT_FORMAT:
        raise SnapshotMismatch(f"snapshot {row} has format {version}; this program reads format {SNAPSHOT_FORMAT}")
    if zlib.crc32(memoryview(blob)[HEAD.size :]) != checksum:
        raise SnapshotDamaged(f"snapshot {row} is damaged: its checksum does not match its {len(blob)} bytes")
    mark, frames = BODY.unpack_from(blob, HEAD.size)
    if mark.hex() != fingerprint:
        raise SnapshotMismatch(
            f"snapshot {row} is of a program with state fingerprint {mark.hex()}; this program's is {fingerprint}"
        )
    return int(frames)
