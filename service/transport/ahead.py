"""Clients that are made before anybody asks for them: they find their broker while the process has other things to do."""

from __future__ import annotations

from service.transport.interface import Admin, Isolation, Membership, Publisher, Reader, Sink, Source, Transport


class Ahead:
    """Implements `Transport`. The first source, sink, reader and publisher exist at once; whoever asks for one like it gets that,
    and everybody else a new one; they share one admin. None of them has joined, opened or written anything yet, so no other process
    feels them."""

    def __init__(self, transport: Transport, membership: Membership, transactional_id: str, transaction_timeout: float) -> None:
        self._transport = transport
        self._sources = {membership: transport.source(membership)}
        self._sinks = {(transactional_id, transaction_timeout): transport.sink(transactional_id, transaction_timeout)}
        self._readers = {Isolation.READ_COMMITTED: transport.reader(Isolation.READ_COMMITTED)}
        self._publishers = [transport.publisher()]
        self._admin = transport.admin()

    def source(self, membership: Membership) -> Source:
        return self._sources.pop(membership, None) or self._transport.source(membership)

    def sink(self, transactional_id: str, transaction_timeout: float) -> Sink:
        made = self._sinks.pop((transactional_id, transaction_timeout), None)
        return made or self._transport.sink(transactional_id, transaction_timeout)

    def reader(self, isolation: Isolation = Isolation.READ_COMMITTED) -> Reader:
        return self._readers.pop(isolation, None) or self._transport.reader(isolation)

    def admin(self) -> Admin:
        return self._admin

    def publisher(self) -> Publisher:
        return self._publishers.pop() if self._publishers else self._transport.publisher()

    def describe(self) -> str:
        return self._transport.describe()
