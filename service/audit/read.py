"""Reads what was offered and what was published, for `penstock audit`."""

from __future__ import annotations

from collections.abc import Iterator

from service.app import Application
from service.audit.history import Letter, offered
from service.audit.judge import ON_TRUST, AuditReport, judge
from service.audit.oracle import ModuleOracle
from service.codec.interface import Chunks, Prediction
from service.errors import OffsetsPending, OperatorActionRequired, TransportUnavailable
from service.model import device
from service.transport.interface import Isolation, Membership, Partition, Reader, RecordBatch, Source, Transport

_TIMEOUT = 30.0


def audit(application: Application, transport: Transport) -> AuditReport:
    """Judge everything that the group has committed: inputs up to its offsets, predictions and dead letters as a
    `read_committed` reader sees them. A worker may go on meanwhile: what it commits after the first look is left out.

    Raises `OperatorActionRequired` where there is nothing to judge by.
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
        letters = list(_letters(config.dead_letters.topic, reader))
        failed = {(letter.partition, letter.offset) for letter in letters if letter.reason in ON_TRUST}
        partitions = []
        for partition, stop in before.items():
            low, _ = reader.watermarks(partition, _TIMEOUT)
            there = {offset for number, offset in failed if number == partition.partition}
            partitions.append(offered(partition.partition, _decoded(application, reader, partition, low, stop), low, there))
        published = list(_published(application, reader))
        after = _committed(source, inputs)
    finally:
        source.close()
        reader.close()

    def judged(partition: int, offset: int) -> bool:
        at = Partition(config.input.topic, partition)
        return at not in before or not before[at] <= offset < after[at]

    return judge(
        partitions,
        [prediction for prediction in published if judged(prediction.partition, prediction.offset)],
        [letter for letter in letters if judged(letter.partition, letter.offset)],
        ModuleOracle(application.module, application.program, device(config)),
    )


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
    application: Application, reader: Reader, partition: Partition, low: int, stop: int
) -> Iterator[tuple[RecordBatch, Chunks]]:
    for batch in reader.read(partition, low, stop, _TIMEOUT):
        if len(batch):
            yield batch, application.decoder.decode(batch.keys, batch.values, batch.timestamps)


def _published(application: Application, reader: Reader) -> Iterator[Prediction]:
    for batch in _batches(application.config.output.topic, reader):
        for value in batch.values:
            if value is not None:
                yield application.encoder.decode(value)


def _letters(topic: str, reader: Reader) -> Iterator[Letter]:
    for batch in _batches(topic, reader):
        for row in range(len(batch)):
            found = {name: (value or b"").decode() for name, value in batch.headers(row) if name.startswith("penstock.")}
            yield Letter(int(found["penstock.partition"]), int(found["penstock.offset"]), found["penstock.error"])


def _batches(topic: str, reader: Reader) -> Iterator[RecordBatch]:
    for number in range(reader.partitions(topic, _TIMEOUT) or 0):
        partition = Partition(topic, number)
        low, high = reader.watermarks(partition, _TIMEOUT)
        yield from reader.read(partition, low, high, _TIMEOUT)
