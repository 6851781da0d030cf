"""A task's life goes only the ways that are drawn in service/task.py."""

from __future__ import annotations

import itertools

import pytest

from service.errors import OperatorActionRequired
from service.task import LEGAL, OffsetMetadata, Phase, Task
from service.transport.interface import Committed, Partition

DRAWN = {
    (Phase.CREATED, Phase.RESTORING),
    (Phase.CREATED, Phase.CLOSED_DIRTY),
    (Phase.RESTORING, Phase.REPLAYING),
    (Phase.RESTORING, Phase.LIVE),
    (Phase.RESTORING, Phase.CLOSED_DIRTY),
    (Phase.REPLAYING, Phase.LIVE),
    (Phase.REPLAYING, Phase.CLOSED_DIRTY),
    (Phase.LIVE, Phase.CLOSED_CLEAN),
    (Phase.LIVE, Phase.CLOSED_DIRTY),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(Phase, Phase)))
def test_the_steps_that_are_drawn_are_taken_and_no_other(before: Phase, after: Phase) -> None:
    task = Task(0, Partition("in", 0), phase=before)
    if (before, after) in DRAWN:
        task.enter(after)
        assert task.phase is after
    else:
        with pytest.raises(AssertionError, match=f"from {before.value} to {after.value}"):
            task.enter(after)
    assert set(LEGAL) == set(Phase)


@pytest.mark.parametrize("phase", Phase)
def test_only_a_task_that_closed_clean_has_left_something_to_come_back_to(phase: Phase) -> None:
    task = Task(0, Partition("in", 0), phase=phase, committed=7, metadata="{}")
    assert task.left() == (Committed(7, "{}") if phase is Phase.CLOSED_CLEAN else None)
    task.metadata = ""
    assert task.left() is None


def test_metadata_reads_back_and_metadata_of_before_writers_were_named_does_too() -> None:
    metadata = OffsetMetadata(3, 2, "abc", "one")
    assert OffsetMetadata.from_text(metadata.to_text()) == metadata
    old = '{"v": 1, "replay_from": 3, "partitions": 2, "fingerprint": "abc"}'
    assert OffsetMetadata.from_text(old) == OffsetMetadata(3, 2, "abc", "")


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"v": 2}', '{"v": 1, "replay_from": "x"}'])
def test_metadata_that_somebody_else_wrote_is_refused(text: str) -> None:
    with pytest.raises(OperatorActionRequired, match="was not written by this version"):
        OffsetMetadata.from_text(text)
