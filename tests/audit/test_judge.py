"""The checker is checked: a flawless history passes, and each way of being wrong is seen as what it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from service.audit import AuditReport, judge
from service.audit.history import Letter, Offered, OfferedStream, offered
from service.codec.interface import Chunks, Prediction, Reason, Refusal
from service.transport.interface import RecordBatch

TAPS = 3


class MovingSum:
    """y[j] = x[j] + x[j+1] + x[j+2]: three frames make the first output, and a stream of fewer has no legal end."""

    decimation = 1
    tolerance = 1e-5

    def ready(self, frames: int) -> int:
        return max(0, frames - TAPS + 1)

    def total(self, frames: int) -> int | None:
        return self.ready(frames) if frames >= TAPS else None

    def offline(self, stream: OfferedStream) -> np.ndarray:
        x = stream.samples().astype(np.float64)[:, 0]
        return (
            np.convolve(x, np.ones(TAPS), "valid").astype(np.float32)[:, None] if len(x) >= TAPS else np.zeros((0, 1), np.float32)
        )

    def streamed(self, offered: Sequence[OfferedStream]) -> list[np.ndarray]:
        return [self.offline(stream) for stream in offered]


def history(begins_at: int = 0) -> Offered:
    """Two keys over six records of two samples; `a` ends after its second record and begins again; one record is refused."""
    keys: list[bytes | None] = [b"a", b"b", b"a", b"a", b"b", b"a", b"a", b"b"]
    values = [b"x", b"x", b"x", None, b"bad", b"x", b"x", b"x"]
    offsets = list(range(begins_at, begins_at + 8))
    lengths = np.array([0 if value in (None, b"bad") else 2 for value in values], np.int64)
    chunks = Chunks(
        samples=np.arange(lengths.sum(), dtype=np.float32)[:, None] / 7,
        lengths=lengths,
        times=np.array(offsets) * 2.0,
        rates=np.full(8, 1000.0),
        ends=np.array([value is None for value in values]),
        refused={4: Refusal(Reason.DECODE, "not JSON")},
    )
    batch = RecordBatch("in", 0, offsets, [0] * 8, keys, values)
    return offered(0, [(batch, chunks)], begins_at)


def flawless(history: Offered) -> list[Prediction]:
    oracle, out = MovingSum(), []
    for stream in history.streams:
        y = oracle.offline(stream)
        for record in stream.records:
            begin, end = oracle.ready(record.first), oracle.ready(record.first + len(record.samples))
            if end > begin:
                t = record.time + (begin - record.first)
                out.append(Prediction(stream.key, stream.stream, begin, t, y[begin:end], "in", 0, record.offset))
    return sorted(out, key=lambda prediction: prediction.offset)


def verdict(published: list[Prediction], begins_at: int = 0, letters: tuple[Letter, ...] | None = None) -> AuditReport:
    refused = (Letter(0, begins_at + 4, "decode"),)
    return judge([history(begins_at)], published, refused if letters is None else letters, MovingSum())


def test_a_flawless_history_passes() -> None:
    report = verdict(flawless(history()))
    assert report.passed(exact=True)
    assert (report.expected, report.streams, report.records) == (3, 3, 7)


def test_a_missing_prediction_is_seen() -> None:
    report = verdict(flawless(history())[1:])
    assert report.missing == 1
    assert not report.passed(exact=False)


def test_a_duplicate_is_seen() -> None:
    published = flawless(history())
    report = verdict([*published, published[-1]])
    assert (report.duplicates, report.missing, report.unexpected) == (1, 0, 0)
    assert not report.passed(exact=False)


@pytest.mark.parametrize(
    "change",
    [{"stream": 77}, {"index": 5}, {"offset": 3}, {"t": 1e9}, {"key": "c"}, {"y": np.zeros((9, 1), np.float32)}],
    ids=lambda change: next(iter(change)),
)
def test_a_prediction_that_nothing_calls_for_is_unexpected(change: dict[str, object]) -> None:
    published = flawless(history())
    report = verdict([replace(published[0], **change), *published[1:]])
    assert (report.unexpected, report.missing) == (1, 1)
    assert not report.passed(exact=False)


def test_predictions_of_a_key_out_of_order_are_seen() -> None:
    published = flawless(history())
    assert verdict(published[::-1]).out_of_order == 1


def test_other_bits_fail_only_the_exact_promise() -> None:
    published = flawless(history())
    y = np.nextafter(published[0].y, np.float32(np.inf))
    report = verdict([replace(published[0], y=y), *published[1:]])
    assert not report.bit_equal
    assert report.passed(exact=False)
    assert not report.passed(exact=True)


@pytest.mark.parametrize("wrong", [1.001, np.nan, np.inf])
def test_another_value_fails(wrong: float) -> None:
    published = flawless(history())
    report = verdict([replace(published[0], y=published[0].y * np.float32(wrong)), *published[1:]])
    assert not report.passed(exact=False)


def test_lost_and_doubled_dead_letters_are_seen() -> None:
    published, letter = flawless(history()), Letter(0, 4, "decode")
    assert verdict(published, letters=()).letters_missing == 1
    assert verdict(published, letters=(letter, letter)).letters_unexpected == 1
    report = verdict(published, letters=(Letter(0, 4, "shape"),))
    assert (report.letters_missing, report.letters_unexpected) == (1, 1)
    assert not report.passed(exact=False)


def test_a_prediction_too_large_for_its_topic_is_a_dead_letter_instead() -> None:
    published = flawless(history())
    letters = (Letter(0, 4, "decode"), Letter(0, published[0].offset, "output_too_large"))
    assert verdict(published[1:], letters=letters).passed(exact=True)
    assert not verdict(published, letters=letters).passed(exact=True)


def test_tiny_outputs_are_held_to_the_same_relative_bound() -> None:
    class Tiny(MovingSum):
        def offline(self, stream: OfferedStream) -> np.ndarray:
            return super().offline(stream) * np.float32(1e-6)

    published = [replace(prediction, y=prediction.y * np.float32(1e-6)) for prediction in flawless(history())]
    letters = (Letter(0, 4, "decode"),)
    assert judge([history()], published, letters, Tiny()).within_tolerance
    apart = [replace(prediction, y=prediction.y * np.float32(1.001)) for prediction in published]
    assert not judge([history()], apart, letters, Tiny()).within_tolerance


def test_streams_whose_beginning_the_log_lost_are_not_judged() -> None:
    """`a`'s second life begins within the log; its first, and `b`'s, may have begun before it."""
    whole = flawless(history(begins_at=10))
    older = [replace(prediction, stream=3) if prediction.stream < 15 else prediction for prediction in whole]
    report = verdict(older, begins_at=10)
    assert report.unjudged == 2
    assert report.passed(exact=True)
