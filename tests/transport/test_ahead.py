"""Clients made ahead are handed out once, to whoever asks for just that; nobody else feels them."""

from __future__ import annotations

from service.transport.ahead import Ahead
from service.transport.interface import Isolation, Membership
from service.transport.memory import MemoryLog, MemoryTransport


class Counting(MemoryTransport):
    """Counts the clients that it makes."""

    made = 0

    def source(self, membership: Membership) -> object:  # type: ignore[override]
        self.made += 1
        return super().source(membership)

    def sink(self, transactional_id: str, transaction_timeout: float) -> object:  # type: ignore[override]
        self.made += 1
        return super().sink(transactional_id, transaction_timeout)

    def reader(self, isolation: Isolation = Isolation.READ_COMMITTED) -> object:  # type: ignore[override]
        self.made += 1
        return super().reader(isolation)

    def publisher(self) -> object:  # type: ignore[override]
        self.made += 1
        return super().publisher()


def test_each_is_handed_out_once_and_only_where_it_fits() -> None:
    inner = Counting(MemoryLog())
    member = Membership("app", "one")
    ahead = Ahead(inner, member, "app-one", 15.0)
    assert inner.made == 4
    for count, ask in [
        (5, lambda: ahead.sink("app-one", 10.0)),
        (6, lambda: ahead.sink("app-two", 15.0)),
        (6, lambda: ahead.sink("app-one", 15.0)),
        (7, lambda: ahead.sink("app-one", 15.0)),
        (8, lambda: ahead.source(Membership("app", "two"))),
        (8, lambda: ahead.source(member)),
        (9, lambda: ahead.source(member)),
        (10, lambda: ahead.reader(Isolation.READ_UNCOMMITTED)),
        (10, ahead.reader),
        (11, ahead.reader),
        (11, ahead.publisher),
        (12, ahead.publisher),
    ]:
        ask()
        assert inner.made == count


def test_one_admin_serves_all() -> None:
    ahead = Ahead(MemoryTransport(MemoryLog()), Membership("app", "one"), "app-one", 15.0)
    assert ahead.admin() is ahead.admin()
