"""Times and keys on the command line, and what they mean in the log."""

from __future__ import annotations

import pytest

from service.errors import ConfigurationError
from service.extent import EVERYTHING, Extent
from service.transport.interface import Partition, Reader, RecordBatch, TopicDescription
from service.transport.memory import MemoryLog, MemoryTransport

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2023-11-14T22:13:20", 1_700_000_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500),
        ("2023-11-14", 1_699_920_000_000),
        ("90s", 1_699_999_910_000),
        ("2h", 1_699_992_800_000),
    ],
)
def test_times_are_absolute_or_before_now(text: str, milliseconds: int) -> None:
    assert Extent.parse(text, None, None, NOW).begin == milliseconds
    assert Extent.parse(None, text, None, NOW).end == milliseconds


@pytest.mark.parametrize("text", ["yesterday", "5", "-2h", "2023-13-01", ""])
def test_anything_else_is_refused_with_the_option_and_examples(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--to .*: is neither a time, such as .* nor a duration"):
        Extent.parse(None, text, None, NOW)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--from 1h is not before --to 2h"):
        Extent.parse("1h", "2h", None, NOW)


def test_keys_are_given_as_they_are_shown() -> None:
    batch = RecordBatch("in", 0, [4, 5, 7], [1, 2, 3], [b"a", b"\xff", None], [b"x", b"y", None], lambda row: [(str(row), None)])
    assert EVERYTHING.select(batch) is batch
    chosen = Extent(keys=frozenset({"\\xff"})).select(batch)
    assert (chosen.offsets, chosen.timestamps, chosen.keys, chosen.values) == ([5], [2], [b"\xff"], [b"y"])
    assert chosen.headers(0) == [("1", None)]


def log_of(*times: int) -> Reader:
    transport = MemoryTransport(MemoryLog(clock=lambda: NOW))
    transport.admin().create([TopicDescription("in", 1)], 1.0)
    for at in times:
        transport.publisher().publish("in", b"x", timestamp=at)
    return transport.reader()


def test_times_become_offsets_within_what_there_is() -> None:
    reader, where = log_of(10, 20, 20, 30), Partition("in", 0)

    def offsets(begin: int | None, end: int | None, low: int = 0, stop: int = 4) -> tuple[range, ...]:
        return Extent(begin, end).offsets(reader, where, low, stop, 1.0).runs

    assert offsets(None, None) == (range(4),)
    assert offsets(20, 30) == (range(1, 3),)
    assert offsets(11, 21) == (range(1, 3),)
    assert offsets(20, None, stop=2) == (range(1, 2),)
    assert offsets(None, 20, low=1) == ()
    assert offsets(31, None) == ()
    assert offsets(None, None, low=4) == ()


def test_a_record_is_told_by_its_own_time() -> None:
    """A clock ahead and a clock behind."""
    reader, where = log_of(90, 10, 20, 5, 25, 90, 30, 40), Partition("in", 0)
    found = Extent(20, 40).offsets(reader, where, 0, 8, 1.0)
    assert found.runs == (range(2, 3), range(4, 5), range(6, 7))
    assert [offset for offset in range(9) if offset in found] == [2, 4, 6]
    assert (found.start, found.stop) == (2, 7)
    assert Extent(None, 40).offsets(reader, where, 0, 8, 1.0).runs == (range(1, 5), range(6, 7))
    assert Extent(20, None).offsets(reader, where, 0, 8, 1.0).runs == (range(1), range(2, 3), range(4, 8))
