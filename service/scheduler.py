"""Records in, packed batches out: decode, refuse, find each key's slot, order by stream, pack.

All host work of a step is here and is columnar: a Python loop runs only over what is new or unusual (keys without a slot, ends
of streams, refused records), never over ordinary records.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float64, Int64

from service.codec.interface import Decoder, Refusal
from service.refused import Refusals
from service.rows import Rows, changes, concatenate, rounds
from service.state import CLEAN, Packed, Streams
from service.transport.interface import RecordBatch


@dataclass(slots=True)
class DeadLetter:
    """A refused record: the batch that holds its raw bytes, its row in there, and why."""

    records: RecordBatch
    row: int
    refusal: Refusal


@dataclass(slots=True)
class Batch(Packed):
    """One packed, ragged step over B streams, and the R records (ordered by task, then stream, then offset) it is made of.

    `first` is the frame index of each record's first sample; `ready` and `done` the indices of the first output it completes and
    of the one after the last; `times` the epoch milliseconds of the first. `owner` maps records to streams. `illegal` are the
    records (by row) that end a stream at a length at which the offline module raises.
    """

    rows: Rows
    owner: Int64[np.ndarray, "R"]
    first: Int64[np.ndarray, "R"]
    ready: Int64[np.ndarray, "R"]
    done: Int64[np.ndarray, "R"]
    times: Float64[np.ndarray, "R"]
    illegal: Int64[np.ndarray, "D"]
    live: bool


@dataclass(slots=True)
class Schedule:
    """What a poll's records come to: refused ones at once, the rest as batches, usually one."""

    letters: list[DeadLetter] = field(default_factory=list)
    samples: int = 0
    _rows: Rows | None = None


class Scheduler:
    """Turns records into batches over `streams`. A record's task is its partition number."""

    def __init__(self, decoder: Decoder, streams: Streams) -> None:
        self._decoder = decoder
        self._streams = streams

    def decode(self, records: Sequence[RecordBatch], refused: Refusals) -> Schedule:
        """Refusals, those in `refused` among them, and the accepted rows. Raises nothing for what records hold."""
        schedule = Schedule()
        parts = []
        for batch in records:
            if known := _rows_of(batch, refused.get(batch.partition, {})):  # not even decoded: that may be what kills
                schedule.letters += [DeadLetter(batch, row, refusal) for row, refusal in sorted(known.items())]
                batch = batch.take([row for row in range(len(batch)) if row not in known])
            chunks = self._decoder.decode(batch.keys, batch.values, batch.timestamps)
            out = chunks.refused
            schedule.letters += [DeadLetter(batch, row, refusal) for row, refusal in sorted(out.items())]
            starts = np.cumsum(chunks.lengths) - chunks.lengths
            rows = Rows(
                np.full(len(batch), batch.partition, np.int64),
                batch.keys,  # type: ignore[arg-type]  # a null key is refused, and refused rows are taken out below
                np.array(batch.offsets, np.int64),
                chunks.lengths,
                starts,
                chunks.times,
                chunks.rates,
                chunks.ends,
                chunks.samples,
            )
            if out:
                kept = np.ones(len(batch), np.bool_)
                kept[list(out)] = False
                rows = rows.take(np.flatnonzero(kept))
            if len(rows):
                parts.append(rows)
        if parts:
            schedule._rows = concatenate(parts)
            schedule.samples = len(schedule._rows.samples)
        return schedule

    def missing(self, records: Sequence[RecordBatch]) -> list[RecordBatch]:
        """Without the records that their streams contain already: after a restore most do, and need not be decoded."""
        found = []
        for batch in records:
            begun = self._streams.positions(batch.partition, {key for key in batch.keys if key is not None})
            rows = [row for row, key in enumerate(batch.keys) if batch.offsets[row] >= begun.get(key, 0)]  # type: ignore[arg-type]
            found.append(batch if len(rows) == len(batch) else batch.take(rows))
        return found

    def batches(self, schedule: Schedule, live: bool) -> Iterator[Batch]:
        """Packed batches, to be stepped and settled one after another: a later one may need what an earlier one freed."""
        rows = schedule._rows
        if rows is None:
            return
        for part in [rows] if self._plain(rows) else rounds(rows, self._present_rates(rows)):
            batch = self._pack(part, live)
            if batch is not None:
                yield batch

    def rate_changes(self, schedule: Schedule) -> int:
        """How many streams end in the schedule because a record has another rate."""
        rows = schedule._rows
        return 0 if rows is None or self._plain(rows) else changes(rows, self._present_rates(rows))

    def _plain(self, rows: Rows) -> bool:
        """No stream ends, and none has another rate than its records."""
        steady = not rows.ends.any() and bool((rows.rates == rows.rates[0]).all())
        return steady and self._streams.rates <= {float(rows.rates[0])}

    def _present_rates(self, rows: Rows) -> dict[tuple[int, bytes], float]:
        keys: dict[int, set[bytes]] = {}
        for task, key in zip(rows.tasks.tolist(), rows.keys, strict=True):
            keys.setdefault(task, set()).add(key)
        return {(task, key): rate for task, some in keys.items() for key, rate in self._streams.present_rates(task, some).items()}

    def _pack(self, rows: Rows, live: bool) -> Batch | None:
        slots = self._locate(rows, live)
        table = self._streams.table
        order = np.lexsort((slots, rows.tasks)) if len(rows) else np.zeros(0, np.int64)
        order = order[slots[order] > 0]  # without the ends of keys that have no stream
        if not len(order):
            return None
        rows, slots = rows.take(order), slots[order]
        edge = np.flatnonzero(np.concatenate([[True], slots[1:] != slots[:-1]]))
        owner = np.cumsum(np.concatenate([[True], slots[1:] != slots[:-1]])) - 1
        streams = slots[edge]
        lengths = np.add.reduceat(rows.lengths, edge)
        total = np.cumsum(rows.lengths)
        before = total - rows.lengths
        first = table.column("frames")[streams][owner] + before - before[edge][owner]
        last = first + rows.lengths
        values = rows.samples[np.repeat(rows.starts - before, rows.lengths) + np.arange(total[-1])]
        program = self._streams.program
        ready, done = (program.ready(torch.from_numpy(frames)).numpy() for frames in (first, last))
        final, illegal = None, streams[:0]
        if rows.ends.any():
            ending = np.flatnonzero(rows.ends)
            legal = program.accepts(torch.from_numpy(last[ending])).numpy()
            done = done.copy()
            done[ending[legal]] = program.total(torch.from_numpy(last[ending[legal]])).numpy()
            final = np.zeros(len(streams), np.bool_)
            final[owner[ending[legal]]] = True
            illegal = ending[~legal]
        times = self._times(rows, slots, first, ready)
        return Batch(streams, values, lengths, final, rows, owner, first, ready, done, times, illegal, live)

    def _locate(self, rows: Rows, live: bool) -> Int64[np.ndarray, "R"]:
        """The slot of each row's stream; 0 where the row concerns no stream. Opens and thaws what is needed."""
        index = self._streams.index
        found: list[int | None] = []
        bounds = np.flatnonzero(np.diff(rows.tasks, prepend=-1, append=-1)).tolist()
        for begin, end in pairwise(bounds):
            found += map(index[int(rows.tasks[begin])].get, rows.keys[begin:end])
        if None in found:
            unknown: dict[int, dict[bytes, None]] = {}
            for row, slot in enumerate(found):
                if slot is None:
                    unknown.setdefault(int(rows.tasks[row]), {})[rows.keys[row]] = None
            self._streams.make_room(sum(map(len, unknown.values())), {slot for slot in found if slot is not None})
            for task, keys in unknown.items():
                if frozen := self._streams.find(task, keys):
                    self._streams.thaw(task, frozen, live)
            for row, slot in enumerate(found):
                if slot is None:
                    task, key = int(rows.tasks[row]), rows.keys[row]
                    slot = index[task].get(key)
                    if slot is None and not rows.ends[row]:
                        slot = self._streams.open(task, key, int(rows.offsets[row]), float(rows.rates[row]), live)
                    found[row] = slot or 0
        return np.array(found, np.int64)

    def _times(
        self, rows: Rows, slots: Int64[np.ndarray, "R"], first: Int64[np.ndarray, "R"], ready: Int64[np.ndarray, "R"]
    ) -> Float64[np.ndarray, "R"]:
        """Epoch milliseconds of each record's first output: `t + (j · decimation − n0) / rate`, by design's formula.

        A record without samples (an end) is placed by the latest record of its stream that had some.
        """
        start, time, rate = first.copy(), rows.times.copy(), rows.rates
        if rows.ends.any():
            table = self._streams.table
            rate = np.where(rows.ends, table.column("rate")[slots], rate)
            for row in np.flatnonzero(rows.ends).tolist():
                if row and slots[row - 1] == slots[row]:
                    start[row], time[row], rate[row] = start[row - 1], time[row - 1], rate[row - 1]
                else:
                    start[row] = table.column("last_start")[slots[row]]
                    time[row] = table.column("last_time")[slots[row]]
        times: Float64[np.ndarray, "R"] = time + (ready * self._streams.program.decimation - start) * 1000.0 / rate
        return times

    def settle(self, batch: Batch, now: float) -> list[tuple[int, bytes]]:
        """Write down what `batch` has done to its streams; the (task, key) of ended streams that the snapshot topic holds."""
        table, rows = self._streams.table, batch.rows
        slots = batch.slots
        begin = np.flatnonzero(np.diff(batch.owner, prepend=-1))
        end = np.append(begin[1:], len(rows)) - 1
        table.rows["frames"][slots] += batch.lengths
        table.rows["position"][slots] = rows.offsets[end] + 1
        fresh = table.column("dirty_since")[slots] == CLEAN
        table.rows["dirty_since"][slots[fresh]] = rows.offsets[begin[fresh]]
        table.rows["dirty_at"][slots[fresh]] = now
        fed = ~rows.ends
        # Rows of a stream are in order, and of several assignments to one slot the last one stays.
        table.rows["last_start"][slots[batch.owner[fed]]] = batch.first[fed]
        table.rows["last_time"][slots[batch.owner[fed]]] = rows.times[fed]
        if batch.final is None:
            return []
        over = np.concatenate([slots[batch.final], slots[batch.owner[batch.illegal]]])
        held = over[table.column("snapshotted")[over]].tolist()
        tombstones = [(int(table.column("task")[slot]), table.keys[slot]) for slot in held]
        self._streams.end(over, batch.live)
        return tombstones


def _rows_of(batch: RecordBatch, refused: Mapping[int, Refusal]) -> dict[int, Refusal]:
    """Those that the batch has, by row; the refused may be of any offsets, in any order."""
    found = {}
    for offset, refusal in refused.items():
        row = bisect_left(batch.offsets, offset)
        if row < len(batch) and batch.offsets[row] == offset:
            found[row] = refusal
    return found
