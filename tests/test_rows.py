"""Rounds: within one, a key meets at most one of its streams, and nothing is reordered or lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.rows import Rows, concatenate, rounds

KEYS = [b"a", b"b", b"c"]
EVENTS = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(["samples", "samples", "end", "faster"]), st.integers(1, 3)), max_size=30
)


def rows_of(events: list[tuple[bytes, str, int]], task: int = 0) -> Rows:
    lengths = np.array([0 if kind == "end" else n for _, kind, n in events], np.int64)
    return Rows(
        np.full(len(events), task, np.int64),
        [key for key, _, _ in events],
        np.arange(len(events), dtype=np.int64),
        lengths,
        np.cumsum(lengths) - lengths,
        np.zeros(len(events)),
        np.array([0.0 if kind == "end" else 2.0 if kind == "faster" else 1.0 for _, kind, _ in events]),
        np.array([kind == "end" for _, kind, _ in events], np.bool_),
        np.arange(lengths.sum(), dtype=np.float32)[:, None],
    )


def lives(events: list[tuple[bytes, str, int]], rates: dict[bytes, float]) -> dict[bytes, list[list[tuple[int, bool]]]]:
    """Per key its streams, each as (offset, ends) in order: the rule, read out loud."""
    out: dict[bytes, list[list[tuple[int, bool]]]] = {}
    current = dict(rates)
    for offset, (key, kind, _) in enumerate(events):
        streams = out.setdefault(key, [[]])
        rate = 2.0 if kind == "faster" else 1.0
        if kind == "end":
            streams[-1].append((offset, True))
            streams.append([])
            current.pop(key, None)
            continue
        if current.get(key, rate) != rate:
            streams[-1].append((offset, True))
            streams.append([])
        current[key] = rate
        streams[-1].append((offset, False))
    return {key: [stream for stream in streams if stream] for key, streams in out.items()}


@given(EVENTS, st.dictionaries(st.sampled_from(KEYS), st.sampled_from([1.0, 2.0])))
def test_each_round_holds_the_next_stream_of_each_key(events: list[tuple[bytes, str, int]], rates: dict[bytes, float]) -> None:
    parts = rounds(rows_of(events), {(0, key): rate for key, rate in rates.items()})
    found: dict[bytes, list[list[tuple[int, bool]]]] = {}
    for part in parts:
        stream: dict[bytes, list[tuple[int, bool]]] = {}
        for key, offset, end in zip(part.keys, part.offsets.tolist(), part.ends.tolist(), strict=True):
            stream.setdefault(key, []).append((offset, end))
        for key, records in stream.items():
            found.setdefault(key, []).append(records)
    assert found == lives(events, rates)


@given(EVENTS)
def test_rounds_keep_every_sample_with_its_record(events: list[tuple[bytes, str, int]]) -> None:
    rows = rows_of(events)
    kept = {}
    for part in rounds(rows, {}):
        for offset, start, length in zip(part.offsets.tolist(), part.starts.tolist(), part.lengths.tolist(), strict=True):
            if length:
                kept[offset] = part.samples[start : start + length, 0].tolist()
    wanted = zip(rows.offsets.tolist(), rows.starts.tolist(), rows.lengths.tolist(), strict=True)
    assert kept == {offset: rows.samples[start : start + n, 0].tolist() for offset, start, n in wanted if n}


@given(st.lists(EVENTS.filter(bool), min_size=1, max_size=4))
def test_concatenated_rows_point_at_their_own_samples(parts: list[list[tuple[bytes, str, int]]]) -> None:
    separate = [rows_of(events, task) for task, events in enumerate(parts)]
    together = concatenate(separate)
    row = 0
    for part in separate:
        for start, length in zip(part.starts.tolist(), part.lengths.tolist(), strict=True):
            begin = int(together.starts[row])
            assert together.samples[begin : begin + length].tolist() == part.samples[start : start + length].tolist()
            row += 1
    assert row == len(together)
