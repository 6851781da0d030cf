"""What an operator of the streaming graph is: five kinds, by how they read time.

`Pointwise` reads the same index of all its inputs, `Windowed` a few indices around it, `Banded` many indices before it, `Expansion`
makes several elements of each, `Recurrence` reads everything before it through a hidden state. A family of operators is a file in
`operators/` that subclasses one of them; nothing else has to change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from service.streaming.timeline import Count, Frames, Timeline

if TYPE_CHECKING:
    from service.streaming.native import Multiplication
    from service.streaming.numerics import Gemm
    from service.streaming.turn import Span

Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Operator(ABC):
    """One node's computation, on packed rows; stateless apart from its weights."""

    name: str
    channels: int
    end_varies = False
    """Whether it pads at the end by an amount that its description leaves out: ways through branches may differ in that."""

    @abstractmethod
    def timeline(self, inputs: Sequence[Timeline]) -> Timeline:
        """When the output's elements are ready, and how many there are."""

    def needs(self, first: Frames) -> Frames:
        """The lowest input index that output elements from `first` on read; monotonic."""
        return first

    def reads_until(self, last: Frames) -> Frames:
        """The highest input index that output elements up to `last` read."""
        return last

    def legal(self, *totals: Frames) -> Flags:
        """Where the offline module accepts inputs of these lengths."""
        return np.asarray(np.all([total == totals[0] for total in totals], axis=0))

    @property
    def reach(self) -> int:
        """From how many input elements on `needs` and `timeline` are regular."""
        return 0

    @property
    def pattern(self) -> int:
        """After how many output elements `needs` repeats."""
        return 1

    def weights(self) -> tuple[Tensor, ...]:
        """All tensors that decide the result, for fingerprints and for moving to a device."""
        return ()

    def products(self) -> tuple[Gemm, ...]:
        """The matrix products that may be computed in another precision."""
        return ()

    @property
    def work(self) -> int:
        """Multiply-adds, or what costs as much, for one output row."""
        return sum(weight.numel() for weight in self.weights() if weight.ndim > 1) or self.channels

    def absorbs(self, follower: Operator) -> bool:
        """Whether it does from now on what `follower`, its only reader, would do to every row."""
        return False

    def describe(self) -> str:
        return self.name


class Pointwise(Operator):
    """Rows to rows at the same index; several inputs meet by index."""

    def timeline(self, inputs: Sequence[Timeline]) -> Timeline:
        first = inputs[0]
        if all(other == first for other in inputs):
            return first
        ready = Count.derive(lambda *counts: np.minimum.reduce(counts), *(timeline.ready for timeline in inputs))
        total = Count.derive(lambda *counts: np.minimum.reduce(counts), *(timeline.total for timeline in inputs))
        return Timeline(ready, total)

    @abstractmethod
    def compute(self, rows: Sequence[Float[Tensor, "M _"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        """The output rows; written to `out` and returned, when it is given."""


class Edge(Enum):
    """What lies outside the input: a constant, the first or last element, or the elements mirrored at them."""

    FILL = "fill"
    REPLICATE = "replicate"
    REFLECT = "reflect"


@dataclass(frozen=True)
class Window:
    """Output element `j` reads input elements `j * stride // per + offset`; outside it reads `fill`, or what `edge` says."""

    stride: int
    offsets: tuple[int, ...]
    fill: float = 0.0
    edge: Edge = Edge.FILL
    per: int = 1

    @property
    def is_same_index(self) -> bool:
        return self.stride == self.per and self.offsets == (0,) and self.edge is Edge.FILL


@dataclass(frozen=True)
class Windows:
    """The gathered windows of the output elements in `span`; `totals` has each row's input length when streams end now."""

    values: Float[Tensor, "M k C_in"]
    span: Span
    totals: Int64[Tensor, "M"] | None


class Windowed(Operator):
    """Each output element reads a fixed window of one input."""

    window: Window
    right: int
    """How many padding elements follow the input; `window.offsets` already count those before it."""

    def timeline(self, inputs: Sequence[Timeline]) -> Timeline:
        (timeline,) = inputs
        ready = Count.derive(self._complete, timeline.ready, stride=self.window.stride, reach=self.reach)
        total = Count.derive(self.length, timeline.total, stride=self.window.stride, reach=self.reach)
        return Timeline(ready, total)

    def _complete(self, available: Frames) -> Frames:
        return np.maximum(0, -(-(available - self.window.offsets[-1]) * self.window.per // self.window.stride))

    def length(self, total: Frames) -> Frames:
        return self._complete(total + self.right)

    def legal(self, *totals: Frames) -> Flags:
        return (totals[0] >= 1) & (self.length(totals[0]) >= 1)

    def needs(self, first: Frames) -> Frames:
        return first * self.window.stride // self.window.per + self.window.offsets[0]

    def reads_until(self, last: Frames) -> Frames:
        return last * self.window.stride // self.window.per + self.window.offsets[-1]

    @property
    def pattern(self) -> int:
        return self.window.per

    @property
    def reach(self) -> int:
        least = self.window.stride + self.right + max(abs(self.window.offsets[0]), abs(self.window.offsets[-1])) + 1
        return least * self.window.per

    @property
    def work(self) -> int:
        weighed = sum(weight.numel() for weight in self.weights() if weight.ndim > 1)
        return weighed or len(self.window.offsets) * self.channels

    @abstractmethod
    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        """The output rows, one per window; written to `out` and returned, when it is given."""


class Banded(Operator):
    """Each output element reads the last `band` elements of one input.

    Outputs are computed in tiles of `tile` neighbours, which read the same elements but for a few; a tile begins at a multiple of
    `tile`, wherever a stream's chunks begin, so an element's place in its tile never depends on them.
    """

    band: int
    tile: int

    @property
    def window(self) -> Window:
        """What a tile reads."""
        return Window(self.tile, tuple(range(1 - self.band, self.tile)))

    def timeline(self, inputs: Sequence[Timeline]) -> Timeline:
        return inputs[0]

    def needs(self, first: Frames) -> Frames:
        return first - self.band + 1

    def legal(self, *totals: Frames) -> Flags:
        return totals[0] >= 1

    @property
    def reach(self) -> int:
        return self.band

    @abstractmethod
    def compute(
        self, values: Float[Tensor, "P band+tile-1 C_in"], first: Int64[Tensor, "P"], begins: bool | None = None
    ) -> Float[Tensor, "P tile C"]:
        """Tiles of outputs, from what they read and the index of each tile's first output.

        `begins` says whether a tile may reach beyond its stream's beginning; None where `first` may be looked at for that.
        Zeros stand for what lies before the stream, after its last element so far, or before the band of its first new output; the
        outputs that would need more are not used.
        """


class Batched(Windowed):
    """A window of many elements, all of them data, and dear to compute: a few windows are gathered and computed at a time."""

    @abstractmethod
    def portions(self, count: int) -> Iterator[int]:
        """How many of `count` windows to gather and compute at once, portion after portion."""


class Convolvable(Windowed):
    """A window whose outputs over a whole stretch torch computes at once."""

    @abstractmethod
    def convolve(self, frames: Float[Tensor, "B L C_in"]) -> Float[Tensor, "M C"]:
        """The output rows of every stretch of `frames`, one stretch after the other; nothing is padded."""


class Gathering(Windowed):
    """A window whose outputs a kernel may compute without having its elements side by side."""

    @property
    @abstractmethod
    def multiplications(self) -> tuple[Multiplication, ...]:
        """What such a kernel is called with, for each group of channels; empty where there is none."""


class Expansion(Operator):
    """Every input element becomes `factor` output elements."""

    factor: int

    def timeline(self, inputs: Sequence[Timeline]) -> Timeline:
        (timeline,) = inputs
        ready, total = (Count.derive(lambda count: count * self.factor, count) for count in (timeline.ready, timeline.total))
        return Timeline(ready, total)

    def needs(self, first: Frames) -> Frames:
        return first // self.factor

    def reads_until(self, last: Frames) -> Frames:
        return last // self.factor

    @property
    def pattern(self) -> int:
        return self.factor

    @abstractmethod
    def compute(self, rows: Float[Tensor, "M C_in"]) -> Float[Tensor, "M*factor C"]:
        """The output rows of each input row, one after the other."""


class Recurrence(Operator):
    """Reads its input once, in order, carrying a hidden state of `initial.numel()` numbers per stream."""

    initial: Float[Tensor, "S"]

    def timeline(self, inputs: Sequence[Timeline]) -> Timeline:
        return inputs[0]

    @abstractmethod
    def advance(
        self, rows: Float[Tensor, "M C_in"], span: Span, hidden: Float[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "M C"], Float[Tensor, "B S"]]:
        """The output rows, and every stream's hidden state after its last row here."""
