"""The streaming graph: values with timelines, the views through which nodes read them, and the nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import lcm, prod

import numpy as np
from jaxtyping import Float
from torch import Tensor

from service.errors import NotStreamable
from service.streaming.operator import Flags, Operator, Pointwise, Window, Windowed, Windows
from service.streaming.timeline import Count, Frames, Timeline


@dataclass(eq=False)
class Value:
    """An edge of the graph: `channels` numbers per element, elements addressed by absolute index."""

    index: int
    channels: int
    timeline: Timeline


@dataclass(frozen=True)
class View:
    """A value read through crops and paddings, without moving data.

    Element `j` is element `j + shift` of the value where that lies in `[low, high(n))`, else `fill`. `fill` is None while every
    element of the view is data.
    """

    value: Value
    timeline: Timeline
    shift: int = 0
    low: int = 0
    high: Count | None = None
    fill: float | None = None

    @staticmethod
    def whole(value: Value) -> View:
        return View(value, value.timeline)

    @property
    def channels(self) -> int:
        return self.value.channels

    @property
    def is_whole(self) -> bool:
        return self.shift == 0 and self.low == 0 and self.fill is None and self.timeline == self.value.timeline

    def cropped(self, left: int, right: int) -> View:
        """`x[..., left:-right]`."""
        ready, total = self.timeline.ready, self.timeline.total
        length = Count.derive(lambda t: np.maximum(0, t - left - right), total, reach=left + right + 1)
        available = Count.derive(
            lambda r, t: np.minimum(np.maximum(0, r - left), np.maximum(0, t - left - right)),
            ready,
            total,
            reach=left + right + 1,
        )
        shift = self.shift + left
        end = Count.derive(lambda t: np.maximum(0, t + shift), length, reach=abs(shift) + 1)
        return replace(
            self,
            timeline=Timeline(available, length),
            shift=shift,
            low=max(self.low, shift),
            high=_earlier(self.high, end),
        )

    def limited(self, length: Count) -> View:
        """`x[..., :t]`, with `t` the length of another value."""
        total = Count.derive(lambda t, most: np.minimum(t, np.maximum(0, most)), self.timeline.total, length)
        available = Count.derive(np.minimum, self.timeline.ready, total)
        end = Count.derive(lambda t: np.maximum(0, t + self.shift), total, reach=abs(self.shift) + 1)
        return replace(self, timeline=Timeline(available, total), low=max(self.low, self.shift), high=_earlier(self.high, end))

    def padded(self, left: int, right: int | Count, fill: float) -> View:
        """`F.pad(x, (left, right), value=fill)`; the caller makes sure that an earlier fill is the same."""
        ready, total = self.timeline.ready, self.timeline.total
        if isinstance(right, Count):
            length = Count.derive(lambda t, more: t + left + more, total, right)
        else:
            length = Count.derive(lambda t: t + left + right, total)
        available = Count.derive(lambda r: r + left, ready)
        high = self.high or Count.derive(lambda t: np.maximum(0, t + self.shift), total, reach=abs(self.shift) + 1)
        return replace(self, timeline=Timeline(available, length), shift=self.shift - left, high=high, fill=fill)

    def may_read(self, fill: float) -> bool:
        """Whether a consumer that pads with `fill` may read through this view without another pass."""
        return self.fill is None or self.fill == fill


class Select(Windowed):
    """Elements `0, stride, 2 * stride, …` of a view, as they are."""

    name = "select"
    right = 0

    def __init__(self, view: View, stride: int = 1) -> None:
        self.channels = view.channels
        self.window = Window(stride, (0,), 0.0 if view.fill is None else view.fill)

    def legal(self, *totals: Frames) -> Flags:
        return np.ones(len(totals[0]), np.bool_)

    def compute(self, windows: Windows, out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        rows = windows.values.squeeze(1)
        return rows if out is None else out.copy_(rows)

    def describe(self) -> str:
        return f"select({self.window.stride})"


class Index(Windowed):
    """`start + step * j` for every element `j` of a view, or what is left of it when divided by `modulo`."""

    name = "index"
    channels = 1
    right = 0

    def __init__(self, start: int, step: int, modulo: int | None = None) -> None:
        self.start = start
        self.step = step
        self.modulo = modulo
        self.window = Window(1, (0,))

    def legal(self, *totals: Frames) -> Flags:
        return np.ones(len(totals[0]), np.bool_)

    def compute(self, windows: Windows, out: Float[Tensor, "M 1"] | None) -> Float[Tensor, "M 1"]:
        made = (windows.span.index * self.step + self.start).unsqueeze(1)
        if self.modulo is not None:
            made.remainder_(self.modulo)
        return made.to(windows.values.dtype) if out is None else out.copy_(made)

    def describe(self) -> str:
        return f"index({self.start}, {self.step})" + (f" % {self.modulo}" if self.modulo is not None else "")


class Channels(Pointwise):
    """The channels of a row in the order of factors, as strides read them: some of them, permuted, repeated."""

    name = "channels"

    def __init__(self, sizes: Sequence[int], strides: Sequence[int], offset: int) -> None:
        self.channels = prod(sizes)
        self.sizes = tuple(sizes)
        self.strides = tuple(strides)
        self.offset = offset

    def compute(self, rows: Sequence[Float[Tensor, "M C_in"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        (given,) = rows
        row, step = given.stride()
        strides = [row, *(stride * step for stride in self.strides)]
        read = given.as_strided((len(given), *self.sizes), strides, given.storage_offset() + self.offset * step)
        if out is None:
            return read.reshape(len(given), self.channels).contiguous()
        out.view(len(given), *self.sizes).copy_(read)
        return out

    def describe(self) -> str:
        return f"channels({self.sizes}, {self.strides}, {self.offset})"


def _earlier(a: Count | None, b: Count) -> Count:
    return b if a is None or a == b else Count.derive(np.minimum, a, b)


@dataclass(eq=False)
class Node:
    """One operator, what it reads and what it makes; `where` says which line of the user's code it comes from."""

    operator: Operator
    inputs: tuple[View, ...]
    output: Value
    where: str

    @property
    def name(self) -> str:
        return f"{self.operator.name}_{self.output.index}"


@dataclass
class Graph:
    """Nodes in the order in which they run; value 0 is the input."""

    channels: int
    nodes: list[Node] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    output: Value | None = None
    guards: list[Count] = field(default_factory=list)
    contiguous: bool | None = None
    """What a module that asks how its tensors lie in memory has been told on this way through it."""

    def __post_init__(self) -> None:
        self.values.append(Value(0, self.channels, Timeline.of_input()))

    @property
    def input(self) -> Value:
        return self.values[0]

    def add(self, operator: Operator, inputs: Sequence[View], where: str) -> View:
        timeline = operator.timeline([view.timeline for view in inputs])
        self.require(operator.legal, *(view.timeline.total for view in inputs), reach=operator.reach)
        value = Value(len(self.values), operator.channels, timeline)
        self.values.append(value)
        self.nodes.append(Node(operator, tuple(inputs), value, where))
        return View.whole(value)

    def settled(self, view: View, where: str) -> View:
        """The view's elements as a value of their own, for readers that cannot crop and pad while they read."""
        return view if view.is_whole else self.add(Select(view), [view], where)

    def finish(self, output: View, where: str) -> None:
        """Drops what the output does not need, and lets values end where their only readers stop reading."""
        self.output = self.settled(output, where).value
        needed = {self.output.index}
        for node in reversed(self.nodes):
            if node.output.index in needed:
                needed.update(view.value.index for view in node.inputs)
        self.nodes = [node for node in self.nodes if node.output.index in needed]
        self._check(where)
        self._narrow()
        self._fuse()

    def _check(self, where: str) -> None:
        """What is ready is there, however short the stream turns out to be; a rule that says otherwise is wrong, or no rule."""
        accepts = self.accepts()
        for timeline in {node.output.timeline for node in self.nodes}:
            ready, total = timeline.ready, timeline.total
            settled = max(ready.settled, total.settled, accepts.settled, ready.first_apart(total, 1))
            span = np.arange(1, settled + lcm(ready.period, total.period, accepts.period) + 1, dtype=np.int64)
            if ((ready.numpy(span) > total.numpy(span)) & (accepts.numpy(span) != 0)).any():
                raise NotStreamable(
                    f"{where}: what it computes from its length makes a longer stream shorter than what has come out already. "
                    "Write it so that its result at a frame does not depend on the length."
                )

    def readers(self, value: Value) -> list[View]:
        return [view for node in self.nodes for view in node.inputs if view.value is value]

    def _narrow(self) -> None:
        for node in self.nodes:
            views = self.readers(node.output)
            if not isinstance(node.operator, Pointwise | Windowed) or not views or node.output is self.output:
                continue
            crops = {view.timeline for view in views}
            if len(crops) == 1 and all(view.shift == 0 and view.fill is None for view in views):
                node.output.timeline = crops.pop()

    def _fuse(self) -> None:
        """Lets operators do what their only reader, a function of the same row, would do."""
        for node in list(self.nodes):
            while reader := self._absorbed(node):
                node.output = reader.output
                self.nodes.remove(reader)

    def _absorbed(self, node: Node) -> Node | None:
        """The node's only reader, if the node's operator does from now on what that one would do."""
        readers = [reader for reader in self.nodes if any(view.value is node.output for view in reader.inputs)]
        if len(readers) != 1 or node.output is self.output:
            return None
        (reader,) = readers
        alike = reader.inputs == (View.whole(node.output),) and reader.output.timeline == node.output.timeline
        return reader if alike and node.operator.absorbs(reader.operator) else None

    def require(self, rule: Callable[..., Flags], *totals: Count, reach: int = 0) -> None:
        """Streams may end only where `rule(*totals)` holds, because the offline module raises elsewhere. It has to be regular from
        `reach` on."""
        guard = Count.derive(lambda *counts: rule(*counts).astype(np.int64), *totals, reach=reach, empty=1)
        assert not guard.gain, f"a rule that is not regular from {reach} on"
        self.guards.append(guard)

    def accepts(self) -> Count:
        """1 at every length at which the offline module does not raise, else 0."""
        verdict = Count.derive(np.ones_like, Count.identity(), empty=1)
        for guard in self.guards:
            verdict = Count.derive(np.multiply, verdict, guard, empty=1)
        return verdict
