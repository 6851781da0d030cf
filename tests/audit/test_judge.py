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


class Overflowing(MovingSum):
    """The first output of a stream is infinite."""

    def offline(self, stream: OfferedStream) -> np.ndarray:
        y = super().offline(stream)
        y[:1] = np.inf
        return y


def overflown() -> list[Prediction]:
    infinite = np.full((1, 1), np.inf, np.float32)
    return [
        replace(found, y=np.concatenate([infinite, found.y[1:]])) if found.index == 0 else found for found in flawless(history())
    ]


def test_an_infinite_output_is_right_where_it_should_be() -> None:
    letters = (Letter(0, 4, "decode"),)
    report = judge([history()], overflown(), letters, Overflowing())
    assert report.passed(exact=True)
    assert report.max_abs_difference < 1e-5
    assert not judge([history()], flawless(history()), letters, Overflowing()).within_tolerance
    assert not judge([history()], overflown(), letters, MovingSum()).within_tolerance


def test_beside_an_infinite_output_others_are_held_to_the_same_bound() -> None:
    first, *others = overflown()
    apart = first.y.copy()
    apart[1:] *= np.float32(1.001)
    assert len(apart) > 1
    letters = (Letter(0, 4, "decode"),)
    assert not judge([history()], [replace(first, y=apart), *others], letters, Overflowing()).within_tolerance


def test_lost_and_doubled_dead_letters_are_seen() -> None:
    published, letter = flawless(history()), Letter(0, 4, "decode")
    assert verdict(published, letters=()).letters_missing == 1
    assert verdict(published, letters=(letter, letter)).letters_unexpected == 1
    report = verdict(published, letters=(Letter(0, 4, "shape"),))
    assert (report.letters_missing, report.letters_unexpected) == (1, 1)
    assert not report.passed(exact=False)


@pytest.mark.parametrize("reasons", [["step_failed"], ["kills"], ["step_failed", "kills"]], ids="+".join)
def test_letters_on_trust_are_believed_once(reasons: list[str]) -> None:
    """The record at fault, which nothing but its letter tells, is not among what was offered."""
    published = flawless(history(begins_at=1))
    letters = [Letter(0, 5, "decode"), *(Letter(0, 0, reason) for reason in reasons)]
    once = judge([history(begins_at=1)], published, letters[:2], MovingSum())
    assert (once.letters_unexpected, once.on_trust) == (0, 1)
    twice = judge([history(begins_at=1)], published, [*letters, letters[1]], MovingSum())
    assert (twice.letters_unexpected, twice.on_trust) == (len(reasons), 1)
    assert not twice.passed(exact=False)


def test_dead_letters_that_may_have_gone_with_age_are_not_missed() -> None:
    published = flawless(history())
    report = judge([history()], published, (), MovingSum(), reach={0: 5})
    assert report.passed(exact=True)
    assert (report.letters_missing, report.letters_gone) == (0, 1)
    report = judge([history()], published, (), MovingSum(), reach={0: 4})
    assert (report.letters_missing, report.letters_gone) == (1, 0)
    assert judge([history()], published, (Letter(0, 3, "decode"),), MovingSum(), reach={0: 5}).letters_unexpected == 1


def test_a_prediction_too_large_for_its_topic_is_a_dead_letter_instead() -> None:
    published = flawless(history())
    letters = (Letter(0, 4, "decode"), Letter(0, published[0].offset, "output_too_large"))
    assert verdict(published[1:], letters=letters).passed(exact=True)
    assert verdict(published[1:], letters=(*letters, letters[1])).letters_unexpected == 1
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


class Padded(MovingSum):
    """A stream that ends gives one output more."""

    def total(self, frames: int) -> int | None:
        return self.ready(frames) + 1


def ended(begins_at: int, taken: int, oracle: MovingSum) -> tuple[Offered, list[Prediction]]:
    """`a`: two records of one sample, and its end; retention has `taken` so many of the three. `a` begins again then. With what
    was published when all were there."""
    values: list[bytes | None] = [b"x", b"x", None, b"x"]

    def offer(first: int) -> Offered:
        offsets = list(range(begins_at + first, begins_at + 4))
        lengths = np.array([value is not None for value in values[first:]], np.int64)
        times, ends = np.array(offsets) * 2.0, lengths == 0
        samples = np.ones((int(lengths.sum()), 1), np.float32)
        chunks = Chunks(samples, lengths, times, np.full(len(offsets), 1000.0), ends, {})
        keys: list[bytes | None] = [b"a"] * len(offsets)
        return offered(0, [(RecordBatch("in", 0, offsets, [0] * len(offsets), keys, values[first:]), chunks)], offsets[0])

    end = Prediction("a", begins_at, 0, 2.0 * begins_at + 1, np.ones((1, 1), np.float32), "in", 0, begins_at + 2)
    return offer(taken), [end] if oracle.total(2) else []


@pytest.mark.parametrize("taken", [1, 2])
def test_the_end_of_a_stream_whose_beginning_is_gone_is_not_judged(taken: int) -> None:
    """It may have published, or been a dead letter; once."""
    letter = Letter(0, 12, "length")
    there, published = ended(10, taken, Padded())
    assert published
    assert judge([there], published, [], Padded()).passed(exact=True)
    there, published = ended(10, taken, MovingSum())
    assert judge([there], published, [letter], MovingSum()).passed(exact=True)
    assert judge([there], published, [], MovingSum()).passed(exact=True)
    assert judge([there], published, [letter, letter], MovingSum()).letters_unexpected == 1
    assert judge([there], published, [Letter(0, 13, "length")], MovingSum()).letters_unexpected == 1


def test_a_prediction_of_an_older_stream_does_not_come_after_its_end() -> None:
    there, [published] = ended(10, 2, Padded())
    assert judge([there], [replace(published, offset=13)], [], Padded()).unexpected == 1
    assert judge([there], [replace(published, stream=12)], [], Padded()).unexpected == 1


def test_the_record_that_ended_a_stream_by_another_rate_may_have_completed_its_last_output() -> None:
    """Retention has taken all but this record, which begins a stream with predictions of its own."""
    times, chunks = np.array([24.0, 26.0]), np.ones((8, 1), np.float32)
    found = Chunks(chunks, np.array([4, 4]), times, np.full(2, 1000.0), np.zeros(2, np.bool_), {})
    there = offered(0, [(RecordBatch("in", 0, [12, 13], [0, 0], [b"a", b"a"], [b"x", b"x"]), found)], 12)
    own = flawless(there)
    end = Prediction("a", 10, 0, 21.0, np.ones((1, 1), np.float32), "in", 0, 12)
    assert judge([there], own, [], Padded()).unexpected == 0
    assert judge([there], [end, *own], [], Padded()).unexpected == 0
    assert judge([there], [replace(end, offset=13), *own], [], Padded()).unexpected == 1
