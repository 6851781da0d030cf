"""Under `fast`: chunks of one length may go through torch's own convolution, which can be quicker than gathered windows.

Which way is quicker depends on the machine, the number of streams, the length of their chunks and the dilation, so each shape that
keeps coming is tried both ways. The dense way gathers every stream's input, from the first element that its windows read to the
last, once, `[B, L, C]`; the other way copies it once per tap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor

from service.streaming.arena import State, Store
from service.streaming.graph import Node
from service.streaming.operator import Edge
from service.streaming.reading import Reading, Rows
from service.streaming.turn import WORD, Span, Turn, phase

LEAST = 16
"""From how many outputs per stream on it is tried."""
MORE = 1.5
"""Up to how many elements per gathered one of the windows a stretch may have."""
AGAIN = 3
"""How often a shape has to come before it is tried: oneDNN generates code for each, which takes milliseconds."""
TURNS = 9
"""How often each way is tried. Each dense round is compared with the one before: a machine is slow for longer than that."""
REMEMBERED = 256


class Trial:
    """Of a program's rounds of one shape: which way they are computed, and what the ways took."""

    def __init__(self) -> None:
        self.dense = False
        self.settled = False
        self._rounds = 0
        self._before = inf
        self._quicker = 0

    def took(self, seconds: float) -> None:
        """The round that just ended took so long."""
        self._rounds += 1
        if self.dense:
            self._quicker += seconds < self._before
        self._before = seconds
        self.settled = self._rounds == AGAIN + 2 * TURNS
        if self.settled:
            self.dense = 2 * self._quicker > TURNS
        elif self._rounds >= AGAIN:
            self.dense = not self.dense


class Trials:
    """What is known of a program's rounds, by the number of streams and what each of them is fed."""

    def __init__(self) -> None:
        self._of_shape: dict[tuple[int, int], Trial] = {}

    def of(self, turn: Turn, fed: Span) -> Trial | None:
        """None where chunks differ or are short, and where streams end."""
        if fed.each is None or fed.each < LEAST or turn.final is not None:
            return None
        shape = (fed.start.shape[0], fed.each)
        trial = self._of_shape.get(shape)
        if trial is None:
            if len(self._of_shape) >= REMEMBERED:
                self._of_shape.clear()
            trial = self._of_shape[shape] = Trial()
        return trial


class Dense:
    """Decides, for one node, when to convolve densely, and gathers what that takes."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.together = Together([self])

    @staticmethod
    def suits(reading: Reading) -> bool:
        """Whether the reading is one that could be gathered in pieces."""
        return reading.taps > 1 and reading.window.edge is Edge.FILL

    def takes(self, out: Span) -> bool:
        """Whether this node's outputs of a round are convolved densely, where the round is."""
        each = out.each
        return each is not None and each >= LEAST and self._length(each) <= MORE * self.reading.taps * each

    def _length(self, outputs: int) -> int:
        offsets = self.reading.offsets
        return (outputs - 1) * self.reading.window.stride + offsets[-1] - offsets[0] + 1

    def frames(self, turn: Turn, out: Span, rows: Rows, state: State) -> Float[Tensor, "B L C"]:
        """The input elements from every stream's first window's first one to its last window's last one."""
        value = self.reading.view.value
        into = turn.span(value)
        store = state.stores.get(value.index)
        streams, length = len(out.start), self._length(out.longest)
        at = _beginnings(turn, out, into, self.reading.window.stride)
        # New elements lie one after the other; only what comes before them has to be looked for.
        old = -(at.least + self.reading.offsets[0])
        follows = at.least == at.most and old >= 0 and old + (into.each or 0) == length
        if follows and not old:
            return self.reading.packed(rows).view(streams, length, value.channels)
        frames = state.scratch.rows(self.reading.lane, streams * length, value.channels).view(streams, length, value.channels)
        source = self.reading.packed(rows) if store is None else store.rows
        if not follows:
            found = self._addresses(out, at, store, length)
            torch.index_select(source, 0, found.view(-1), out=frames.view(-1, value.channels))
            return frames
        if store is not None and store.depth and not self._reads_padding(out):
            found = self.together.before(turn, out, at, state)[self]
        else:
            found = self._addresses(out, at, store, old).view(-1)
        parts = [source.index_select(0, found), self.reading.packed(rows)]
        return torch.cat([part.view(streams, -1, value.channels) for part in parts], 1, out=frames)

    def _reads_padding(self, out: Span) -> bool:
        reading = self.reading
        return reading.padded and out.earliest * reading.window.stride + reading.offsets[0] < reading.view.low

    def _addresses(self, out: Span, at: _Beginnings, store: Store | None, count: int) -> Int[Tensor, "B count"]:
        """Where the first `count` elements of every stretch lie."""
        first = self.reading.offsets[0]
        ahead = torch.arange(first, first + count, dtype=WORD, device=at.ahead.device) + at.ahead
        if store is None:
            return ahead + at.packed
        some_old, all_old = at.least + first < 0, at.most + first + count <= 0
        if store.depth and some_old:
            found = (ahead + at.phase).bitwise_and_(store.depth - 1).add_(at.slot * store.depth).add_(store.ring_at)
        if not store.depth or not all_old:
            new = ahead + (at.packed + store.stage_at)
            found = torch.where(ahead < 0, found, new) if store.depth and some_old else new
        if self._reads_padding(out):
            found.masked_fill_(ahead + at.phase < self.reading.view.low, store.fills.index(self.reading.fill))
        return found


class Together:
    """Readings that are alike in time: where the elements before the new ones lie is computed for all of them at once."""

    def __init__(self, members: Sequence[Dense]) -> None:
        self.members = tuple(members)
        self._columns: tuple[object, list[int], tuple[Tensor, ...]] | None = None

    def before(self, turn: Turn, out: Span, at: _Beginnings, state: State) -> dict[Dense, Int[Tensor, "B*old"]]:
        """Per member, the rows of its store that hold what every stream's first window reads before the first new element."""
        found: dict[Dense, Int[Tensor, "B*old"]] | None = turn.shared.get(self)
        if found is None:
            stores = [state.stores[member.reading.view.value.index] for member in self.members]
            counts, (offsets, mask, depth, ring_at) = self._prepared(at.least, stores)
            rows = (at.phase + offsets).bitwise_and_(mask).add_(at.slot * depth).add_(ring_at)
            parts = torch.split(rows, counts, 1)
            found = turn.shared[self] = {member: part.reshape(-1) for member, part in zip(self.members, parts, strict=True)}
        return found

    def _prepared(self, ahead: int, stores: Sequence[Store]) -> tuple[list[int], tuple[Tensor, ...]]:
        """How many elements each member reads, and per element its index and its ring; made anew when an arena has grown."""
        key = (ahead, [store.ring_at for store in stores])
        if self._columns is None or self._columns[0] != key:
            firsts = [ahead + member.reading.offsets[0] for member in self.members]
            counts = [max(0, -first) for first in firsts]
            spread = [
                (index, store.depth - 1, store.depth, store.ring_at)
                for first, store in zip(firsts, stores, strict=True)
                for index in range(first, 0)
            ]
            columns = tuple(torch.tensor(column, dtype=WORD) for column in zip(*spread, strict=True))
            self._columns = (key, counts, columns)
        return self._columns[1:]


def put_together(prepared: Iterable[tuple[Node, Dense]], depths: Mapping[int, int]) -> None:
    """Finds the readings that are alike in time and read rings."""
    alike: dict[object, list[Dense]] = defaultdict(list)
    for node, dense in prepared:
        value = dense.reading.view.value
        if depths.get(value.index):
            alike[node.output.timeline, value.timeline, dense.reading.window.stride].append(dense)
    for members in alike.values():
        together = Together(members)
        for member in members:
            member.together = together


@dataclass(frozen=True)
class _Beginnings:
    """Of every stream, as columns: its first window's origin relative to the input's first new element, and where that one lies."""

    ahead: Int[Tensor, "B 1"]
    packed: Int[Tensor, "B 1"]
    phase: Int[Tensor, "B 1"]
    slot: Int[Tensor, "B 1"]
    least: int
    most: int


def _beginnings(turn: Turn, out: Span, into: Span, stride: int) -> _Beginnings:
    key = ("beginnings", out, into, stride)
    found: _Beginnings | None = turn.shared.get(key)
    if found is None:
        ahead = out.start * stride - into.start
        columns = torch.stack([ahead, into.offset, phase(into.start), turn.slots]).to(WORD).unsqueeze(2)
        origin, packed, index, slot = columns.unbind()
        found = turn.shared[key] = _Beginnings(origin, packed, index, slot, int(ahead.min()), int(ahead.max()))
    return found
