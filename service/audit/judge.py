"""The verdict: a pure function over what was offered and what was published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32

from service.audit.history import Letter, Offered, OfferedStream
from service.codec.interface import Prediction, Reason
from service.extent import Offsets

ON_TRUST = {Reason.STEP_FAILED, Reason.KILLS}
"""Dead letters that nothing in their records calls for."""

Identity = tuple[int, str, int, int]


class Oracle(Protocol):
    """Both opinions of one stream's outputs, and its timeline. Outputs are `[ready, C_out]`, as readers find them."""

    @property
    def decimation(self) -> float: ...

    @property
    def tolerance(self) -> float:
        """How far a prediction may be from the plain module, relative to the largest output of its stream."""

    def ready(self, frames: int) -> int: ...

    def total(self, frames: int) -> int | None:
        """Outputs of a stream that ends at `frames`; None where the module raises at that length."""

    def offline(self, stream: OfferedStream) -> Float32[np.ndarray, "M C_out"]: ...

    def streamed(self, streams: Sequence[OfferedStream]) -> list[Float32[np.ndarray, "M C_out"]]: ...


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Counts are of prediction records, and of dead letters. `bit_equal` compares with a fresh program, `max_abs_difference`
    with the module. `letters_gone` and `predictions_gone` count dead letters and predictions that are not there because their topic
    may have lost them with age, `on_trust` the records that were refused for what they did to a step or to the process."""

    records: int
    streams: int
    expected: int
    missing: int
    duplicates: int
    unexpected: int
    out_of_order: int
    unjudged: int
    letters_missing: int
    letters_unexpected: int
    letters_gone: int
    predictions_gone: int
    on_trust: int
    max_abs_difference: float
    within_tolerance: bool
    bit_equal: bool
    examples: tuple[str, ...] = ()

    def passed(self, exact: bool) -> bool:
        """With `exact` numerics, the same bits are part of the promise."""
        wrong = self.missing + self.duplicates + self.unexpected + self.out_of_order
        wrong += self.letters_missing + self.letters_unexpected
        return wrong == 0 and self.within_tolerance and (self.bit_equal or not exact)

    @property
    def hollow(self) -> bool:
        """Whether nothing at all was compared, since all that there is has begun before, or gone before, what the topics hold."""
        return self.expected == 0 and self.unjudged + self.predictions_gone > 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Expected:
    length: int
    offset: int
    time: float
    key: bytes


def judge(
    partitions: Sequence[Offered],
    published: Sequence[Prediction],
    letters: Sequence[Letter],
    oracle: Oracle,
    within: Mapping[int, Offsets] | None = None,
    reach: Mapping[int, int] | None = None,
    aged: Callable[[int, bytes, int], bool] | None = None,
    group: int = 64,
) -> AuditReport:
    """Match predictions by input partition, key, stream and index, and dead letters by record; then compare values, `group`
    streams at a time.

    A prediction that was too large for its topic is a dead letter instead. `published` holds the predictions of each output
    partition in log order; `within`, by input partition, the offsets of the records that are judged (None: all); `reach` the
    one from which on all dead letters are still there (None: from the first); `aged` whether the output topic may have lost what
    an input partition's record led to, by partition, key and offset. A stream whose beginning the log no longer holds is not
    judged, nor are its predictions beyond that none is there twice, nor whether it ended at a legal length.
    """

    def meant(stream: OfferedStream, offset: int) -> bool:
        return within is None or offset in within[stream.partition]

    offered = [stream for partition in partitions for stream in partition.streams]
    begun = {(prediction.partition, prediction.key, prediction.stream) for prediction in published}
    whole = [stream for stream in offered if stream.whole or (stream.partition, stream.key, stream.stream) in begun]
    cut = [stream for stream in offered if not stream.whole and (stream.partition, stream.key, stream.stream) not in begun]
    older = _Older.of(partitions, [stream for stream in offered if not stream.whole], cut)
    expected: dict[Identity, _Expected] = {}
    too_large = {(letter.partition, letter.offset) for letter in letters if letter.reason == Reason.OUTPUT_TOO_LARGE}
    for stream in whole:
        for index, wanted in _expected(stream, oracle):
            if meant(stream, wanted.offset):
                expected[stream.partition, stream.key, stream.stream, index] = wanted
    count: Counter[Identity] = Counter()
    unjudged: Counter[Identity] = Counter()
    unexpected, examples = 0, []
    outputs: dict[Identity, Float32[np.ndarray, "m C_out"]] = {}
    for prediction in published:
        identity = (prediction.partition, prediction.key, prediction.stream, prediction.index)
        if older.led_to(prediction):
            unjudged[identity] += 1
            continue
        fits = expected.get(identity)
        if fits is None or (fits.length, fits.offset) != (len(prediction.y), prediction.offset) or _apart(fits, prediction):
            unexpected += 1
            examples.append(f"unexpected: {_words(identity)}, {len(prediction.y)} outputs, completed by offset {prediction.offset}")
            continue
        count[identity] += 1
        outputs[identity] = prediction.y
    # A record may lead to two predictions, at its stream's end and at the next one's beginning; one of them may be small enough.
    excused = {identity for identity, wanted in expected.items() if (identity[0], wanted.offset) in too_large}
    groundless = {(identity[0], expected[identity].offset) for identity in excused}
    groundless -= {(identity[0], expected[identity].offset) for identity in excused if identity not in count}
    for identity in excused:
        if identity not in count:
            del expected[identity]
    absent = [identity for identity in expected if identity not in count]
    lost = {each for each in absent if aged is not None and aged(each[0], expected[each].key, expected[each].offset)}
    absent = [identity for identity in absent if identity not in lost]
    times = count + unjudged
    examples += [f"missing: {_words(identity)}" for identity in absent[:5]]
    examples += [f"{number} times: {_words(identity)}" for identity, number in times.items() if number > 1][:5]
    due = Counter(letter for partition in partitions for letter in partition.letters)
    due.update(letter for stream in whole for letter in _illegal_end(stream, oracle) if meant(stream, letter.offset))
    given = Counter(letter for letter in letters if letter.reason not in {Reason.OUTPUT_TOO_LARGE, *ON_TRUST})
    given -= Counter(letter for letter in given if letter.reason == Reason.LENGTH and letter[:2] in older.ends)
    gone = Counter(
        {letter: count for letter, count in (due - given).items() if letter.offset < (reach or {}).get(letter.partition, 0)}
    )
    due -= gone
    examples += [f"dead letter missing: {letter}" for letter in list(due - given)[:3]]
    given.update(letter for letter in letters if letter.reason == Reason.OUTPUT_TOO_LARGE and letter[:2] in groundless)
    examples += [f"dead letter unexpected: {letter}" for letter in list(given - due)[:3]]
    # Whatever is believed of a record, it is said once.
    believed = Counter(letter[:2] for letter in letters if letter.reason in ON_TRUST)
    believed.update(letter[:2] for letter in letters if letter.reason == Reason.OUTPUT_TOO_LARGE and letter[:2] not in groundless)
    again = believed - Counter(believed.keys())
    examples += [f"dead letter again: offset {offset} of input partition {partition}" for partition, offset in list(again)[:3]]
    worst, close, equal = _values(whole, outputs, oracle, group)
    return AuditReport(
        records=sum(meant(stream, record.offset) for stream in offered for record in stream.records),
        streams=len(offered),
        expected=len(expected) - len(lost),
        missing=len(absent),
        duplicates=times.total() - len(times),
        unexpected=unexpected,
        out_of_order=_out_of_order(published),
        unjudged=len(cut),
        letters_missing=(due - given).total(),
        letters_unexpected=(given - due).total() + again.total(),
        letters_gone=gone.total(),
        predictions_gone=len(lost),
        on_trust=len({letter[:2] for letter in letters if letter.reason in ON_TRUST}),
        max_abs_difference=worst,
        within_tolerance=close,
        bit_equal=equal,
        examples=tuple(examples[:15]),
    )


@dataclass(frozen=True, slots=True)
class _Older:
    """What the log holds of streams whose beginnings it does not: where it `begins`, by partition; `until` which record, by
    partition and key; the null values that are their `ends`. The first stream of a key may be one of them, or have ended it."""

    begins: dict[int, int]
    until: dict[tuple[int, str], int]
    ends: set[tuple[int, int]]

    @classmethod
    def of(cls, partitions: Sequence[Offered], first: Sequence[OfferedStream], cut: Sequence[OfferedStream]) -> _Older:
        alone = {(partition.partition, key): offset for partition in partitions for key, offset in partition.ends.items()}
        ends = {(number, offset) for (number, _), offset in alone.items()}
        return cls(
            {partition.partition: partition.begins_at for partition in partitions},
            alone
            | {(stream.partition, stream.key): stream.records[0].offset for stream in first}
            | {(stream.partition, stream.key): stream.records[-1].offset for stream in cut},
            ends | {(stream.partition, stream.records[-1].offset) for stream in cut if stream.ended},
        )

    def led_to(self, prediction: Prediction) -> bool:
        until = self.until.get((prediction.partition, prediction.key), -1)
        return prediction.offset <= until and prediction.stream < self.begins[prediction.partition]


def _expected(stream: OfferedStream, oracle: Oracle) -> Iterator[tuple[int, _Expected]]:
    time, start = np.nan, 0
    for record in stream.records:
        last = record.first + len(record.samples)
        if len(record.samples):
            time, start = record.time, record.first
        begin, end = oracle.ready(record.first), oracle.ready(last)
        if record.ends:
            end = max(end, oracle.total(last) or 0)
        if end > begin:
            at = time + (begin * oracle.decimation - start) * 1000.0 / stream.rate
            yield begin, _Expected(end - begin, record.offset, at, stream.raw_key)


def _words(identity: Identity) -> str:
    partition, key, stream, index = identity
    return f"key {key!r}, stream {stream}, index {index} of input partition {partition}"


def _illegal_end(stream: OfferedStream, oracle: Oracle) -> Iterator[Letter]:
    if stream.ended and stream.records[-1].null and oracle.total(stream.frames) is None:
        yield Letter(stream.partition, stream.records[-1].offset, Reason.LENGTH)


def _apart(expected: _Expected, prediction: Prediction) -> bool:
    return abs(expected.time - prediction.t) > 1e-3


def _out_of_order(published: Sequence[Prediction]) -> int:
    latest: dict[tuple[int, str], tuple[int, int, int]] = {}
    wrong = 0
    for prediction in published:
        key = (prediction.partition, prediction.key)
        at = (prediction.offset, prediction.stream, prediction.index)
        wrong += at < latest.get(key, at)
        latest[key] = max(at, latest.get(key, at))
    return wrong


def _values(
    streams: Sequence[OfferedStream], outputs: dict[Identity, Float32[np.ndarray, "m C_out"]], oracle: Oracle, group: int
) -> tuple[float, bool, bool]:
    worst, within, equal = 0.0, True, True
    seen: dict[tuple[int, str, int], list[tuple[int, Float32[np.ndarray, "m C_out"]]]] = {}
    for identity, y in outputs.items():
        seen.setdefault(identity[:3], []).append((identity[3], y))
    judged = [stream for stream in streams if (stream.partition, stream.key, stream.stream) in seen]
    for begin in range(0, len(judged), group):
        members = judged[begin : begin + group]
        for stream, fresh in zip(members, oracle.streamed(members), strict=True):
            truth = oracle.offline(stream)
            bound = oracle.tolerance * max(float(np.abs(truth[np.isfinite(truth)]).max(initial=0.0)), 1e-30)
            for index, y in seen[stream.partition, stream.key, stream.stream]:
                right = truth[index : index + len(y)]
                with np.errstate(invalid="ignore"):
                    difference = np.abs(right.astype(np.float64) - y)
                difference[(y == right) | (np.isnan(y) & np.isnan(right))] = 0.0  # infinities too
                apart = float(difference.max(initial=0.0))
                worst = max(worst, apart) if apart == apart else float("nan")
                within = within and apart <= max(bound, 1e-12)
                equal = equal and fresh[index : index + len(y)].tobytes() == np.ascontiguousarray(y).tobytes()
    return worst, within, equal
