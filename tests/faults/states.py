"""The state of every key at the end: what a clean stop left in the snapshot topic, against a fresh program fed the whole input."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from service.app import Application
from service.audit.history import OfferedStream, offered
from service.audit.read import on_trust, read_letters
from service.extent import EVERYTHING
from service.restore import OWN_KEYS
from service.state import Snapshot
from service.streaming import Program, Ragged
from service.transport.interface import Partition, Reader, Transport

_TIMEOUT = 20.0

States = dict[tuple[int, str], Snapshot]
"""By partition and key."""


def wrong_states(application: Application, transport: Transport) -> list[str]:
    """The keys whose state differs, is missing or should not be there. All input must be committed, and the worker stopped."""
    config, reader = application.config, transport.reader()
    failed = on_trust(read_letters(config, reader, EVERYTHING).found)
    expected: States = {}
    found: States = {}
    for number in range(reader.partitions(config.input.topic, _TIMEOUT) or 0):
        partition = Partition(config.input.topic, number)
        low, high = reader.watermarks(partition, _TIMEOUT)
        left_out = failed.get(number, set())
        batches = [
            batch.take([row for row, offset in enumerate(batch.offsets) if offset not in left_out])
            for batch in reader.read(partition, low, high, _TIMEOUT)
        ]
        records = [batch for batch in batches if len(batch)]
        decoded = [(batch, application.decoder.decode(batch.keys, batch.values, batch.timestamps)) for batch in records]
        expected |= computed(application.program, offered(number, decoded, low).streams)
        found |= _left(reader, Partition(config.snapshot_topic, number))
    reader.close()
    return differences(expected, found)


def differences(expected: States, found: States) -> list[str]:
    """Where the two are not the same to the bit."""
    return [
        f"key {key!r} of partition {number}: {_words(found.get((number, key)))}, not {_words(expected.get((number, key)))}"
        for number, key in sorted(expected.keys() | found.keys())
        if expected.get((number, key)) != found.get((number, key))
    ]


def computed(program: Program, streams: Sequence[OfferedStream]) -> States:
    """The snapshots that streams which go on would have, each fed its whole input in one step."""
    going = [stream for stream in streams if not stream.ended]
    if not going:
        return {}
    signals = [torch.from_numpy(stream.samples()) for stream in going]
    state = program.new_state(slots=len(going) + 1)
    slots = torch.arange(1, len(going) + 1)
    program.step(state, slots, Ragged(torch.cat(signals), torch.tensor([len(signal) for signal in signals])))
    states = {}
    for stream, blob in zip(going, program.freeze(state, slots), strict=True):
        last = stream.records[-1]
        states[stream.partition, stream.key] = Snapshot(
            stream.stream, (last.offset + 1,), stream.frames, last.first, last.time, stream.rate, blob
        )
    return states


def _left(reader: Reader, partition: Partition) -> States:
    low, high = reader.watermarks(partition, _TIMEOUT)
    latest: dict[tuple[int, str], bytes] = {}
    for batch in reader.read(partition, low, high, _TIMEOUT):
        for key, value in zip(batch.keys, batch.values, strict=True):
            at = (partition.partition, (key or b"").decode("utf-8", "backslashreplace"))
            if value is None:
                latest.pop(at, None)
            elif key is not None and not key.startswith(OWN_KEYS):
                latest[at] = value
    return {at: Snapshot.from_bytes(value) for at, value in latest.items()}


def _words(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "no state"
    return f"{snapshot.frames} frames of stream {snapshot.stream} at {snapshot.positions[0]} ({hash(snapshot.blob) & 0xFFFF:04x})"
