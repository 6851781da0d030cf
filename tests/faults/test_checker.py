"""The checker is checked against histories that each of the classic mistakes would leave.

The processor below is the smallest that is exactly once: it knows no Kafka and keeps all state in a dictionary. With a mistake
built in it leaves what a broken service would leave, and the verdict has to be what that mistake deserves.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from enum import Enum, auto

import numpy as np
import pytest

from service.audit import AuditReport, judge
from service.audit.history import Fed, Offered, OfferedStream, offered
from service.codec.interface import Chunks, Prediction
from service.state import Snapshot
from service.transport.interface import RecordBatch
from tests.audit.test_judge import MovingSum
from tests.faults.states import States, differences

KEYS = [b"a", b"b", b"a", b"b", b"b", b"a", b"a", b"b", b"a", b"b", b"a", b"b", b"a", b"b", b"a", b"a"]
ENDS = {4}
SAMPLES = 2


class Mistake(Enum):
    POSITION = auto()  # the consumer's position is committed, not the first record that is not finished
    REPLAY_PUBLISHES = auto()
    STATE_SURVIVES_AN_ABORT = auto()
    STALE_MEMBERSHIP = auto()  # an expelled member's offsets are accepted, and move the group back
    STALE_METADATA = auto()  # the offsets carry the replay range of another commit
    NOT_ATOMIC = auto()  # the predictions are visible whatever becomes of the transaction


def history() -> Offered:
    count = len(KEYS)
    lengths = np.array([0 if offset in ENDS else SAMPLES for offset in range(count)], np.int64)
    chunks = Chunks(
        samples=np.random.default_rng(3).standard_normal((int(lengths.sum()), 1)).astype(np.float32),
        lengths=lengths,
        times=np.arange(count) * 2.0,
        rates=np.full(count, 1000.0),
        ends=np.array([offset in ENDS for offset in range(count)]),
        refused={},
    )
    batch = RecordBatch("in", 0, list(range(count)), [0] * count, list(KEYS), [None if o in ENDS else b"x" for o in range(count)])
    return offered(0, [(batch, chunks)], 0)


class Processor:
    """One partition, one task, no snapshots: a recovery replays from the offset that the metadata names."""

    def __init__(self, mistake: Mistake | None) -> None:
        self.mistake = mistake
        self.visible: list[Prediction] = []
        self._records: dict[int, tuple[OfferedStream, Fed]] = {
            fed.offset: (stream, fed) for stream in history().streams for fed in stream.records
        }
        self._pending: list[Prediction] = []
        self._memory: dict[str, tuple[int, list[np.ndarray]]] = {}  # stream, and its samples so far
        self._before = deepcopy(self._memory)
        self._committed = self._replay_from = self._fed = self._position = 0

    def poll(self, count: int) -> None:
        """Delivered, and not fed yet."""
        self._position += count

    def feed(self, count: int) -> None:
        for offset in range(self._fed, self._fed + count):
            self._step(offset)
        self._fed += count
        self._position = max(self._position, self._fed)

    def commit(self) -> None:
        self.visible += self._pending
        self._pending = []
        self._committed = self._position if self.mistake is Mistake.POSITION else self._fed
        if self.mistake is Mistake.STALE_METADATA:
            self._replay_from = self._committed - 3
        self._before = deepcopy(self._memory)

    def abort(self) -> None:
        if self.mistake is Mistake.NOT_ATOMIC:
            self.visible += self._pending
        self._pending = []
        self._fed = self._position = self._committed
        if self.mistake is not Mistake.STATE_SURVIVES_AN_ABORT:
            self._memory = deepcopy(self._before)

    def stale_commit(self, offset: int) -> None:
        """A member that was expelled long ago commits what it knows."""
        if self.mistake is Mistake.STALE_MEMBERSHIP:
            self._committed = offset

    def crash(self) -> None:
        self._pending, self._memory = [], {}
        for offset in range(self._replay_from, self._committed):
            self._step(offset)
        if self.mistake is Mistake.REPLAY_PUBLISHES:
            self.visible += self._pending
        self._pending = []
        self._before = deepcopy(self._memory)
        self._fed = self._position = self._committed

    def _step(self, offset: int) -> None:
        offered_stream, fed = self._records[offset]
        key = offered_stream.key
        if fed.ends:
            self._memory.pop(key, None)
            return
        stream, samples = self._memory.setdefault(key, (offset, []))
        first = sum(map(len, samples))
        samples.append(fed.samples)
        oracle = MovingSum()
        x = np.concatenate(samples).astype(np.float64)[:, 0]
        begin, end = oracle.ready(first), oracle.ready(first + len(fed.samples))
        if end > begin:
            y = np.convolve(x, np.ones(3), "valid").astype(np.float32)[begin:end, None]
            self._pending.append(Prediction(key, stream, begin, fed.time + (begin - first), y, "in", 0, offset))


def run(mistake: Mistake | None) -> AuditReport:
    """Commits, an abort, two crashes, and an expelled member's word in between."""
    processor = Processor(mistake)
    processor.feed(4)
    processor.commit()
    processor.feed(3)
    processor.abort()
    processor.feed(4)
    processor.poll(2)
    processor.commit()
    processor.crash()
    processor.feed(8 - processor._fed)
    processor.commit()
    processor.stale_commit(3)
    processor.crash()
    processor.feed(len(KEYS) - processor._fed)
    processor.commit()
    return judge([history()], processor.visible, [], MovingSum())


def test_a_history_without_a_mistake_passes() -> None:
    report = run(None)
    assert report.passed(exact=True), report
    assert report.expected == len(KEYS) - len(ENDS) - 3, "each stream's first record completes nothing"


SYMPTOM = {
    Mistake.POSITION: "missing",
    Mistake.REPLAY_PUBLISHES: "duplicates",
    Mistake.STATE_SURVIVES_AN_ABORT: "unexpected",
    Mistake.STALE_MEMBERSHIP: "duplicates",
    Mistake.STALE_METADATA: "unexpected",
    Mistake.NOT_ATOMIC: "duplicates",
}


@pytest.mark.parametrize("mistake", Mistake, ids=lambda mistake: mistake.name.lower())
def test_a_mistake_leaves_its_mark(mistake: Mistake) -> None:
    report = run(mistake)
    assert not report.passed(exact=False)
    assert report.to_dict()[SYMPTOM[mistake]] > 0, report


STATE = Snapshot(0, (8,), 12, 10, 14.0, 1000.0, b"rings")
STATES: States = {(0, "a"): STATE, (1, "b"): replace(STATE, stream=3)}


def test_equal_states_are_equal() -> None:
    assert differences(STATES, dict(STATES)) == []


@pytest.mark.parametrize(
    "found",
    [
        {(0, "a"): STATE},
        STATES | {(0, "c"): STATE},
        STATES | {(0, "a"): replace(STATE, frames=11)},
        STATES | {(0, "a"): replace(STATE, positions=(7,))},
        STATES | {(0, "a"): replace(STATE, blob=b"ringt")},
        STATES | {(0, "a"): replace(STATE, last_time=13.0)},
    ],
    ids=["lost", "left over", "frames", "position", "bits", "time"],
)
def test_another_state_is_seen(found: States) -> None:
    assert len(differences(STATES, found)) == 1
