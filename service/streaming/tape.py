"""A step of nothing but kernels of our own: all of them in one call, their operands written down once.

What a call of a kernel is made of (where weights, rings and staging areas lie) changes only when an arena grows. From round to
round there is little to bring up to date: how many rows there are, and where the numbers of slots and elements lie.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.addresses import Group
from service.streaming.arena import State
from service.streaming.execution import Step
from service.streaming.graph import Value
from service.streaming.native import Library, Multiplication, Readings
from service.streaming.native.contexts import Addressing, Call, Elements, Product, Retirement
from service.streaming.native.library import addressed_at_once, copied_at_once, multiplied_at_once
from service.streaming.operator import Gathering
from service.streaming.plan import Plan
from service.streaming.reading import Reading
from service.streaming.timeline import Count
from service.streaming.turn import WORD, Turn

NUMBER = torch.float32.itemsize


def suits(steps: Sequence[Step], plan: Plan) -> bool:
    """Whether a program's steps are all of the kinds that a tape knows."""

    def known(step: Step) -> bool:
        operator = step.first.node.operator
        return isinstance(operator, Gathering) and bool(operator.multiplications)

    return plan.graph.input.index in plan.depth and bool(steps) and all(map(known, steps))


class Tape:
    """The calls of one program for one state, for rounds in which no stream ends and no ring is rebuilt."""

    def __init__(self, own: Library, steps: Sequence[Step], output: Value, state: State) -> None:
        self._own = own
        self._steps = steps
        self._output = output
        self._stores = state.stores
        self._rooms: dict[int, int] = {}  # of values without a store: how many rows there is room for
        self._write_down()

    def run(self, turn: Turn) -> Float[Tensor, "M C_out"]:
        """The output rows; those of the input are staged."""
        if any(store.rows is not memory for store, memory in self._memory):
            self._write_down()
        spans = [turn.span(value) for value in self._values]
        counts = [turn.slots.shape[0], *(span.rows for span in spans)]
        if counts != self._counts:
            self._adapt(counts)
        slots = turn.slots.data_ptr()
        for elements, span in zip(self._elements, spans, strict=True):
            elements.slots, elements.packed = slots, span.offset.data_ptr()
            elements.start, elements.stop = span.start.data_ptr(), span.stop.data_ptr()
        rows = counts[1 + self._place(self._output)]
        store = self._stores.get(self._output.index)
        made = torch.empty(rows, self._output.channels) if store is None else store.stage(rows)
        for product in self._last:
            product.context.out = _from(made.data_ptr(), product.first)
        self._own.run(self._calls)
        return made

    # Written down once

    def _write_down(self) -> None:
        self._memory = [(store, store.rows) for store in self._stores.values()]
        self._places: dict[Count, int] = {}
        self._values: list[Value] = []  # one of all that always have the same elements
        self._elements: list[Elements] = []
        self._counts: list[int] = []
        self._loose: dict[int, Tensor] = {}  # the rows of values without a store
        self._tables: dict[Group, _Table] = {}
        self._products: list[_Product] = []
        self._retirements: list[_Retirement] = []
        made: list[tuple[int, ctypes.Structure]] = []
        for step in self._steps:
            for product in self._multiplied(step):
                table = product.table
                if table is not None and table.at is None:
                    table.at = len(made)
                    made.append((self._own.kernels.addresses, table.context))
                product.at = len(made)
                made.append((self._own.kernel(product.by), product.context))
                self._products.append(product)
            for value in step.retired:
                store = self._stores[value.index]
                place = self._place(value)
                elements = ctypes.addressof(self._elements[place])
                context = Retirement(self._rows(value), store.ring.data_ptr(), elements, store.depth, store.channels)
                self._retirements.append(_Retirement(context, place, store.channels, len(made)))
                made.append((self._own.kernels.retire, context))
        self._last = [product for product in self._products if product.value is self._output]
        self._calls = (Call * len(made))(*(Call(kernel, ctypes.addressof(context), 0, 1) for kernel, context in made))

    def _multiplied(self, step: Step) -> Iterator[_Product]:
        """A product for each group of channels."""
        node = step.first.node
        operator, value, (reading,) = node.operator, step.node.output, step.first.readings
        assert isinstance(operator, Gathering)
        source, table = reading.view.value, None
        if not (reading.in_place and source.timeline.ready == value.timeline.ready):
            table = self._table(reading, value)
        store = self._stores.get(source.index)
        rows = self._rows(source) if store is None or table is None else store.rows.data_ptr()
        added, made = step.added, self._rows(value)
        position = 0 if table is None else table.group.readings.index(reading)
        for group, by in enumerate(operator.multiplications):
            depth, first = source.channels // len(operator.multiplications), group * by.columns
            context = Product(
                _from(rows, group * depth),
                by.weight.data_ptr(),
                by.bias.data_ptr(),
                None if added is None else _from(self._rows(added), first),
                _from(made, first),
                None,
                source.channels,
                value.channels,
                value.channels,
                by.inner // depth,
                depth,
                by.columns,
                by.rectified + 2 * (len(step.parts) > 2),
            )
            yield _Product(context, value, by, first, self._place(value), table, position)

    def _table(self, reading: Reading, value: Value) -> _Table:
        group = reading.group
        table = self._tables.get(group)
        if table is None:
            read = [self._stores[each.view.value.index] for each in group.readings if each.view.value.index in self._stores]
            readings = group.describe(read, rebuilt=False)
            context = readings.context(group.stride)
            place = self._place(value)
            context.out = ctypes.addressof(self._elements[place])
            context.into = ctypes.addressof(self._elements[self._place(reading.view.value)])
            table = self._tables[group] = _Table(context, group, readings, place, torch.empty(0, dtype=WORD))
        return table

    def _place(self, value: Value) -> int:
        key = value.timeline.ready
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self._values)
            self._values.append(value)
            self._elements.append(Elements())
        return place

    def _rows(self, value: Value) -> int | None:
        """Where the value's new rows lie; of the output, unless it has a store, not yet known."""
        store = self._stores.get(value.index)
        if store is not None:
            return store.rows[store.stage_at :].data_ptr()
        if value is self._output:
            return None
        if value.index not in self._loose:
            self._loose[value.index] = torch.empty(self._rooms.get(value.index, 0), value.channels)
        return self._loose[value.index].data_ptr()

    # Brought up to date

    def _adapt(self, counts: list[int]) -> None:
        """To other numbers of streams and rows."""
        grown = False
        for product in self._products:
            rows, index = counts[1 + product.place], product.value.index
            if index in self._stores:
                self._stores[index].reserve(rows)
            elif index in self._loose and rows > self._loose[index].shape[0]:
                self._rooms[index], grown = 2 * rows, True
        if grown or any(store.rows is not memory for store, memory in self._memory):
            self._write_down()
        streams = counts[0]
        for table in self._tables.values():
            rows = counts[1 + table.place]
            count, taps = table.readings.offsets.shape
            if table.found.numel() < count * rows * taps:
                table.found = torch.empty(2 * count * rows * taps, dtype=WORD)
            table.context.found, table.context.streams, table.context.rows = table.found.data_ptr(), streams, rows
            self._set(table.at, streams, addressed_at_once(streams, count * rows * taps))
        for product in self._products:
            rows, context = counts[1 + product.place], product.context
            if product.table is not None:
                found = product.table.found
                context.at = found.data_ptr() + product.position * rows * context.taps * found.itemsize
            self._set(product.at, rows, multiplied_at_once(product.by.work))
        for retirement in self._retirements:
            rows = counts[1 + retirement.place]
            self._set(retirement.at, streams, copied_at_once(streams, rows * retirement.channels))
        self._counts = counts

    def _set(self, at: int | None, count: int, grain: int) -> None:
        assert at is not None
        self._calls[at].count, self._calls[at].grain = count, grain


def _from(rows: int | None, column: int) -> int | None:
    """Where the rows' numbers lie from this column on."""
    return None if rows is None else rows + NUMBER * column


@dataclass
class _Table:
    """Addresses of a group of readings; `at` is its call's place, as of the others."""

    context: Addressing
    group: Group
    readings: Readings
    place: int
    found: Tensor
    at: int | None = None


@dataclass
class _Product:
    context: Product
    value: Value
    by: Multiplication
    first: int  # the column at which its results begin
    place: int
    table: _Table | None
    position: int
    at: int = 0


@dataclass
class _Retirement:
    context: Retirement
    place: int
    channels: int
    at: int
