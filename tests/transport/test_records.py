"""Parts of what a poll brought."""

from __future__ import annotations

from service.transport.interface import Headers, RecordBatch


def headers(row: int) -> Headers:
    return [("row", b"%d" % row)]


def batch(count: int) -> RecordBatch:
    numbers = list(range(count))
    return RecordBatch("in", 0, numbers, numbers, [b"k"] * count, [b"v"] * count, headers)


def test_headers_are_found_however_often_a_part_was_parted() -> None:
    """The rest of a poll may wait for thousands of steps, and each cuts it."""
    part = batch(5000)
    while len(part) > 3:
        part = part.slice(1, len(part))
    assert [part.headers(row) for row in range(3)] == [headers(4997), headers(4998), headers(4999)]


def test_headers_follow_the_rows_that_are_taken() -> None:
    part = batch(10).take([7, 1, 4, 9]).slice(1, 4).take([2, 0])
    assert part.offsets == [9, 1]
    assert [part.headers(row) for row in range(2)] == [headers(9), headers(1)]
