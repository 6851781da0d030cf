"""Reads what was offered and what was published, for `penstock audit`."""

from __future__ import annotations

from collections.abc import Iterator

from service.app import Application
from service.audit.history import OfferedStream, streams
from service.audit.judge import AuditReport, judge
from service.audit.oracle import ModuleOracle
from service.codec.interface import Chunks, Prediction
from service.errors import OffsetsPending, OperatorActionRequired, TransportUnavailable
from service.model import device
from service.transport.interface import Committed, Isolation, Membership, Partition, Reader, RecordBatch, Transport

_TIMEOUT = 30.0


def audit(application: Application, transport: Transport) -> AuditReport:
    """Judge everything that the group has committed: inputs up to its offsets, predictions as a `read_committed` reader sees
    them. Raises `OperatorActionRequired` where there is nothing to judge by."""
    committed = _committed(application, transport)
    reader = transport.reader(Isolation.READ_COMMITTED)
    try:
        offered: list[OfferedStream] = []
        for partition, position in committed.items():
            low, _ = reader.watermarks(partition, _TIMEOUT)
            stop = position.offset if position is not None else low
            offered += streams(partition.partition, _decoded(application, reader, partition, low, stop), low)
        published = list(_published(application, reader))
    finally:
        reader.close()
    return judge(offered, published, ModuleOracle(application.module, application.program, device(application.config)))


def _committed(application: Application, transport: Transport) -> dict[Partition, Committed | None]:
    topic = application.config.input.topic
    source = transport.source(Membership(application.config.app, "audit", static=False))
    reader = transport.reader()
    try:
        count = reader.partitions(topic, _TIMEOUT)
        if count is None:
            raise OperatorActionRequired(f"{topic} does not exist, so there is nothing to audit")
        for _ in range(int(_TIMEOUT)):
            try:
                return source.committed([Partition(topic, number) for number in range(count)], timeout=1.0)
            except OffsetsPending:
                continue
        raise TransportUnavailable(f"a transaction has kept the group's offsets open for {_TIMEOUT:g} s; try again later")
    finally:
        reader.close()
        source.close()


def _decoded(
    application: Application, reader: Reader, partition: Partition, low: int, stop: int
) -> Iterator[tuple[RecordBatch, Chunks]]:
    for batch in reader.read(partition, low, stop, _TIMEOUT):
        yield batch, application.decoder.decode(batch.keys, batch.values, batch.timestamps)


def _published(application: Application, reader: Reader) -> Iterator[Prediction]:
    topic = application.config.output.topic
    for number in range(reader.partitions(topic, _TIMEOUT) or 0):
        partition = Partition(topic, number)
        low, high = reader.watermarks(partition, _TIMEOUT)
        for batch in reader.read(partition, low, high, _TIMEOUT):
            for value in batch.values:
                if value is not None:
                    yield application.encoder.decode(value)
