"""Values of which one dimension is time and another one lies in the channels, as spectrograms have frequencies.

Rows hold the channels of one frequency after those of another, so that what follows reads them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.streaming.axes import BATCH, TIME, Kind, factor
from service.streaming.operator import Operator
from service.streaming.operators.dimensions import ordered
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace


@dataclass(frozen=True)
class Grid:
    """One hyperparameter of the dimension of frequencies, and of time."""

    frequency: int
    time: int


@dataclass(frozen=True)
class Image:
    """A value `[B, C, F, T]`, or `[B, C, T, F]`, over rows `[F, C]`."""

    symbol: Symbol
    place: int

    @property
    def frequencies(self) -> int:
        return self.symbol.axes.each[self.place].size

    @property
    def channels(self) -> int:
        return self.symbol.axes.each[1].size

    def grid(self, given: int | Sequence[int]) -> Grid:
        first, second = (given, given) if isinstance(given, int) else (given[0], given[-1])
        return Grid(first, second) if self.place == 2 else Grid(second, first)

    def result(self, trace: Trace, operator: Operator, frequencies: int, channels: int) -> Symbol:
        """A new node, of the same dimensions in other sizes."""
        view = trace.graph.add(operator, [self.symbol.stored], trace.where())
        axes = self.symbol.axes.replaced(self.place, factor(frequencies, channels)).replaced(1, factor(channels, 1))
        return Symbol(trace, view, axes)

    def readable(self, trace: Trace, fill: float) -> Image:
        """The same, through a view that a reader which pads with `fill` may read."""
        if self.symbol.stored.may_read(fill):
            return self
        return Image(self.symbol.storing(trace.graph.settled(self.symbol.stored, trace.where())), self.place)


def image(trace: Trace, symbol: Any) -> Image:
    """Refuses what does not have batch, channels, frequencies and time."""
    each = symbol.axes.each if isinstance(symbol, Symbol) else ()
    if len(each) != 4 or each[0] != BATCH or each[1].kind is not Kind.FACTOR or TIME not in each[2:]:
        found = symbol.axes if isinstance(symbol, Symbol) else "a constant"
        trace.refuse(f"{trace.calling} of {found}", "Give it [B, C, F, T] or [B, C, T, F]: unsqueeze or unflatten channels before.")
    place = 2 if each[3] == TIME else 3
    whole = ordered(trace, symbol, [place, 1])
    return Image(whole, place)
