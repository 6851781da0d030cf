"""Who keeps a slot, and who leaves it."""

from __future__ import annotations

import numpy as np
import pytest

from service.state import Chosen, Packed, Streams
from tests.cluster import applications


@pytest.fixture
def streams() -> Streams:
    """Six slots, five streams that have been fed, one frame each, in the order of their slots' numbers."""
    streams = Streams(applications()["one"].program, 7)
    streams.assign(0)
    streams.make_room(5)
    for number in range(5):
        feed(streams, streams.open(0, b"key-%d" % number, number, 1000.0, live=False))
    return streams


def feed(streams: Streams, slot: int) -> None:
    streams.feed(Packed(np.array([slot]), np.ones((1, 2), np.float32), np.array([1]), None))
    streams.table.rows["frames"][slot] += 1
    streams.table.rows["dirty_since"][slot] = 1


def keys(streams: Streams) -> set[bytes]:
    return set(streams.index[0])


def slot(streams: Streams, key: bytes) -> int:
    return streams.index[0][key]


def test_who_was_fed_longest_ago_leaves_first(streams: Streams) -> None:
    feed(streams, slot(streams, b"key-0"))
    streams.make_room(3)
    assert keys(streams) == {b"key-0", b"key-3", b"key-4"}


def test_who_is_pinned_changed_by_the_epoch_or_snapshotted_by_the_commit_under_way_stays(streams: Streams) -> None:
    streams.protect(np.array([slot(streams, b"key-0")]))
    streams.snapshots(Chosen(np.array([slot(streams, b"key-1")]), np.zeros(0, np.int64)))
    assert streams.room == 4
    streams.make_room(2, {slot(streams, b"key-2")})
    assert keys(streams) == {b"key-0", b"key-1", b"key-2", b"key-4"}
    streams.settle()
    assert streams.room == 6
    streams.make_room(4)
    assert keys(streams) == {b"key-2", b"key-4"}


def test_more_room_than_there_is_is_a_mistake(streams: Streams) -> None:
    streams.protect(np.array(list(streams.index[0].values())))
    assert streams.room == 1
    streams.make_room(1)
    with pytest.raises(AssertionError, match="slots are wanted"):
        streams.make_room(2)
