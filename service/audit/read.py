"""Reads what was offered and what was published, for `penstock audit`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from service.app import Application
from service.audit.history import Letter, offered
from service.audit.judge import ON_TRUST, AuditReport, judge
from service.audit.oracle import ModuleOracle
from service.codec.interface import Chunks, Prediction
from service.errors import OffsetsPending, OperatorActionRequired, TransportUnavailable
from service.extent import EVERYTHING, Extent
from service.refused import dead_letter_of
from service.transport.interface import Isolation, Membership, Partition, Reader, RecordBatch, Source, Transport

_TIMEOUT = 30.0


def audit(application: Application, transport: Transport, extent: Extent = EVERYTHING) -> AuditReport:
    """Judge what the group has committed, within `extent`: inputs up to its offsets, predictions and dead letters as a
    `read_committed` reader sees them. A worker may go on meanwhile: what it commits after the first look is left out.

    The input is read from its beginning all the same, because a prediction follows from the whole of its stream; what is kept in
    memory are the streams that reach into the extent. Raises `OperatorActionRequired` where there is nothing to judge by.
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
        letters = list(read_letters(config.dead_letters.topic, reader, extent))
        failed = on_trust(letters)
        partitions, within = [], {}
        for partition, stop in before.items():
            low, _ = reader.watermarks(partition, _TIMEOUT)
            offsets = within[partition.partition] = extent.offsets(reader, partition, low, stop, _TIMEOUT)
            left_out = failed.get(partition.partition, set())
            decoded = _decoded(application, reader, partition, low, offsets.stop, extent, left_out)
            partitions.append(offered(partition.partition, decoded, low, offsets))
        published = [
            prediction
            for prediction in _published(application, reader, extent)
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

    return judge(
        partitions,
        [prediction for prediction in published if judged(prediction)],
        [letter for letter in letters if judged(letter)],
        ModuleOracle(application.module, application.program),
        within,
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


def _published(application: Application, reader: Reader, extent: Extent) -> Iterator[Prediction]:
    for batch in _batches(application.config.output.topic, reader):
        for key, value in zip(batch.keys, batch.values, strict=True):
            if value is not None and extent.holds(key):
                yield application.encoder.decode(value)


def read_letters(topic: str, reader: Reader, extent: Extent) -> Iterator[Letter]:
    """The dead letters of the keys that are meant, of all times."""
    for batch in _batches(topic, reader):
        for row in range(len(batch)):
            if extent.holds(batch.keys[row]):
                yield Letter(*dead_letter_of(batch.headers(row)))


def on_trust(letters: Iterable[Letter]) -> dict[int, set[int]]:
    """Partition → offsets of the records that were refused for what they did, which nothing in them tells."""
    found: dict[int, set[int]] = {}
    for letter in letters:
        if letter.reason in ON_TRUST:
            found.setdefault(letter.partition, set()).add(letter.offset)
    return found


def _batches(topic: str, reader: Reader) -> Iterator[RecordBatch]:
    for number in range(reader.partitions(topic, _TIMEOUT) or 0):
        partition = Partition(topic, number)
        low, high = reader.watermarks(partition, _TIMEOUT)
        yield from reader.read(partition, low, high, _TIMEOUT)
