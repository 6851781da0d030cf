"""`penstock replay`: what the present network says of a part of the input, published into another topic.

The group, the application's own topics and its running workers are not touched: no member joins, nothing is committed for the
group, and the transactions are those of an id of their own.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Int64

from service.app import Application
from service.audit.read import Letters, on_trust, read_letters
from service.codec.interface import Decoder, Reason, Refusal
from service.config import Config
from service.epoch import Epoch
from service.errors import OperatorActionRequired
from service.extent import EVERYTHING, Extent, Offsets
from service.feeder import Feeder
from service.observe.metrics import Metrics
from service.portion import portion
from service.refused import Refusals, cut
from service.scheduler import Scheduler
from service.state import Chosen, Streams
from service.topics import Topics
from service.transport.interface import Isolation, Partition, Reader, RecordBatch, TopicDescription, Transport

_TIMEOUT = 30.0


@dataclass(slots=True)
class Recomputed:
    """Counts: input records within the extent, predictions published for them, records among them that are refused, and keys
    with a stream whose beginning the log no longer holds, of which nothing is published until their next stream; and keys with
    records so old that the dead letters do not tell any more which of them were refused for what they did, so that all are fed."""

    records: int = 0
    predictions: int = 0
    refused: int = 0
    keys_left_out: int = 0
    keys_in_doubt: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(slots=True)
class _Recomputation(Epoch):
    """Its dead letters and snapshots are the application's, which has written them already. The disk has to hear of streams that
    ended all the same. Of what it is fed, the records `within` are meant."""

    within: Offsets = field(kw_only=True)

    @property
    def meant(self) -> int:
        """How many records."""
        return sum(offset in self.within for part in self.records for offset in part.offsets)

    def publish(self, keys: Sequence[bytes], values: Sequence[bytes], offsets: Int64[np.ndarray, "R"]) -> None:
        rows = [row for row, offset in enumerate(offsets.tolist()) if offset in self.within]
        Epoch.publish(self, [keys[row] for row in rows], [values[row] for row in rows], offsets[rows])

    def dead_letter(self, records: RecordBatch, row: int, refusal: Refusal) -> None:
        self.letters += records.offsets[row] in self.within

    def snapshot(self, task: int, key: bytes, data: bytes | None) -> None:
        self.written.append((task, key, data))


class _Whole:
    """Lets the records of streams pass whose beginning the log holds; of a log that begins later than at 0, these are the streams
    that begin after their key's first end, or its first change of rate. Refused records are neither."""

    def __init__(self, begins_at: int, decoder: Decoder, refused: Collection[int]) -> None:
        self._begins_at = begins_at
        self._decoder = decoder
        self._refused = refused
        self._passing: set[bytes | None] = {None}
        self._rates: dict[bytes | None, float] = {}

    @property
    def left_out(self) -> int:
        """Keys with a stream whose beginning is gone."""
        return len(self._rates)

    def select(self, batch: RecordBatch) -> RecordBatch:
        if self._begins_at == 0:
            return batch
        waiting = [
            row
            for row, (key, offset) in enumerate(zip(batch.keys, batch.offsets, strict=True))
            if key not in self._passing and offset not in self._refused
        ]
        begun = self._beginnings(batch.take(waiting)) if waiting else {}
        rows = [
            row
            for row, (key, offset) in enumerate(zip(batch.keys, batch.offsets, strict=True))
            if key in self._passing or (key in begun and offset >= begun[key])
        ]
        self._passing |= begun.keys()
        return batch.take(rows)

    def _beginnings(self, batch: RecordBatch) -> dict[bytes | None, int]:
        """Of keys that pass from now on, the offset of the first record that does."""
        chunks = self._decoder.decode(batch.keys, batch.values, batch.timestamps)
        found: dict[bytes | None, int] = {}
        for row, (key, offset) in enumerate(zip(batch.keys, batch.offsets, strict=True)):
            if key in found or row in chunks.refused:
                continue
            rate = float(chunks.rates[row])
            if chunks.ends[row]:
                found[key] = offset + 1
            elif self._rates.setdefault(key, rate) != rate:
                found[key] = offset
        return found


class _Streams:
    """The streams of one input partition, fed from their beginnings; published is what follows from the records `within`."""

    def __init__(self, application: Application, partition: Partition, within: Offsets, refused: Refusals) -> None:
        config = application.config
        self._within = within
        self._refused = refused
        self._max_records = config.poll.max_records
        self._streams = Streams(application.program, config.state.slots + 1, config.state.memory_bytes)
        self._streams.assign(partition.partition)
        scheduler = Scheduler(application.decoder, self._streams)
        self._feeder = Feeder(
            scheduler,
            self._streams,
            application.encoder,
            Metrics(),
            time.monotonic,
            partition.topic,
            config.limits.output_bytes,
        )

    def feed(self, batch: RecordBatch, epoch: Callable[[], _Recomputation]) -> Iterator[_Recomputation]:
        """Yields each epoch, for its transaction to be committed."""
        begin = next((row for row, offset in enumerate(batch.offsets) if offset in self._within), len(batch))
        before, records = cut([batch], begin)
        self._pass(before)
        yield from self._publish(records, epoch)

    def _pass(self, records: list[RecordBatch]) -> None:
        while records:
            part, records = portion(records, self._streams.room, at_least=1)
            self._settle([(task, key, None) for task, key in self._feeder.replay(part, self._refused)])

    def _publish(self, records: list[RecordBatch], epoch: Callable[[], _Recomputation]) -> Iterator[_Recomputation]:
        while records:
            part, records = cut(records, self._max_records)
            part, schedule, rest = self._feeder.fitting(part, self._feeder.decode(part, self._refused), self._refused)
            if part:
                current = epoch()
                current.records = part
                current.begin(time.monotonic())
                self._feeder.feed(part, schedule, current)
                yield current
                self._settle(current.written)
            records = rest + records

    def _settle(self, written: list[tuple[int, bytes, bytes | None]]) -> None:
        """Nothing is fed twice, so that frozen streams are as good as committed: the disk may have what is too much for memory."""
        self._streams.committed(Chosen(np.zeros(0, np.int64), self._streams.cold.dirty.dirty()), written)

    def close(self) -> None:
        self._streams.close()


def replay(application: Application, transport: Transport, into: str, extent: Extent = EVERYTHING) -> Recomputed:
    """Publish the predictions of `extent` into the topic `into`, which is made where it is missing, in transactions.

    Streams are fed from their beginnings, and nothing is published of what the extent does not hold. Raises
    `OperatorActionRequired` where `into` is a topic of the application, or holds records: a replay that was interrupted begins
    anew, in an empty topic. Raises `StepFailed` where the network does.
    """
    config, done = application.config, Recomputed()
    reader = transport.reader(Isolation.READ_COMMITTED)
    sink = transport.sink(f"{config.app}-replay-{into}", config.commit.transaction_timeout)
    try:
        inputs = _prepare(config, transport, reader, into)
        letters = read_letters(config, reader, extent)
        refused = _refused(letters)
        sink.open(_TIMEOUT)
        for partition in inputs:
            low, _ = reader.watermarks(partition, _TIMEOUT)
            high = reader.last_stable(partition, _TIMEOUT)  # beyond it are transactions that nobody knows the end of
            within = extent.offsets(reader, partition, low, high, _TIMEOUT)
            if not within:
                continue
            whole = _Whole(low, application.decoder, refused.get(partition.partition, ()))
            reach, in_doubt = letters.reach(partition.partition, high), set()
            with closing(_Streams(application, partition, within, refused)) as streams:
                for batch in map(whole.select, map(extent.select, reader.read(partition, low, within.stop, _TIMEOUT))):
                    in_doubt |= set(batch.keys[: bisect_left(batch.offsets, reach)])
                    for epoch in streams.feed(batch, partial(_Recomputation, sink, Topics(into, "", ""), within=within)):
                        epoch.commit(_TIMEOUT)
                        done.records += epoch.meant
                        done.predictions += epoch.predictions
                        done.refused += epoch.letters
            done.keys_left_out += whole.left_out
            done.keys_in_doubt += len(in_doubt - {None})
    finally:
        sink.close()
        reader.close()
    return done


def _prepare(config: Config, transport: Transport, reader: Reader, into: str) -> list[Partition]:
    """The input's partitions; `into` is there and empty when this returns."""
    own = (config.input.topic, config.output.topic, config.dead_letters.topic, config.snapshot_topic)
    if into in own:
        raise OperatorActionRequired(f"{into} is a topic of {config.app} itself: replay into another one")
    count = reader.partitions(config.input.topic, _TIMEOUT)
    if count is None:
        raise OperatorActionRequired(f"{config.input.topic} does not exist")
    if transport.admin().describe([into], _TIMEOUT)[into] is None:
        transport.admin().create([TopicDescription(into, count)], _TIMEOUT)
    for number in range(reader.partitions(into, _TIMEOUT) or 0):
        low, high = reader.watermarks(Partition(into, number), _TIMEOUT)
        if high > low:
            raise OperatorActionRequired(
                f"{into} holds records already, and a replay would add to them, without a word of which is which: replay into a "
                "new topic, or delete this one first"
            )
    return [Partition(config.input.topic, number) for number in range(count)]


def _refused(letters: Letters) -> Refusals:
    """What the worker has refused for what it did, and what only its dead letter tells: left out here too."""
    note = Refusal(Reason.STEP_FAILED, "refused when it came")
    return {number: dict.fromkeys(offsets, note) for number, offsets in on_trust(letters.found).items()}
