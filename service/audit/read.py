"""Reads what was offered and what was published, for `penstock audit`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from service.app import Application
from service.audit.history import Letter, Offered, offered
from service.audit.judge import ON_TRUST, AuditReport, judge
from service.audit.oracle import ModuleOracle
from service.begun import Begun
from service.codec.interface import Chunks, Prediction
from service.config import Config, Numerics, OutputFormat
from service.errors import OffsetsPending, OperatorActionRequired, TransportUnavailable
from service.extent import EVERYTHING, Extent, shown
from service.refused import dead_letter_of
from service.transport.interface import Isolation, Membership, Partition, Reader, RecordBatch, Source, Transport
from service.transport.partitioning import partition_of

_LOG = logging.getLogger("penstock.audit")  # to standard error: the verdict alone goes to standard output

_TIMEOUT = 30.0


def audit(application: Application, transport: Transport, extent: Extent = EVERYTHING) -> AuditReport:
    """Judge what the group has committed, within `extent`: inputs up to its offsets, predictions and dead letters as a
    `read_committed` reader sees them. A worker may go on meanwhile: what it commits after the first look is left out.

    The input is read from its beginning all the same, because a prediction follows from the whole of its stream; what is kept in
    memory are the streams that reach into the extent. Where a task has begun later than the log, so does what is judged. Raises
    `OperatorActionRequired` where there is nothing to judge by, or nothing to judge.
    """
    config = application.config
    reader = transport.reader(Isolation.READ_COMMITTED)
    source = transport.source(Membership(config.app, "audit", static=False))
    try:
        count = reader.partitions(config.input.topic, 10.0)
        inputs = [Partition(config.input.topic, number) for number in range(count or 0)]
        before = _committed(source, inputs)
        if not before:
            raise OperatorActionRequired(
                f"the group {config.app} has committed nothing of {config.input.topic}: there is nothing to audit. Is `app` the "
                "name that the worker ran under?"
            )
        kept = read_letters(config, reader, extent)
        failed = on_trust(kept.found)
        partitions, within, reach = [], {}, {}
        for partition, stop in before.items():
            low, _ = reader.watermarks(partition, _TIMEOUT)
            begun = _begun(config, reader, partition.partition)
            fresh, low = begun is not None and begun >= low, max(low, begun or 0)
            reach[partition.partition] = kept.reach(partition.partition, stop)
            offsets = within[partition.partition] = extent.offsets(reader, partition, low, stop, _TIMEOUT)
            left_out = failed.get(partition.partition, set())
            decoded = _decoded(application, reader, partition, low, offsets.stop, extent, left_out)
            partitions.append(offered(partition.partition, decoded, low, offsets, fresh))
        output = _published(application, reader, extent)
        published = [
            prediction
            for prediction in output.found
            if prediction.offset in within.get(prediction.partition, ()) or _beyond(prediction, before, extent)
        ]
        after = _committed(source, inputs)
    finally:
        source.close()
        reader.close()

    def judged(found: Prediction | Letter) -> bool:
        at = Partition(config.input.topic, found.partition)
        if found.offset in within.get(found.partition, ()):
            return True
        return _beyond(found, before, extent) and (at not in after or found.offset >= after[at])

    published, letters = [found for found in published if judged(found)], [found for found in kept.found if judged(found)]
    if extent != EVERYTHING and not (published or letters or any(partition.records for partition in partitions)):
        raise OperatorActionRequired(
            f"the group {config.app} has committed no record of {config.input.topic} in this range under these keys: there is "
            "nothing to audit. Look at the times, which are UTC unless they say otherwise, and at the keys."
        )
    oracle = ModuleOracle(application.module, application.program, nulls=config.output.format is OutputFormat.JSON)
    report = judge(partitions, published, letters, oracle, within, reach, output.aged)
    if report.passed(exact=config.numerics is Numerics.EXACT):
        if report.hollow and not any(partition.letters for partition in partitions):
            raise OperatorActionRequired(
                f"nothing can be judged: {report.unjudged} streams have begun before the first record that {config.input.topic} "
                f"still holds, and {report.predictions_gone} predictions may have left {config.output.topic} with age. Keep both "
                "for longer, or let streams end now and then (a null value under their key)."
            )
        return report
    return replace(report, examples=(*_doubts(config, partitions, reach), *report.examples))


def _doubts(config: Config, partitions: Sequence[Offered], reach: Mapping[int, int]) -> Iterator[str]:
    """Of which input partitions the dead letters do not tell any more what was refused."""
    for number, begins_at in ((partition.partition, partition.begins_at) for partition in partitions):
        if begins_at < reach[number]:
            yield (
                f"{config.dead_letters.topic} has lost letters: which records of input partition {number} below offset "
                f"{reach[number]} were refused as step_failed, kills or output_too_large is not known any more, and they are "
                "judged as if none were"
            )


def _beyond(found: Prediction | Letter, committed: Mapping[Partition, int], extent: Extent) -> bool:
    """Whether nothing that the group has committed can have led to it."""
    ends = {partition.partition: offset for partition, offset in committed.items()}
    return extent.end is None and found.offset >= ends.get(found.partition, 0)


def _committed(source: Source, inputs: list[Partition]) -> dict[Partition, int]:
    """The first offset that is not committed, of each partition of which the group has ever committed one."""
    for _ in range(int(_TIMEOUT)):
        try:
            found = source.committed(inputs, timeout=1.0)
            return {partition: committed.offset for partition, committed in found.items() if committed}
        except OffsetsPending:
            continue
    raise TransportUnavailable(f"a transaction has kept the group's offsets open for {_TIMEOUT:g} s; try again later")


def _decoded(
    application: Application,
    reader: Reader,
    partition: Partition,
    low: int,
    stop: int,
    extent: Extent,
    left_out: Collection[int],
) -> Iterator[tuple[RecordBatch, Chunks]]:
    """Without the offsets in `left_out`, which may end whoever decodes them."""
    for batch in map(extent.select, reader.read(partition, low, stop, _TIMEOUT)):
        if left_out:
            batch = batch.take([row for row, offset in enumerate(batch.offsets) if offset not in left_out])
        if len(batch):
            yield batch, application.decoder.decode(batch.keys, batch.values, batch.timestamps)


def _begun(config: Config, reader: Reader, number: int) -> int | None:
    """The offset that a task has begun with, where the snapshot topic tells. The note is among the topic's first records."""
    try:
        if number < (reader.partitions(config.snapshot_topic, _TIMEOUT) or 0):
            partition = Partition(config.snapshot_topic, number)
            for batch in reader.read(partition, *reader.watermarks(partition, _TIMEOUT), _TIMEOUT):
                for key, value in zip(batch.keys, batch.values, strict=True):
                    if begun := Begun.read(key or b"", value):
                        return begun.first
    except TransportUnavailable as error:  # who may not read the topic judges from the log's beginning on
        _LOG.warning("where the task of partition %d has begun is not known: %s", number, error)
    return None


@dataclass(frozen=True, slots=True)
class Output:
    """Predictions of the keys that are meant; and, of each partition of their topic that has lost its first records with age, the
    lowest offset of each input partition that those left are about, of all keys (None) and of each."""

    found: list[Prediction]
    partitions: int
    left: dict[int, dict[tuple[int, str | None], int]]
    spread: int
    """Predictions in a topic are this far from the order of their records, at most: as many as a poll may bring."""

    def aged(self, partition: int, key: bytes, offset: int) -> bool:
        """Whether what this record of an input partition led to may be gone."""
        left = self.left.get(partition_of(key, self.partitions))
        if left is None:
            return False
        first = left.get((partition, None))
        return first is None or offset < min(left.get((partition, shown(key)), sys.maxsize), first + self.spread)


def _published(application: Application, reader: Reader, extent: Extent) -> Output:
    topic = application.config.output.topic
    output = Output([], reader.partitions(topic, _TIMEOUT) or 0, {}, application.config.poll.max_records)
    for number in range(output.partitions):
        low, high = reader.watermarks(Partition(topic, number), _TIMEOUT)
        left: dict[tuple[int, str | None], int] = {}
        if low > 0:
            output.left[number] = left
        for batch in reader.read(Partition(topic, number), low, high, _TIMEOUT):
            for key, value in zip(batch.keys, batch.values, strict=True):
                if value is None or not (low > 0 or extent.holds(key)):
                    continue
                prediction = application.encoder.decode(value)
                if low > 0:
                    for of in (None, prediction.key):
                        at = prediction.partition, of
                        left[at] = min(prediction.offset, left.get(at, prediction.offset))
                if extent.holds(key):
                    output.found.append(prediction)
    return output


@dataclass(frozen=True, slots=True)
class Letters:
    """Dead letters of the keys that are meant, of all times; and, of each partition of their topic that has lost its first records
    with age, the lowest offset of each input partition that those left are about."""

    found: list[Letter]
    left: list[dict[int, int]]

    def reach(self, partition: int, end: int) -> int:
        """The offset of an input partition that ends at `end` from which on none of its letters is gone."""
        return max((lowest.get(partition, end) for lowest in self.left), default=0)


def read_letters(config: Config, reader: Reader, extent: Extent) -> Letters:
    """The application's."""
    letters, topic = Letters([], []), config.dead_letters.topic
    for number in range(reader.partitions(topic, _TIMEOUT) or 0):
        low, high = reader.watermarks(Partition(topic, number), _TIMEOUT)
        lowest: dict[int, int] = {}
        if low > 0:
            letters.left.append(lowest)
        for batch in reader.read(Partition(topic, number), low, high, _TIMEOUT):
            for row in range(len(batch)):
                found = dead_letter_of(batch.headers(row), config.app, config.input.topic)
                if found is None:
                    continue
                letter = Letter(*found)
                lowest[letter.partition] = min(letter.offset, lowest.get(letter.partition, letter.offset))
                if extent.holds(batch.keys[row]):
                    letters.found.append(letter)
    return letters


def on_trust(letters: Iterable[Letter]) -> dict[int, set[int]]:
    """Partition → offsets of the records that were refused for what they did, which nothing in them tells."""
    found: dict[int, set[int]] = {}
    for letter in letters:
        if letter.reason in ON_TRUST:
            found.setdefault(letter.partition, set()).add(letter.offset)
    return found
