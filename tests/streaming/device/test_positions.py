"""Where a filled round's rows go: what a GPU writes at once must go to different places, but for what nobody reads."""

from __future__ import annotations

import torch

from service.streaming.device.placed import FilledSpan
from service.streaming.turn import Span


def test_only_the_last_rows_of_a_chunk_longer_than_the_ring_are_kept_and_no_two_go_to_one_place() -> None:
    start, stop = torch.tensor([5, 0, 7]), torch.tensor([45, 3, 7])
    slots, depth = torch.tensor([2, 1, 4]), 16
    beyond = [torch.cat([part, torch.zeros(1, dtype=torch.int64)]) for part in (start, stop, slots)]

    filled = FilledSpan(beyond[0], beyond[1], 50, {}).ring_rows(beyond[2], depth)

    plain = Span(start, stop)
    wanted = plain.ring_rows(slots, depth).masked_fill(plain.index < (stop - depth).index_select(0, plain.owner), 0)
    assert filled[:43].tolist() == wanted.tolist()
    assert not filled[43:].any()
    written = filled[filled > 0]
    assert len(written) == len(written.unique()) == 16 + 3


def test_rows_of_a_round_are_numbered_as_on_the_host_and_the_others_are_nobodys() -> None:
    start, stop = torch.tensor([3, 9, 0, 4]), torch.tensor([5, 9, 4, 5])
    zero = torch.zeros(1, dtype=torch.int64)
    plain, filled = Span(start, stop), FilledSpan(torch.cat([start, zero]), torch.cat([stop, zero]), 11, {8: 5})

    assert filled.index[: plain.rows].tolist() == plain.index.tolist()
    assert filled.owner[: plain.rows].tolist() == plain.owner.tolist()
    assert filled.owner[plain.rows :].tolist() == [4] * 4
    assert filled.beyond.tolist() == [False] * 7 + [True] * 4
    assert filled.tiles(8).index[: plain.tiles(8).rows].tolist() == plain.tiles(8).index.tolist()
