"""Rows of a table by number: `nn.Embedding`, `F.one_hot`.

A number out of range makes torch raise; on a GPU it is found by the device, which then computes nothing more for anybody. So no
number is looked up that may be out of range: either it was clamped to the table's rows, or it is computed from the numbers of its
own input frame, and then every frame is looked at (`service.streaming.admission`) before a step begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.axes import factor
from service.streaming.graph import Channels, Graph, Node, Select, View
from service.streaming.lowering import lowers
from service.streaming.operator import Pointwise
from service.streaming.operators.casting import Cast
from service.streaming.operators.reduction import Reduction
from service.streaming.operators.selection import Clamp
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

WHOLE = (torch.int64, torch.int32)


class Embedding(Pointwise):
    """Row `i` of the table for every number `i`; `checked` when it may be out of range for some input."""

    def __init__(self, name: str, channels: int, table: Float[Tensor, "V D"], checked: bool) -> None:
        self.name = name
        self.channels = channels * table.shape[1]
        self.table = table.detach().to(torch.float32).clone()
        self.checked = checked

    def compute(self, rows: Sequence[Float[Tensor, "M C_in"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        # Rows that nobody reads may hold anything; what is read was found to be in range.
        numbers = rows[0].nan_to_num(0.0).clamp_(0, len(self.table) - 1).long().view(-1)
        made = self.table.index_select(0, numbers).view(len(rows[0]), self.channels)
        return made if out is None else out.copy_(made)

    def out_of_range(self, numbers: Float[Tensor, "M C_in"]) -> Tensor:
        """Which numbers have no row, NaN among them."""
        return ~((numbers >= 0) & (numbers < len(self.table)))

    def weights(self) -> tuple[Tensor, ...]:
        return (self.table,)

    @property
    def work(self) -> int:
        return self.channels

    def describe(self) -> str:
        return f"{self.name}({len(self.table)}, checked={self.checked})"


def frame_function(graph: Graph, view: View) -> list[Node] | None:
    """The nodes that compute a value from the input frame at the same index, in their order; None where it reads others too."""
    makers = {node.output.index: node for node in graph.nodes}
    wanted, found = [view], set()
    while wanted:
        read = wanted.pop()
        index = read.value.index
        if read.shift or read.low or read.fill is not None or read.high is not None:
            return None
        if index == graph.input.index or index in found:
            continue
        if not isinstance(makers[index].operator, Pointwise):
            return None
        found.add(index)
        wanted += makers[index].inputs
    return [node for node in graph.nodes if node.output.index in found]


def _bounds(graph: Graph, view: View) -> tuple[float, float] | None:
    """Between which numbers a value was clamped, whatever it was before; whole numbers, among which there is no NaN."""
    makers = {node.output.index: node for node in graph.nodes}
    while view.value.index in makers and view.fill in (None, 0.0):
        node = makers[view.value.index]
        operator = node.operator
        if isinstance(operator, Clamp) and operator.least is not None and operator.most is not None:
            return min(operator.least, 0.0 if view.fill == 0.0 else operator.least), operator.most
        if isinstance(operator, Cast) and operator.target is torch.bool:
            return 0.0, 1.0
        if isinstance(operator, Reduction) and operator.name in ("argmax", "argmin"):
            return 0.0, operator.size - 1.0
        if not isinstance(operator, Channels | Select):
            return None
        (view,) = node.inputs
    return None


def look_up(trace: Trace, name: str, symbol: Symbol, table: Float[Tensor, "V D"], dtype: torch.dtype) -> Symbol:
    """A new innermost dimension: the rows of `table` that the symbol's numbers name."""
    if symbol.dtype not in WHOLE:
        trace.refuse(f"{name} of {symbol.dtype}", "It takes whole numbers: convert with .long() before.")
    bounds = _bounds(trace.graph, symbol.stored)
    safe = bounds is not None and bounds[0] >= 0 and bounds[1] <= len(table) - 1
    if not safe and frame_function(trace.graph, symbol.stored) is None:
        trace.refuse(
            f"{name} by numbers that are computed from several frames, or cropped or padded,",
            f"A number out of range has to be found before a step begins. Clamp them, .long().clamp(0, {len(table) - 1}), or look "
            "up first, and crop or pad what is found.",
        )
    axes = symbol.axes.flat()
    made = axes.inserted(symbol.ndim, factor(table.shape[1], 1)).flat()
    return trace.add(Embedding(name, symbol.channels, table, checked=not safe), [symbol], axes=made, dtype=dtype)


@lowers("embedding", any_kind=True)
def embedding(
    trace: Trace,
    symbol: Any,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Symbol:
    if not isinstance(symbol, Symbol):
        trace.refuse("embedding with a computed table", "Look up in constant weights.")
    if max_norm is not None:
        trace.refuse("embedding with max_norm", "It changes the weights while it looks up; normalise them once, before.")
    return look_up(trace, "embedding", symbol, weight, torch.float32)


@lowers("one_hot", any_kind=True)
def one_hot(trace: Trace, symbol: Symbol, num_classes: int = -1) -> Symbol:
    if num_classes < 1:
        trace.refuse("one_hot without num_classes", "How many there are differs from stream to stream; name it.")
    return look_up(trace, "one_hot", symbol, torch.eye(num_classes), torch.int64)
