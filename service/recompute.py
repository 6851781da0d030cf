"""`penstock replay`: what the present network says of a part of the input, published into another topic.

The group, the application's own topics and its running workers are not touched: no member joins, nothing is committed for the
group, and the transactions are those of an id of their own.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from service.app import Application
from service.audit.read import on_trust, read_letters
from service.codec.interface import Reason, Refusal
from service.config import Config
from service.epoch import Epoch, Topics
from service.errors import OperatorActionRequired
from service.extent import EVERYTHING, Extent
from service.feeder import Feeder
from service.observe.metrics import Metrics
from service.portion import portion
from service.refused import Refusals, cut
from service.scheduler import Scheduler
from service.state import Streams
from service.transport.interface import Isolation, Partition, Reader, RecordBatch, TopicDescription, Transport

_TIMEOUT = 30.0


@dataclass(slots=True)
class Recomputed:
    """Counts: input records within the extent, predictions published for them, records among them that are refused, and keys
    with a stream whose beginning the log no longer holds, of which nothing is published until their next stream."""

    records: int = 0
    predictions: int = 0
    refused: int = 0
    keys_left_out: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(slots=True)
class _Recomputation(Epoch):
    """Its dead letters and snapshots are the application's, which has written them already."""

    def dead_letter(self, records: RecordBatch, row: int, refusal: Refusal) -> None:
        self.letters += 1

    def snapshot(self, task: int, key: bytes, data: bytes | None) -> None: ...


class _Whole:
    """Lets the records of streams pass whose beginning the log holds; of a log that begins later than at 0, these are the
    streams that begin after their key's first end."""

    def __init__(self, begins_at: int) -> None:
        self._begins_at = begins_at
        self._ended: set[bytes | None] = {None}
        self.left_out: set[bytes | None] = set()

    def select(self, batch: RecordBatch) -> RecordBatch:
        if self._begins_at == 0:
            return batch
        rows = []
        for row, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
            if key in self._ended:
                rows.append(row)
            elif value is None:
                self._ended.add(key)
            else:
                self.left_out.add(key)
        return batch.take(rows)


class _Streams:
    """The streams of one input partition, fed from their beginnings; published is what follows from `first` on."""

    def __init__(self, application: Application, partition: Partition, first: int, refused: Refusals) -> None:
        config = application.config
        self._first = first
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

    def feed(self, batch: RecordBatch, epoch: Callable[[], Epoch]) -> Iterator[Epoch]:
        """Yields each epoch, for its transaction to be committed."""
        cut_at = bisect_left(batch.offsets, self._first)
        before, records = [batch.slice(0, cut_at)], [batch.slice(cut_at, len(batch))]
        while before:
            part, before = portion(before, self._streams.room, at_least=1)
            self._feeder.replay(part, self._refused)
        while records:
            part, records = cut(records, self._max_records)
            part, schedule, rest = self._feeder.fitting(part, self._feeder.decode(part, self._refused), self._refused)
            if part:
                current = epoch()
                current.records = part
                current.begin(time.monotonic())
                self._feeder.feed(part, schedule, current)
                yield current
                self._streams.settle()
            records = rest + records


def replay(application: Application, transport: Transport, into: str, extent: Extent = EVERYTHING) -> Recomputed:
    """Publish the predictions of `extent` into the topic `into`, which is made where it is missing, in transactions.

    Streams are fed from their beginnings, and nothing is published before the extent begins. Raises `OperatorActionRequired` where
    `into` is a topic of the application, or holds records: a replay that was interrupted begins anew, in an empty topic. Raises
    `StepFailed` where the network does.
    """
    config, done = application.config, Recomputed()
    reader = transport.reader(Isolation.READ_COMMITTED)
    sink = transport.sink(f"{config.app}-replay-{into}", config.commit.transaction_timeout)
    try:
        inputs = _prepare(config, transport, reader, into)
        refused = _refused(config, reader, extent)
        sink.open(_TIMEOUT)
        for partition in inputs:
            low, high = reader.watermarks(partition, _TIMEOUT)
            within = extent.offsets(reader, partition, low, high, _TIMEOUT)
            if not within:
                continue
            whole, streams = _Whole(low), _Streams(application, partition, within.start, refused)
            for batch in reader.read(partition, low, within.stop, _TIMEOUT):
                for epoch in streams.feed(whole.select(extent.select(batch)), lambda: _Recomputation(sink, Topics(into, "", ""))):
                    epoch.commit(_TIMEOUT)
                    done.records += sum(map(len, epoch.records))
                    done.predictions += epoch.predictions
                    done.refused += epoch.letters
            done.keys_left_out += len(whole.left_out)
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


def _refused(config: Config, reader: Reader, extent: Extent) -> Refusals:
    """What the worker has refused for what it did, and what only its dead letter tells: left out here too."""
    found = on_trust(read_letters(config.dead_letters.topic, reader, extent))
    note = Refusal(Reason.STEP_FAILED, "refused when it came")
    return {number: dict.fromkeys(offsets, note) for number, offsets in found.items()}
