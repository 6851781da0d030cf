"""Decoded records of one poll as columns, and the cut into rounds in which a key meets at most one of its streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64


@dataclass(slots=True)
class Rows:
    """R records that concern streams: samples to feed, ends, or (a declared change of rate) the end of the stream before.

    `samples[starts[r] : starts[r] + lengths[r]]` belong to row r. Rows of one task are consecutive and in offset order.
    """

    tasks: Int64[np.ndarray, "R"]
    keys: list[bytes]
    offsets: Int64[np.ndarray, "R"]
    lengths: Int64[np.ndarray, "R"]
    starts: Int64[np.ndarray, "R"]
    times: Float64[np.ndarray, "R"]
    rates: Float64[np.ndarray, "R"]
    ends: Bool[np.ndarray, "R"]
    samples: Float32[np.ndarray, "N C"]

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, picked: Int64[np.ndarray, "Q"]) -> Rows:
        return Rows(
            self.tasks[picked],
            [self.keys[row] for row in picked.tolist()],
            self.offsets[picked],
            self.lengths[picked],
            self.starts[picked],
            self.times[picked],
            self.rates[picked],
            self.ends[picked],
            self.samples,
        )


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Rows of several partitions, one after another."""
    if len(parts) == 1:
        return parts[0]
    shifts = np.cumsum([0] + [len(part.samples) for part in parts[:-1]])
    return Rows(
        np.concatenate([part.tasks for part in parts]),
        [key for part in parts for key in part.keys],
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=True)]),
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.rates for part in parts]),
        np.concatenate([part.ends for part in parts]),
        np.concatenate([part.samples for part in parts]),
    )


def rounds(rows: Rows, rates: dict[tuple[int, bytes], float]) -> list[Rows]:
    """Cut `rows` so that within a round each key's rows belong to one stream, an end being its last row.

    `rates` gives the present rate of each stream that is open already. A row whose rate differs from its stream's ends that
    stream (an extra row without samples in the earlier round) and begins another in the next round.
    """
    current = dict(rates)
    level: dict[tuple[int, bytes], int] = {}
    picked: list[list[int]] = [[]]
    closing: list[set[int]] = [set()]  # positions within the round that are such extra rows
    for row, (task, key, rate, end) in enumerate(
        zip(rows.tasks.tolist(), rows.keys, rows.rates.tolist(), rows.ends.tolist(), strict=True)
    ):
        stream = (task, key)
        at = level.get(stream, 0)
        if not end and current.get(stream, rate) != rate:
            closing[at].add(len(picked[at]))
            picked[at].append(row)
            at += 1
        level[stream] = at + 1 if end else at
        if end:
            current.pop(stream, None)
        else:
            current[stream] = rate
        while len(picked) <= at:
            picked.append([])
            closing.append(set())
        picked[at].append(row)
    result = []
    for members, extra in zip(picked, closing, strict=True):
        part = rows.take(np.array(members, np.int64))
        if extra:
            positions = np.array(sorted(extra))
            part.lengths[positions] = 0
            part.ends[positions] = True
        result.append(part)
    return [part for part in result if len(part)]


def changes(rows: Rows, rates: dict[tuple[int, bytes], float]) -> int:
    """How many streams end because a record has another rate; `rates` as in `rounds`."""
    current, count = dict(rates), 0
    for task, key, rate, end in zip(rows.tasks.tolist(), rows.keys, rows.rates.tolist(), rows.ends.tolist(), strict=True):
        if not end:
            count += current.get((task, key), rate) != rate
            current[task, key] = rate
        else:
            current.pop((task, key), None)
    return count
