"""Reads predictions as anybody downstream would: a consumer group of its own, committed records only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.codec.interface import Encoder, Prediction
from service.transport.interface import Membership, Partition, Transport

_TIMEOUT = 30.0


class Audience:
    """Sees every prediction that is committed after this was made. A `RebalanceListener` of its own source."""

    def __init__(self, transport: Transport, group: str, topic: str, encoder: Encoder) -> None:
        reader = transport.reader()
        try:
            partitions = [Partition(topic, number) for number in range(reader.partitions(topic, _TIMEOUT) or 0)]
            self._starts = {partition: reader.watermarks(partition, _TIMEOUT)[1] for partition in partitions}
        finally:
            reader.close()
        self._encoder = encoder
        self._source = transport.source(Membership(group, "audience", static=False))
        self._source.subscribe([topic], self)

    def poll(self, timeout: float) -> Iterator[Prediction]:
        for batch in self._source.poll(10_000, timeout):
            yield from (self._encoder.decode(value) for value in batch.values if value is not None)
            self._starts[Partition(batch.topic, batch.partition)] = batch.offsets[-1] + 1

    def close(self) -> None:
        self._source.close()

    def assigned(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self._source.start(partition, self._starts[partition])

    def revoked(self, partitions: Sequence[Partition]) -> None: ...

    def lost(self, partitions: Sequence[Partition]) -> None: ...
