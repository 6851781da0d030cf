"""How a node reads one input: the rows themselves, or windows gathered from staging area, ring and fill rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from service.streaming.addresses import MOST_TAPS, SIGN, Group, Origins, origins
from service.streaming.arena import State
from service.streaming.graph import View
from service.streaming.operator import Banded, Batched, Edge, Window, Windowed, Windows
from service.streaming.plan import Plan, reads_fresh_rows
from service.streaming.turn import WORD, Span, Turn, WarmTurn

Rows = Mapping[int, Float[Tensor, "M C"]]
"""By value index."""

SAME_INDEX = Window(1, (0,))
PIECE = 1 << 20
"""How many numbers of tiles are gathered at once: few enough to stay in the cache."""


class Reading:
    """One input of one node, prepared: reads through `view` what `window` asks for, into the scratch memory's `lane`."""

    def __init__(self, view: View, window: Window, lane: int = 0) -> None:
        self.view = view
        self.window = window
        self.lane = lane
        self.taps = len(window.offsets)
        self.offsets = [offset + view.shift for offset in window.offsets]
        self.fill = window.fill if view.fill is None else view.fill
        self.padded = view.fill is not None or not window.is_same_index
        self.in_place = self.offsets == [0] and window.is_same_index
        self.alone = Group([self])
        self.group = self.alone

    def packed(self, rows: Rows) -> Float[Tensor, "M_in C"]:
        """The value's new rows as they are."""
        return rows[self.view.value.index]

    def source(self, turn: Turn, out: Span, rows: Rows, state: State) -> tuple[Float[Tensor, "S C"], Int[Tensor, "M*k"] | None]:
        """What holds the elements read, and where in there, window after window; None where they are the rows themselves."""
        if self.in_place and out is turn.span(self.view.value):
            return self.packed(rows), None
        store = state.stores.get(self.view.value.index)
        return self.packed(rows) if store is None else store.rows, self.addresses(turn, out, state)

    def rows(self, turn: Turn, out: Span, rows: Rows, state: State) -> Float[Tensor, "M*k C"]:
        """The elements read, window after window; valid until the next node reads."""
        source, addresses = self.source(turn, out, rows, state)
        if addresses is None:
            return source
        room = state.scratch.rows(self.lane, addresses.shape[0], self.view.channels)
        return torch.index_select(source, 0, addresses, out=room)

    def windows(self, turn: Turn, out: Span, rows: Rows, state: State) -> Windows:
        """The window of each output element."""
        values = self.rows(turn, out, rows, state).view(out.rows, self.taps, self.view.channels)
        totals = None
        if turn.final is not None:
            totals = turn.limit(self.view.timeline.total).index_select(0, out.owner)
        return Windows(values, out, totals)

    def batches(self, turn: Turn, out: Span, portions: Iterable[int], rows: Rows, state: State) -> Iterator[Windows]:
        """The windows of the output elements, portion after portion; all of what they read is data."""
        at = origins(turn, out, turn.span(self.view.value), self.window.stride, self.window.per)
        return self.batches_from(at, out, portions, rows, state)

    def batches_from(self, at: Origins, out: Span, portions: Iterable[int], rows: Rows, state: State) -> Iterator[Windows]:
        """The same, of windows whose origins are known already."""
        value = self.view.value
        store = state.stores.get(value.index)
        offsets = torch.tensor(self.offsets, dtype=WORD, device=at.ahead.device)
        first = 0
        for count in portions:
            ahead, packed, index, slot = (part[first : first + count].unsqueeze(1) for part in at.parts)
            first += count
            ahead = ahead + offsets
            found = ahead + (packed if store is None else packed + store.stage_at)
            if store is not None and store.depth:
                in_ring = (ahead + index).bitwise_and_(store.depth - 1).add_(slot * store.depth + store.ring_at)
                found += in_ring.sub_(found).bitwise_and_(ahead >> SIGN)
            room = state.scratch.rows(self.lane, found.numel(), value.channels)
            source = self.packed(rows) if store is None else store.rows
            values = torch.index_select(source, 0, found.view(-1), out=room)
            yield Windows(values.view(-1, self.taps, value.channels), out, None)

    def tiles(
        self, turn: Turn, out: Span, operator: Banded, rows: Rows, state: State
    ) -> Iterator[tuple[Float[Tensor, "P k C"], Int64[Tensor, "P"]]]:
        """What the tiles of the output elements read, some tiles at a time, and the index of each tile's first element."""
        store = state.stores[self.view.value.index]
        addresses, first = self.tile_addresses(turn, out, operator, state)
        count = max(1, PIECE // (self.taps * self.view.channels))
        for some, beginning in zip(torch.split(addresses, count), torch.split(first, count), strict=True):
            room = state.scratch.rows(self.lane, some.numel(), self.view.channels)
            values = torch.index_select(store.rows, 0, some.reshape(-1), out=room)
            yield values.view(len(some), self.taps, self.view.channels), beginning

    def tile_addresses(
        self, turn: Turn, out: Span, operator: Banded, state: State
    ) -> tuple[Int[Tensor, "P k"], Int64[Tensor, "P"]]:
        """The rows that the tiles of the output elements read, and the index of each tile's first element."""
        band, size = operator.band, operator.tile
        tiles = out.tiles(size)
        addresses = self.addresses(turn, tiles, state).view(tiles.rows, self.taps)
        first = tiles.index * size
        nothing = state.stores[self.view.value.index].fills.index(self.fill)
        edge = torch.arange(size - 1, device=first.device)
        # A tile has older elements than its first new output reads, and newer ones than there are yet: whatever memory holds there.
        oldest = (out.start - (band - 1)).index_select(0, tiles.owner) - (first - (band - 1))
        addresses[:, : size - 1].masked_fill_(edge < oldest.unsqueeze(1), nothing)
        newest = out.stop.index_select(0, tiles.owner) - (first + 1)
        addresses[:, band:].masked_fill_(edge >= newest.unsqueeze(1), nothing)
        return addresses, first

    def expanded(self, turn: Turn, out: Span, made: Float[Tensor, "F C"], factor: int) -> Float[Tensor, "M C"]:
        """Of the elements made from all new input rows, those that the output needs; all of them, except when rings are rebuilt."""
        if out.rows == len(made):
            return made
        into = turn.span(self.view.value)
        return made.index_select(0, out.index + into.to_stage.index_select(0, out.owner) * factor)

    def addresses(self, turn: Turn, out: Span, state: State) -> Int[Tensor, "M*k"]:
        """The rows of its store, or of its packed input where that has no store, window after window."""
        # Rings that are rebuilt each begin elsewhere.
        group = self.alone if isinstance(turn, WarmTurn) else self.group
        found = turn.shared.get(group)
        if found is None:
            made = group.addresses(turn, out, turn.span(self.view.value), state.stores)
            found = turn.shared[group] = dict(zip(group.readings, made, strict=True))
        addresses: Tensor = found[self]
        return addresses


def readings_of(plan: Plan) -> list[tuple[Reading, ...]]:
    """Every node's readings, in the order of the nodes; those that are alike in time are addressed together."""
    prepared = []
    groups: dict[object, list[list[Reading]]] = defaultdict(lambda: [[]])
    for node in plan.graph.nodes:
        window = node.operator.window if isinstance(node.operator, Windowed | Banded) else SAME_INDEX
        prepared.append(tuple(Reading(view, window, lane) for lane, view in enumerate(node.inputs)))
        for reading in prepared[-1]:
            alone = isinstance(node.operator, Batched) or window.edge is not Edge.FILL
            if alone or reads_fresh_rows(node, reading.view):
                continue
            value = reading.view.value
            kept = value.index in plan.depth
            alike = groups[node.output.timeline, value.timeline, window.stride, window.per, reading.taps, kept]
            if sum(other.taps for other in alike[-1]) + reading.taps > MOST_TAPS:
                alike.append([])
            alike[-1].append(reading)
    for together in (readings for alike in groups.values() for readings in alike if readings):
        group = Group(together)
        for reading in together:
            reading.group = group
    return prepared
