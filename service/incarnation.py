"""Which of several processes with one name is the newest: the last one that has signed the register.

The register is a key of the snapshot topic, one for each instance. A process signs it, outside any transaction, *before* it takes
the transactional id. So whoever was fenced by a newer process finds that process's signature, and whoever finds none after its
own was fenced by an older one, or by the timeout of its own transaction, and may take the transactional id back. The order is
that of the log; no clock is compared.
"""

from __future__ import annotations

import secrets

import structlog

from service.errors import TransportUnavailable
from service.transport.interface import Isolation, Partition, Publisher, Reader, Transport

log = structlog.get_logger("penstock.incarnation")

SIGNED = b"PSNI\x01"
"""How the value of a signature begins; the rest names the process."""
_TRIES = 3


class Incarnation:
    """One process of an instance. `name` is its own alone."""

    def __init__(self, transport: Transport, topic: str, instance: str) -> None:
        self.name = secrets.token_hex(8)
        self._transport = transport
        self._register = Partition(topic, 0)
        self._key = b"\x00penstock.instance." + instance.encode()
        self._since = 0

    def sign(self, reader: Reader, publisher: Publisher, timeout: float) -> None:
        """From now on every older process of this instance is superseded. Raises `TransportUnavailable`."""
        _, self._since = reader.watermarks(self._register, timeout)
        for left in reversed(range(_TRIES)):
            publisher.publish(self._register.topic, SIGNED + self.name.encode(), key=self._key, partition=self._register.partition)
            try:
                publisher.flush(timeout / _TRIES)
                return
            except TransportUnavailable as error:  # it may have been written; then it is signed twice, and the last one counts
                if not left:
                    raise
                log.warning("signing_again", reason=str(error))

    def superseded(self, timeout: float) -> bool:
        """Whether a newer process of this instance has signed. Reads what the register's partition got since this was last asked.
        Raises `TransportUnavailable`."""
        reader = self._transport.reader(Isolation.READ_UNCOMMITTED)  # signatures stand outside transactions
        try:
            low, high = reader.watermarks(self._register, timeout)
            latest = SIGNED + self.name.encode()
            for batch in reader.read(self._register, max(low, self._since), high, timeout):
                for key, value in zip(batch.keys, batch.values, strict=True):
                    if key == self._key and value is not None and value.startswith(SIGNED):
                        latest = value
        finally:
            reader.close()
        if latest != SIGNED + self.name.encode():
            return True
        self._since = high
        return False
