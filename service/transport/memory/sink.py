"""A transactional producer on the in-memory log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.errors import EpochAborted, Fenced, OutcomeUnknown, PenstockError
from service.transport.interface import Committed, GroupToken, Headers, Partition
from service.transport.memory.log import Fault, MemoryLog
from service.transport.memory.partition import Fate, Transaction
from service.transport.memory.source import MemoryToken


class MemorySink:
    """Implements `Sink`."""

    def __init__(self, log: MemoryLog, transactional_id: str, transaction_timeout: float) -> None:
        self._log = log
        self._transactional_id = transactional_id
        self._timeout = transaction_timeout
        self._epoch = -1
        self._transaction: Transaction | None = None
        self._send_error: EpochAborted | None = None
        self._broken: PenstockError | None = None

    def open(self, timeout: float) -> None:
        self._epoch = self._log.open_producer(self._transactional_id)

    def begin(self) -> None:
        self._check_usable()
        if self._transaction is not None:
            raise RuntimeError("begin() inside a transaction")
        try:
            self._transaction = self._log.begin(self._transactional_id, self._epoch, self._timeout)
        except Fenced as error:
            self._broken = error
            raise

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
    ) -> None:
        transaction = self._writable()
        if not self._fails(topic):
            self._log.append(topic, value, key, partition, headers or [], transaction=transaction)

    def produce_many(self, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> None:
        transaction = self._writable()
        if self._fails(topic):
            return
        for key, value in zip(keys, values, strict=True):
            self._log.append(topic, value, key, None, [], transaction=transaction)

    def send_offsets(self, offsets: Mapping[Partition, Committed], group: GroupToken) -> None:
        transaction = self._writable()
        if not isinstance(group, MemoryToken):
            raise TypeError(f"a token of another transport: {group!r}")
        if not group.joined:
            raise EpochAborted(f"group {group.group}: not joined yet, so its offsets would not be fenced")
        self._log.add_offsets(transaction, group.group, group.identity, group.generation, offsets)

    def commit(self, timeout: float) -> None:
        transaction = self._writable()
        if self._log.strikes(Fault.ABORT_AT_COMMIT):
            raise EpochAborted(f"{self._transactional_id}: the broker demands an abort (injected)")
        if self._log.strikes(Fault.COMMIT_REQUEST_LOST):
            raise self._break(OutcomeUnknown(f"{self._transactional_id}: no answer to the commit (injected)"))
        self._end(transaction, Fate.COMMITTED)
        if self._log.strikes(Fault.COMMIT_RESPONSE_LOST):
            raise self._break(OutcomeUnknown(f"{self._transactional_id}: no answer to the commit (injected)"))

    def abort(self, timeout: float) -> None:
        self._check_usable()
        self._send_error = None
        if self._transaction is not None:
            self._end(self._transaction, Fate.ABORTED)
        if self._log.strikes(Fault.ABORT_RESPONSE_LOST):
            raise self._break(OutcomeUnknown(f"{self._transactional_id}: no answer to the abort (injected)"))

    def close(self) -> None:
        """An open transaction stays open, as after a crash: until its timeout or the next owner's `open`."""
        self._broken = self._broken or Fenced(f"{self._transactional_id}: the sink is closed")

    def _fails(self, topic: str) -> bool:
        if self._log.strikes(Fault.SEND_FAILS):
            self._send_error = EpochAborted(f"{topic}: a record could not be sent (injected)")
        return self._send_error is not None

    def _check_usable(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._epoch < 0:
            raise RuntimeError("open() comes first")

    def _writable(self) -> Transaction:
        self._check_usable()
        if self._send_error is not None:
            raise self._send_error
        if self._transaction is None:
            raise RuntimeError("begin() comes first")
        try:
            self._log.check(self._transaction, self._epoch)
        except (Fenced, OutcomeUnknown) as error:
            self._broken = error
            raise
        return self._transaction

    def _end(self, transaction: Transaction, fate: Fate) -> None:
        try:
            self._log.end(transaction, self._epoch, fate)
        except (Fenced, OutcomeUnknown) as error:
            self._broken = error
            raise
        self._transaction = None

    def _break(self, error: OutcomeUnknown) -> OutcomeUnknown:
        self._broken = error
        return error
