"""Which streams are snapshotted when: the oldest first, spread evenly, within the bounds, and never beyond the budget."""

from __future__ import annotations

import math

import numpy as np
import pytest

from service.state import SlotTable, SnapshotPolicy, replay_from


def table(*streams: tuple[int, int, float]) -> SlotTable:
    """Dirty streams: task, offset and time since when."""
    table = SlotTable(len(streams) + 2)
    for task, since, at in streams:
        slot = table.free.pop()
        table.occupy(slot, task, b"key")
        table.rows["dirty_since"][slot], table.rows["dirty_at"][slot] = since, at
    return table


def policy(every: float = 10.0, records: int = 1000, budget: float = math.inf) -> SnapshotPolicy:
    return SnapshotPolicy(every, records, budget)


def test_the_longest_dirty_go_first_whether_they_have_a_slot_or_lie_frozen() -> None:
    warm, cold = table((0, 5, 100.0), (0, 6, 103.0)), table((0, 1, 101.0), (0, 2, 99.0))
    slots, rows = policy().choose([warm, cold], {0: 10}, now=104.0, elapsed=5.0)
    assert (slots.tolist(), rows.tolist()) == ([1], [2])


def test_a_commit_takes_its_share_and_fractions_add_up() -> None:
    streams, spread = table(*[(0, 0, 100.0)] * 10), policy(every=10.0)
    taken = [len(spread.choose([streams], {0: 1}, now=100.0, elapsed=0.25)[0]) for _ in range(8)]
    assert sum(taken) == 2
    assert max(taken) == 1


def test_too_old_and_too_far_behind_must_go_at_once() -> None:
    streams = table((0, 900, 95.0), (0, 10, 99.0), (0, 950, 99.5))
    assert policy(records=100).choose([streams], {0: 1000}, now=100.0, elapsed=0.0)[0].tolist() == [1, 2]
    assert policy(every=5.0).choose([streams], {0: 1000}, now=100.0, elapsed=0.0)[0].tolist() == [1]


def test_streams_of_other_tasks_stay_as_they_are() -> None:
    streams = table((0, 0, 0.0), (1, 0, 0.0))
    assert policy().choose([streams], {1: 5}, now=100.0, elapsed=1.0)[0].tolist() == [2]


def test_the_budget_wins_over_the_bounds_and_says_so() -> None:
    streams, tight = table(*[(0, 0, 0.0)] * 20), policy(budget=500.0)
    first = tight.choose([streams], {0: 5000}, now=100.0, elapsed=1.0)[0]
    assert (len(first), tight.deferred) == (20, 0)  # before the first one nobody knows how large they are
    tight.wrote(20, 2000)
    assert not tight.overdue([streams], {0: 5000}, now=101.0, elapsed=1.0)  # the debt comes first
    assert (len(tight.choose([streams], {0: 5000}, now=102.0, elapsed=2.0)[0]), tight.deferred) == (0, 20)
    assert tight.overdue([streams], {0: 5000}, now=104.0, elapsed=2.0)
    assert (len(tight.choose([streams], {0: 5000}, now=103.0, elapsed=1.0)[0]), tight.deferred) == (0, 20)
    assert (len(tight.choose([streams], {0: 5000}, now=104.0, elapsed=0.6)[0]), tight.deferred) == (3, 17)


def test_a_snapshot_larger_than_the_budget_goes_when_enough_is_saved() -> None:
    streams, tight = table((0, 0, 0.0)), policy(budget=10.0)
    tight.wrote(1, 100)
    counts = [len(tight.choose([streams], {0: 5}, now=100.0 + turn, elapsed=1.0)[0]) for turn in range(21)]
    assert counts.index(1) == 19


@pytest.mark.parametrize(("leaving", "expected"), [([], 3), ([1], 7), ([1, 2], 20), ([2], 3)])
def test_replay_begins_at_the_oldest_record_that_no_snapshot_has(leaving: list[int], expected: int) -> None:
    streams = table((0, 3, 1.0), (0, 7, 0.0), (1, 1, 0.0))
    assert replay_from(streams, 0, 20, np.array(leaving, np.int64)) == expected


def test_of_very_many_only_the_oldest_are_put_in_order() -> None:
    ages = np.random.default_rng(1).permutation(5000)
    streams = table(*[(0, 0, float(age)) for age in ages])
    slots, rows = policy(every=100.0).choose([streams, table((0, 0, 3.5))], {0: 1}, now=1.0, elapsed=0.2)
    oldest = np.sort(streams.rows["dirty_at"][slots])
    assert oldest.tolist() == [float(age) for age in range(len(slots))]
    assert len(slots) + len(rows) == 10
    assert len(rows) == 1


def test_a_stream_that_holds_back_the_bound_of_one_task_is_owed_a_commit_whoever_is_older() -> None:
    streams, bounded = table((0, 950, 1.0), (1, 10, 2.0)), policy(every=100.0, records=100)
    assert bounded.overdue([streams], {0: 1000, 1: 1000}, now=3.0, elapsed=1.0)
    assert not bounded.overdue([streams], {0: 1000}, now=3.0, elapsed=1.0)
