"""What may come in at all, in every format, and the shape of what comes out."""

from __future__ import annotations

import numpy as np
import pytest

from service.codec import Limits, Reason
from service.codec.avro_records import AvroChunks, avro_chunk
from service.codec.avro_schema import KnownSchema, packaged_schema
from service.codec.chunks import ChunkDecoder
from service.codec.json_records import JsonChunks, json_chunk
from service.codec.raw_records import RawChunks

SAMPLES = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
RATE = 50.0
FORMATS = {
    "json": (JsonChunks(3, RATE), json_chunk(7.0, SAMPLES)),
    "avro": (AvroChunks(3, RATE, packaged_schema()), avro_chunk(7.0, SAMPLES, RATE, packaged_schema(), None)),
    "confluent": (
        AvroChunks(3, RATE, KnownSchema(packaged_schema(), [9])),
        avro_chunk(7.0, SAMPLES, RATE, packaged_schema(), 9),
    ),
    "raw": (RawChunks(3, RATE), SAMPLES.tobytes()),
}


@pytest.fixture(params=FORMATS)
def layout(request):
    return FORMATS[request.param]


def test_only_what_is_at_fault_is_refused(layout):
    format, good = layout
    decoder = ChunkDecoder(format, 3, Limits(record_bytes=len(good), key_bytes=4))
    keys = [b"a", None, b"b", b"\xff\x00", b"12345", b"12345", None, b"c", b"d"]
    values = [good, good, None, good, good, None, None, b"", good + b"!"]
    chunks = decoder.decode(keys, values, [7] * len(keys))
    assert {row: refusal.reason for row, refusal in chunks.refused.items()} == {
        1: Reason.NO_KEY,
        4: Reason.TOO_LARGE,
        5: Reason.TOO_LARGE,
        6: Reason.NO_KEY,
        7: Reason.EMPTY,
        8: Reason.TOO_LARGE,
    }
    assert chunks.ends.tolist() == [False, False, True, False, False, False, False, False, False]
    assert chunks.lengths.tolist() == [2, 0, 0, 2, 0, 0, 0, 0, 0]
    assert chunks.samples.tobytes() == SAMPLES.tobytes() * 2
    assert chunks.times[[0, 3]].tolist() == [7.0, 7.0]
    assert chunks.rates[[0, 3]].tolist() == [RATE, RATE]


def test_a_time_far_from_the_kafka_timestamp_is_refused():
    """Seconds for milliseconds, a clock that was never set, one far ahead; without a timestamp there is nothing to differ from."""
    hour = 3_600_000.0
    now = 1_700_000_000_000
    decoder = ChunkDecoder(JsonChunks(3, RATE), 3, Limits(time_apart=hour))
    times = [now, now + hour, now - hour, now + hour + 1, now - hour - 1, now / 1000, 0.0, 5.0]
    values = [json_chunk(time, SAMPLES) for time in times]
    stamps = [now] * 7 + [-1]
    chunks = decoder.decode([b"a"] * 8, values, stamps)
    assert {row: refusal.reason for row, refusal in chunks.refused.items()} == dict.fromkeys([3, 4, 5, 6], Reason.TIME)
    assert "19656.2 days before the Kafka timestamp; milliseconds are expected" in chunks.refused[5].message
    for value, time, stamp in zip(values, times, stamps, strict=True):
        alone = decoder.decode([b"a"], [value], [stamp])
        assert bool(alone.refused) == (abs(time - stamp) > hour and stamp >= 0)


def test_a_key_of_the_service_itself_is_refused(layout):
    """Beside snapshots under such a key lie records that a restart takes for its own."""
    format, good = layout
    keys = [b"\x00penstock.refused.7", b"\x00penstock.", b"\x00", b"\x00penstock", b"penstock.refused.7"]
    chunks = ChunkDecoder(format, 3, Limits()).decode(keys * 2, [good] * 5 + [None] * 5, [7] * 10)
    assert {row: refusal.reason for row, refusal in chunks.refused.items()} == dict.fromkeys([0, 1, 5, 6], Reason.RESERVED_KEY)


def test_no_records_are_no_chunks(layout):
    chunks = ChunkDecoder(layout[0], 3, Limits()).decode([], [], [])
    assert chunks.samples.shape == (0, 3)
    assert chunks.lengths.shape == (0,)
    assert not chunks.refused


def test_ends_alone_have_no_samples(layout):
    chunks = ChunkDecoder(layout[0], 3, Limits()).decode([b"a", b"b"], [None, None], [7, 7])
    assert chunks.samples.shape == (0, 3)
    assert chunks.ends.all()
    assert not chunks.refused


def test_a_batch_of_nothing_but_bad_records_has_no_samples(layout):
    chunks = ChunkDecoder(layout[0], 3, Limits(samples=1)).decode([b"a"] * 2, [layout[1]] * 2, [7, 7])
    assert [refusal.reason for refusal in chunks.refused.values()] == [Reason.TOO_LARGE] * 2
    assert chunks.samples.shape == (0, 3)


def test_the_fingerprint_tells_apart_whatever_decides_about_samples():
    decoders = [ChunkDecoder(format, 3, Limits()) for format, _ in FORMATS.values()]
    decoders += [ChunkDecoder(JsonChunks(2, RATE), 2, Limits()), ChunkDecoder(JsonChunks(3, 1.0), 3, Limits())]
    decoders += [ChunkDecoder(JsonChunks(3, RATE), 3, Limits(samples=5))]
    assert len({decoder.fingerprint for decoder in decoders}) == len(decoders)
    assert decoders[0].fingerprint == ChunkDecoder(JsonChunks(3, RATE), 3, Limits()).fingerprint
