"""Comparisons, what they decide between, and bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.axes import Axes, factor
from service.streaming.edges import EdgeFrame
from service.streaming.lowering import lowers
from service.streaming.operator import Pointwise
from service.streaming.operators.arithmetic import Constant, check_rates, maximum, minimum, with_constant
from service.streaming.operators.casting import cast, kind_of
from service.streaming.operators.dimensions import broadcast
from service.streaming.operators.pointwise import Elementwise
from service.streaming.operators.reduction import reduced
from service.streaming.operators.slicing import getitem
from service.streaming.symbol import Symbol, symbols_in
from service.streaming.tracing import Trace

Rows = Float[Tensor, "M C"]


class Combination(Pointwise):
    """`function` of several operands element by element: rows, and in the places where `constants` has them, these."""

    def __init__(
        self, name: str, channels: int, function: Callable[..., Tensor], constants: Sequence[Constant | None], parameters: object
    ) -> None:
        self.name = name
        self.channels = channels
        self.function = function
        self.constants = [None if constant is None else torch.as_tensor(constant) for constant in constants]
        self.parameters = parameters

    def compute(self, rows: Sequence[Rows], out: Rows | None) -> Rows:
        given = iter(rows)
        result = self.function(*(next(given) if constant is None else constant for constant in self.constants))
        return result.to(rows[0].dtype) if out is None else out.copy_(result)

    def weights(self) -> tuple[Tensor, ...]:
        return tuple(constant for constant in self.constants if constant is not None and constant.ndim)

    def describe(self) -> str:
        constants = [None if constant is None else constant.item() if not constant.ndim else "" for constant in self.constants]
        return f"{self.name}({constants}, {self.parameters})"


def combined(
    trace: Trace, name: str, function: Callable[..., Tensor], operands: Sequence[Any], dtype: torch.dtype, parameters: object = ()
) -> Symbol:
    """Values, constants and numbers, at least one value among them, combined as torch would broadcast them."""
    symbols = [operand for operand in operands if isinstance(operand, Symbol)]
    check_rates(trace, name, symbols)
    symbols = broadcast(trace, name, symbols)
    for operand in operands:
        if not isinstance(operand, Symbol | int | float):
            spread = with_constant(trace, symbols[0], operand)[2]
            symbols = [symbol.seen_as(_as_large(symbol.axes, spread)) for symbol in symbols]
    first = symbols[0]
    stored = first.axes.is_permutation(first.stored.channels)
    if not stored or any((symbol.axes, symbol.stored.channels) != (first.axes, first.stored.channels) for symbol in symbols):
        symbols = [symbol.reading(symbol.reads) for symbol in symbols]
    first = symbols[0]
    constants = [None if isinstance(operand, Symbol) else with_constant(trace, first, operand)[1] for operand in operands]
    return trace.add_each(Combination(name, first.channels, function, constants, parameters), *symbols, dtype=dtype)


def _as_large(axes: Axes, other: Axes) -> Axes:
    """Dimensions of size 1 repeated as often as the other's are long."""
    pairs = zip(axes.each, other.each, strict=True)
    return Axes(tuple(factor(wanted.size, 0) if axis.size < wanted.size else axis for axis, wanted in pairs), axes.offset)


def _lower_comparison(name: str, *aliases: str) -> None:
    function = getattr(torch, name)

    @lowers(name, *aliases, any_kind=True)
    def lowering(trace: Trace, a: Any, b: Any) -> Any:
        if b is None and name in ("eq", "ne"):
            return name == "ne"
        kind_of(trace, name, a, b)
        return combined(trace, name, function, (a, b), torch.bool)


_lower_comparison("lt", "less")
_lower_comparison("le", "less_equal")
_lower_comparison("gt", "greater")
_lower_comparison("ge", "greater_equal")
_lower_comparison("eq")
_lower_comparison("ne", "not_equal")


def _lower_connective(name: str, *truths: str) -> None:
    """`truths` are names under which torch takes whole numbers bit by bit."""
    function = getattr(torch, name)

    @lowers(name, any_kind=True)
    def lowering(trace: Trace, a: Any, b: Any) -> Symbol:
        return combined(trace, name, function, (a, b), torch.bool)

    @lowers(*truths, any_kind=True)
    def of_truths(trace: Trace, a: Any, b: Any) -> Symbol:
        kind = kind_of(trace, name, a, b)
        if kind is not torch.bool:
            trace.refuse(f"{trace.calling} of {kind}", "Combine comparisons, or use torch.logical_and and its like.")
        return combined(trace, name, function, (a, b), torch.bool)


for _name in ("and", "or", "xor"):
    _lower_connective(f"logical_{_name}", _name, f"r{_name}", f"bitwise_{_name}")


def _lower_question(name: str) -> None:
    function = getattr(torch, name)

    @lowers(name, any_kind=True)
    def lowering(trace: Trace, symbol: Symbol) -> Symbol:
        return trace.add_each(Elementwise(name, symbol.channels, lambda x: function(x).to(x.dtype)), symbol, dtype=torch.bool)


for _name in ("logical_not", "isnan", "isinf", "isfinite"):
    _lower_question(_name)


@lowers("invert", "bitwise_not", any_kind=True)
def invert(trace: Trace, symbol: Symbol) -> Symbol:
    if symbol.dtype is not torch.bool:
        trace.refuse(f"~ of {symbol.dtype}", "Compare first, or use torch.logical_not.")
    made: Symbol = trace.call("logical_not", (symbol,), {})
    return made


def _lower_quantifier(name: str, function: Callable[..., Tensor]) -> None:
    @lowers(name, any_kind=True)
    def lowering(trace: Trace, symbol: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
        if dim is None:
            trace.refuse(
                f"{name} over all dimensions", "A check of the data has no answer yet: leave it out of forward, or name dimensions."
            )
        truths = cast(trace, symbol, torch.bool)
        return cast(trace, reduced(trace, truths, name, lambda rows: function(rows, 1), dim, keepdim), torch.bool)


_lower_quantifier("any", torch.amax)
_lower_quantifier("all", torch.amin)


def _choose(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(condition != 0, one, other)


@lowers("where", any_kind=True)
def where(trace: Trace, condition: Any, *between: Any, input: Any = None, other: Any = None) -> Symbol:
    """Also as a method, `input.where(condition, other)`."""
    if len(between) + (input is not None) + (other is not None) != 2:
        trace.refuse("where without values", "How many there are differs from frame to frame; give it two values to choose from.")
    one, another = (*between, *(value for value in (input, other) if value is not None))
    truths = [getattr(part, "dtype", None) is torch.bool for part in (condition, one)]
    if sum(truths) != 1:
        trace.refuse("where without a condition, or between truths", "Give it a comparison; of truths use &, | and ~.")
    if truths[1]:
        condition, one = one, condition
    return combined(trace, "where", _choose, (condition, one, another), kind_of(trace, "where", one, another))


@lowers("masked_fill", any_kind=True)
def masked_fill(trace: Trace, symbol: Any, mask: Any, value: Any) -> Symbol:
    if getattr(mask, "dtype", None) is not torch.bool:
        trace.refuse("masked_fill without truths", "Give it a comparison.")
    if isinstance(value, Symbol):
        trace.refuse("masked_fill with values", "It takes one number: choose by torch.where.")
    try:
        fill = torch.zeros(1, dtype=symbol.dtype).masked_fill(torch.tensor([True]), value).item()
    except (RuntimeError, TypeError) as error:
        trace.refuse(f"masked_fill with {value!r} ({error})", "The module itself would raise here.")
    if symbol.dtype is not torch.float32:
        kind_of(trace, "masked_fill", symbol, fill)
    return combined(trace, "masked_fill", _choose, (mask, fill, symbol), symbol.dtype)


@lowers("setitem", any_kind=True)
def setitem(trace: Trace, symbol: Symbol, key: Any, value: Any) -> None:
    """`x[x < 0] = 0`, and `x[:, ::2] = y` of channels."""
    if isinstance(key, Symbol) and key.dtype is torch.bool and isinstance(value, int | float):
        trace.overwrite(symbol, masked_fill(trace, symbol, key, value))
        return
    part = getitem(trace, symbol, key)
    if isinstance(part, EdgeFrame) or part.memory is not symbol.memory or part.stored != symbol.stored:
        trace.refuse(
            "an assignment to some of the frames, or to listed channels",
            "Assign to slices of channels; put parts together with torch.cat, or choose by torch.where.",
        )
    # `x[:, 1:3] *= 2` puts back what it has changed in place.
    there = isinstance(value, Symbol) and value.memory is part.memory and (value.stored, value.axes) == (part.stored, part.axes)
    if not there:
        trace.overwrite(part, copied(trace, part, value), symbols_in([value]))


@lowers("copy", "fill", any_kind=True)
def copied(trace: Trace, symbol: Symbol, value: Any, non_blocking: bool = False) -> Symbol:
    """The value as numbers of the symbol's kind, in its size."""
    if not isinstance(value, Symbol | Tensor | int | float):
        trace.refuse(f"an assignment of a {type(value).__name__}", "Assign values, constants or numbers.")
    given: Any = cast(trace, value, symbol.dtype) if isinstance(value, Symbol) else torch.as_tensor(value).to(symbol.dtype)
    if given.dtype is not torch.float32:
        kind_of(trace, trace.calling, symbol, given)
    return combined(trace, "put", _as_large_copy, (symbol, given), symbol.dtype)


@lowers("zero", any_kind=True)
def zero(trace: Trace, symbol: Symbol) -> Symbol:
    return copied(trace, symbol, 0.0)


def _as_large_copy(rows: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(rows).copy_(value)


class Clamp(Elementwise):
    """Between two numbers; None for a side that is open."""

    def __init__(self, channels: int, least: float | None, most: float | None) -> None:
        super().__init__("clamp", channels, lambda x: torch.clamp(x, least, most), (least, most))
        self.least = least
        self.most = most


@lowers("clamp", "clip", any_kind=True)
def clamp(trace: Trace, symbol: Symbol, min: Any = None, max: Any = None) -> Symbol:
    bounds = [bound for bound in (min, max) if bound is not None]
    kind = kind_of(trace, "clamp", symbol, *bounds)
    if kind is torch.bool:
        trace.refuse("clamp of truths", "Convert them with .float() before.")
    if all(isinstance(bound, int | float) for bound in bounds):
        return trace.add_each(Clamp(symbol.channels, min, max), symbol, dtype=kind)
    made = symbol
    for function, bound in ((maximum, min), (minimum, max)):
        if bound is not None:
            made = combined(trace, function.__name__, function, (made, bound), kind)
    return made


@lowers("clamp_min", any_kind=True)
def clamp_min(trace: Trace, symbol: Symbol, min: Any) -> Symbol:
    return clamp(trace, symbol, min, None)


@lowers("clamp_max", any_kind=True)
def clamp_max(trace: Trace, symbol: Symbol, max: Any) -> Symbol:
    return clamp(trace, symbol, None, max)
