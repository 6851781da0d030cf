"""From records to an epoch: each batch is stepped, its outputs are encoded and published, what is refused is a dead letter."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog
import torch

from service.codec.interface import Encoder, Predictions, Reason, Refusal
from service.emission import predictions
from service.epoch import Epoch
from service.errors import StepFailed
from service.observe.metrics import Metrics
from service.portion import cost, portion
from service.refused import Refusals, cut
from service.scheduler import Batch, DeadLetter, Schedule, Scheduler
from service.state import Streams
from service.streaming import Ragged
from service.transport.interface import RecordBatch

log = structlog.get_logger("penstock.feeder")


class Feeder:
    """Owns no state of its own. `output_bytes` is the largest prediction that may be published."""

    def __init__(
        self,
        scheduler: Scheduler,
        streams: Streams,
        encoder: Encoder,
        metrics: Metrics,
        clock: Callable[[], float],
        topic: str,
        output_bytes: int,
    ) -> None:
        self._scheduler = scheduler
        self._streams = streams
        self._encoder = encoder
        self._metrics = metrics
        self._clock = clock
        self._topic = topic
        self._output_bytes = output_bytes

    def decode(self, records: Sequence[RecordBatch], refused: Refusals) -> Schedule:
        """Touches no state."""
        with self._metrics.decoding():
            return self._scheduler.decode(records, refused)

    def replay(self, records: Sequence[RecordBatch], refused: Refusals) -> list[tuple[int, bytes]]:
        """Feed committed input again; nothing is published. The (task, key) of streams that ended and have a snapshot still."""
        ended = []
        for batch in self._scheduler.batches(self._scheduler.decode(self._scheduler.missing(records), refused), live=False):
            with _named():
                self._streams.absorb(batch)
            ended += self._scheduler.settle(batch, self._clock())
        self._metrics.replayed(sum(map(len, records)))
        return ended

    def fitting(
        self, records: list[RecordBatch], schedule: Schedule, refused: Refusals
    ) -> tuple[list[RecordBatch], Schedule, list[RecordBatch]]:
        """Of `records`, already decoded, the first that there is room for, with their schedule, and the rest."""
        rest: list[RecordBatch] = []
        while records and cost(records) + self._scheduler.rate_changes(schedule) > self._streams.room:
            total, count = (sum(map(len, some)) for some in (records, portion(records, self._streams.room)[0]))
            records, beyond = cut(records, count if count < total else total // 2)
            rest = beyond + rest
            schedule = self.decode(records, refused)
        return records, schedule, rest

    def feed(self, records: Sequence[RecordBatch], schedule: Schedule, epoch: Epoch) -> None:
        """Feed new input and publish what it completes. Raises `StepFailed`."""
        self._metrics.consumed(self._topic, sum(map(len, records)), schedule.samples)
        found = list(schedule.letters)
        for batch in self._scheduler.batches(schedule, live=True):
            found += self._step(batch, records, epoch)
        # Both of the predictions that a record may lead to can be too large.
        letters = list({(letter.records.partition, letter.records.offsets[letter.row]): letter for letter in found}.values())
        for letter in letters:
            epoch.dead_letter(letter.records, letter.row, letter.refusal)
        for reason, count in Counter(letter.refusal.reason for letter in letters).items():
            self._metrics.refused(reason, count)
            first = next(letter for letter in letters if letter.refusal.reason == reason)
            log.warning(
                "dead_letters",
                reason=str(reason),
                count=count,
                message=first.refusal.message,
                partition=first.records.partition,
                offset=first.records.offsets[first.row],
            )

    def _step(self, batch: Batch, records: Sequence[RecordBatch], epoch: Epoch) -> list[DeadLetter]:
        self._streams.protect(batch.slots)
        with self._metrics.stepping(len(batch.slots), len(batch.values)), _named():
            values, lengths = self._streams.feed(batch)
        letters = []
        for keys, outputs in predictions(batch, values, lengths, self._streams.table, self._topic):
            with self._metrics.encoding(len(keys)):
                encoded = self._encoder.encode(outputs)
            offsets = outputs.offsets
            if max(map(len, encoded)) > self._output_bytes:
                letters += self._too_large(encoded, outputs, records)
                kept = [row for row, value in enumerate(encoded) if len(value) <= self._output_bytes]
                keys, encoded, offsets = [keys[row] for row in kept], [encoded[row] for row in kept], offsets[kept]
            epoch.publish(keys, encoded, offsets)
        letters += [letter for row in batch.illegal.tolist() for letter in self._dropped(batch, row, records)]
        for task, key in self._scheduler.settle(batch, self._clock()):
            epoch.snapshot(task, key, None)
        return letters

    def try_out(self) -> None:
        """Raises `StepFailed` where the program fails for a single harmless frame, so that no record is at fault."""
        program, one = self._streams.program, torch.ones(1, dtype=torch.int64)
        try:
            program.step(program.new_state(slots=2), one, Ragged(program.admission.harmless, one))
        except Exception as error:
            raise StepFailed(
                f"the network raises whatever it is fed, even a single harmless frame: {type(error).__name__}: {str(error)[:500]}. "
                "No record is refused for that. Look at the memory that is left and at the network itself, and start again."
            ) from error

    def _too_large(self, encoded: list[bytes], outputs: Predictions, records: Sequence[RecordBatch]) -> list[DeadLetter]:
        """Predictions that their topic might refuse are not published; the records that led to them are dead letters."""
        letters = []
        for value, offset in zip(encoded, outputs.offsets.tolist(), strict=True):
            if len(value) > self._output_bytes:
                message = f"its prediction has {len(value)} bytes, more than limits.output_bytes: {self._output_bytes}"
                part, row = _find(records, outputs.partition, offset)
                letters.append(DeadLetter(part, row, Refusal(Reason.OUTPUT_TOO_LARGE, message)))
        return letters

    def _dropped(self, batch: Batch, row: int, records: Sequence[RecordBatch]) -> list[DeadLetter]:
        """A stream ended at a length at which the network raises. The record that ended it is a dead letter, unless it ended it
        only by beginning the next one."""
        offset, frames = int(batch.rows.offsets[row]), int(batch.first[row])
        part, at = _find(records, int(batch.rows.tasks[row]), offset)
        if part.values[at] is not None:
            log.warning("stream_dropped", frames=frames, partition=part.partition, offset=offset)
            return []
        message = f"the stream ends after {frames} samples, a length at which the network raises; the stream is dropped"
        return [DeadLetter(part, at, Refusal(Reason.LENGTH, message))]


@contextmanager
def _named() -> Iterator[None]:
    """Whatever a network does, and a device that has no memory left, is a `StepFailed`."""
    try:
        yield
    except Exception as error:
        raise StepFailed(f"the network raised {type(error).__name__}: {str(error)[:500]}") from error


def _find(records: Sequence[RecordBatch], partition: int, offset: int) -> tuple[RecordBatch, int]:
    """The batch and the row of a record of this step."""
    part = next(part for part in records if part.partition == partition and part.offsets[0] <= offset <= part.offsets[-1])
    return part, bisect_left(part.offsets, offset)
