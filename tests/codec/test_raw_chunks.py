"""Raw sensor chunks: bytes of float32, timed by Kafka."""

from __future__ import annotations

import numpy as np
import pytest

from service.codec import Limits, Reason
from service.codec.chunks import ChunkDecoder
from service.codec.raw_records import RawChunks

GOOD = np.arange(6, dtype="<f4").tobytes()


def decoded(values, timestamps):
    return ChunkDecoder(RawChunks(3, 10.0), 3, Limits()).decode([b"k"] * len(values), values, timestamps)


def test_the_time_is_kafka_s_and_the_rate_the_input_s():
    chunks = decoded([GOOD, GOOD], [1700000000000, 0])
    assert chunks.samples.tolist() == [[0, 1, 2], [3, 4, 5]] * 2
    assert chunks.times.tolist() == [1700000000000.0, 0.0]
    assert chunks.rates.tolist() == [10.0, 10.0]


@pytest.mark.parametrize(
    ("value", "timestamp", "reason"),
    [
        (GOOD[:-1], 5, Reason.SHAPE),
        (GOOD[:4], 5, Reason.SHAPE),
        (GOOD, -1, Reason.TIME),
        (GOOD[:8] + np.array(np.nan, "<f4").tobytes(), 5, Reason.NON_FINITE),
        (GOOD[:8] + np.array(-np.inf, "<f4").tobytes(), 5, Reason.NON_FINITE),
    ],
)
def test_a_bad_record_is_refused_and_harms_no_other(value, timestamp, reason):
    chunks = decoded([GOOD, value, GOOD], [5, timestamp, 5])
    assert {row: refusal.reason for row, refusal in chunks.refused.items()} == {1: reason}
    assert chunks.samples.tobytes() == GOOD * 2
