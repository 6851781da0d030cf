"""Outputs of a batch, told apart by the record that completed them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Int64

from service.codec.interface import Predictions
from service.scheduler import Batch
from service.state import SlotTable


def predictions(
    batch: Batch,
    values: Float32[np.ndarray, "M C_out"],
    lengths: Int64[np.ndarray, "B"],
    table: SlotTable,
    topic: str,
) -> Iterator[tuple[list[bytes], Predictions]]:
    """One `Predictions` per task, with the keys to publish them under.

    Which outputs a record completes is known before the step from the stream's frame count alone, so records that shared a
    step come out just as if each had been alone.
    """
    counts = batch.done - batch.ready
    given = np.add.reduceat(counts, np.flatnonzero(np.diff(batch.owner, prepend=-1)))
    if not np.array_equal(given, lengths):
        raise AssertionError(f"the program gave {lengths.sum()} outputs where its timeline says {given.sum()}")
    rows, ends = batch.rows, np.cumsum(counts)
    bounds = np.flatnonzero(np.diff(rows.tasks, prepend=-1, append=-1)).tolist()
    for begin, end in pairwise(bounds):
        picked = begin + np.flatnonzero(counts[begin:end])
        if not len(picked):
            continue
        slots = batch.slots[batch.owner[picked]]
        first = ends[begin] - counts[begin]
        labels = table.labels
        yield (
            [rows.keys[row] for row in picked.tolist()],
            Predictions(
                topic=topic,
                partition=int(rows.tasks[begin]),
                keys=[labels[slot] for slot in slots.tolist()],
                streams=table.column("stream")[slots],
                indices=batch.ready[picked],
                times=batch.times[picked],
                offsets=rows.offsets[picked],
                lengths=counts[picked],
                values=values[first : ends[end - 1]],
            ),
        )
