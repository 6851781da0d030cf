"""Products that sum over channels: `einsum`, `matmul`, `bmm`, `tensordot`, `bilinear`.

Everything is brought to one form: every dimension of the two factors and of the result has a label. A label in both factors and in
the result is *shared*, one in both and not in the result is *summed*, the others are the factors' *own*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from string import ascii_lowercase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.axes import Axes, Axis, Kind, factor
from service.streaming.lowering import lowers
from service.streaming.operator import Operator, Pointwise
from service.streaming.operators.affine import Linear
from service.streaming.operators.arithmetic import check_rates
from service.streaming.operators.dimensions import factors_of
from service.streaming.operators.reduction import reduced
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

OVER_TIME = (
    "It needs the whole stream before its first output. For attention use F.scaled_dot_product_attention under a mask that is a "
    "band, or service.nn.CausalAttention; for a filter, a convolution; else run it on windows (mode: window)."
)


@dataclass(frozen=True)
class Factor:
    """A value or a constant, and the label of each of its dimensions."""

    tensor: Any
    labels: tuple[str, ...]

    @property
    def streams(self) -> bool:
        return isinstance(self.tensor, Symbol)

    @property
    def sizes(self) -> dict[str, int]:
        """Of dimensions other than batch and time, which count as 1 of a value."""
        shape = [axis.size for axis in self.tensor.axes.each] if self.streams else list(self.tensor.shape)
        return dict(zip(self.labels, shape, strict=True))

    @property
    def kinds(self) -> dict[str, Kind]:
        each = [axis.kind for axis in self.tensor.axes.each] if self.streams else [Kind.FACTOR] * self.tensor.ndim
        return dict(zip(self.labels, each, strict=True))

    def without(self, label: str) -> Factor:
        """Of a dimension of size 1."""
        place = self.labels.index(label)
        rest = self.labels[:place] + self.labels[place + 1 :]
        if self.streams:
            return Factor(self.tensor.seen_as(self.tensor.axes.without(place)), rest)
        return Factor(self.tensor.squeeze(place), rest)

    def summed(self, trace: Trace, kept: set[str]) -> Factor:
        """Without the labels that nobody else has."""
        gone = [label for label in self.labels if label not in kept]
        if not gone:
            return self
        rest = tuple(label for label in self.labels if label in kept)
        if self.streams:
            _refuse_time(trace, [self.kinds[label] for label in gone])
            places = [self.labels.index(label) for label in gone]
            return Factor(reduced(trace, self.tensor, "sum", lambda rows: rows.sum(1), places, keepdim=False), rest)
        return Factor(self.tensor.sum([self.labels.index(label) for label in gone]), rest)


class Products(Pointwise):
    """`[S, P, K]` by `[S, N, K]`, summed over K: `[S, P, N]` for every frame; the second factor may be a constant."""

    name = "products"

    def __init__(self, sizes: tuple[int, int, int, int], constant: Float[Tensor, "S N K"] | None) -> None:
        self.sizes = sizes
        shared, own, other, _ = sizes
        self.channels = shared * own * other
        self.constant = constant

    def compute(self, rows: Sequence[Float[Tensor, "M _"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        shared, own, other, depth = self.sizes
        count = len(rows[0])
        a = rows[0].reshape(count, shared, own, 1, depth)
        b = (rows[1] if self.constant is None else self.constant).reshape(-1, shared, 1, other, depth)
        if depth > own * other:
            # Contiguous pieces, reduced along their rows: so a piece's bits do not depend on how many there are.
            made = (a * b).reshape(-1, depth).sum(1)
        else:
            made = a[..., 0] * b[..., 0]
            for place in range(1, depth):
                made = torch.addcmul(made, a[..., place], b[..., place])
        made = made.reshape(count, self.channels)
        return made if out is None else out.copy_(made)

    def weights(self) -> tuple[Tensor, ...]:
        return () if self.constant is None else (self.constant,)

    @property
    def work(self) -> int:
        return prod(self.sizes)

    def describe(self) -> str:
        return f"products{self.sizes}"


def contract(trace: Trace, a: Factor, b: Factor, result: Sequence[str]) -> Factor:
    """The product of both, at least one a value, summed over all labels that are not in the result."""
    if not a.streams:
        a, b = b, a
    for label in set(a.labels) & set(b.labels):
        # Sizes of 1 are broadcast; a constant has no batch, and none of a stream's time.
        if b.sizes[label] == 1 and (b.kinds[label] is Kind.FACTOR) and (a.sizes[label] > 1 or a.kinds[label] is not Kind.FACTOR):
            b = b.without(label)
        elif a.sizes[label] == 1 and a.kinds[label] is Kind.FACTOR and (b.sizes[label] > 1 or b.kinds[label] is not Kind.FACTOR):
            a = a.without(label)
        elif a.sizes[label] != b.sizes[label] or a.kinds[label] is not b.kinds[label]:
            what = f"{trace.calling} of {_shape(a)} and {_shape(b)}"
            if Kind.TIME in (a.kinds[label], b.kinds[label]):
                trace.refuse(f"{what}, which weighs frames by their number,", OVER_TIME)
            trace.refuse(what, "The module itself would raise here.")
    a, b = (one.summed(trace, set(other.labels) | set(result)) for one, other in ((a, b), (b, a)))
    both = [label for label in a.labels if label in b.labels]
    summed = [label for label in both if label not in result]
    _refuse_time(trace, [a.kinds[label] for label in summed])
    if b.streams:
        check_rates(trace, trace.calling, [a.tensor, b.tensor])
        if "T" not in {a.kinds[label].value for label in both}:
            trace.refuse(f"{trace.calling} of every frame with every other one", OVER_TIME)
    kinds, sizes = b.kinds | a.kinds, b.sizes | a.sizes
    channels = [label for label in (*a.labels, *b.labels) if kinds[label] is Kind.FACTOR]
    shared = [label for label in both if label in result and label in channels]
    own = [label for label in a.labels if label not in both and label in channels]
    other = [label for label in b.labels if label not in both and label in channels]
    times, rows, columns, depth = (prod(sizes[label] for label in part) for part in (shared, own, other, summed))
    operator: Operator = Products((times, rows, columns, depth), None)
    first = _rows(trace, a, [*shared, *own, *summed])
    if b.streams:
        operands = [first, _rows(trace, b, [*shared, *other, *summed])]
    else:
        operands = [first]
        constant = _constant(b, [*shared, *other, *summed]).reshape(times, columns, depth)
        alone = times == 1
        operator = Linear(constant[0], None, trace.numerics, rows) if alone else Products((times, rows, columns, depth), constant)
    places = [*shared, *own, *other]
    strides = {label: prod(sizes[inner] for inner in places[place + 1 :]) for place, label in enumerate(places)}
    each = tuple(factor(sizes[label], strides[label]) if label in strides else Axis(kinds[label]) for label in result)
    view = trace.graph.add(operator, [symbol.stored for symbol in operands], trace.where())
    return Factor(Symbol(trace, view, Axes(each)), tuple(result))


def _rows(trace: Trace, value: Factor, order: Sequence[str]) -> Symbol:
    """Over rows that hold the channels in this order of labels."""
    symbol: Symbol = value.tensor
    places = [value.labels.index(label) for label in order]
    view = trace.flattened(symbol.stored, symbol.axes.permuted(places))
    assert sorted(places) == factors_of(symbol.axes)
    return Symbol(trace, view, symbol.axes.over(places))


def _constant(value: Factor, order: Sequence[str]) -> Tensor:
    constant: Tensor = value.tensor.detach().permute([value.labels.index(label) for label in order])
    return constant.to(torch.float32).contiguous()


def _refuse_time(trace: Trace, kinds: Sequence[Kind]) -> None:
    if any(kind is not Kind.FACTOR for kind in kinds):
        trace.refuse(f"{trace.calling} that sums over time or batch", OVER_TIME)


def _shape(value: Factor) -> str:
    return str(value.tensor.axes) if value.streams else str(list(value.tensor.shape))


def _checked(trace: Trace, tensors: Sequence[Any]) -> None:
    for tensor in tensors:
        if not isinstance(tensor, Symbol) and getattr(tensor, "dtype", None) is not torch.float32:
            found = getattr(tensor, "dtype", type(tensor).__name__)
            trace.refuse(f"{trace.calling} with a {found}", "Use float32 tensors.")


@lowers("matmul", "bmm", "mm", "mv")
def matmul(trace: Trace, a: Any, b: Any) -> Symbol:
    _checked(trace, (a, b))
    ndims = [tensor.ndim for tensor in (a, b)]
    if min(ndims) < 1:
        trace.refuse(f"{trace.calling} with a number", "The module itself would raise here.")
    deep = max(0, max(ndims) - 2)
    batch = tuple(f"batch {place}" for place in range(deep))
    rows, columns = ("row",) if ndims[0] > 1 else (), ("column",) if ndims[1] > 1 else ()
    left = Factor(a, (*batch[deep - max(0, ndims[0] - 2) :], *rows, "summed"))
    right = Factor(b, (*batch[deep - max(0, ndims[1] - 2) :], "summed", *columns))
    made: Symbol = contract(trace, left, right, (*batch, *rows, *columns)).tensor
    return made


@lowers("rmatmul")
def reflected_matmul(trace: Trace, a: Any, b: Any) -> Symbol:
    return matmul(trace, b, a)


@lowers("einsum")
def einsum(trace: Trace, equation: Any, *operands: Any) -> Symbol:
    """Any number of operands, two at a time from the left."""
    tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else list(operands)
    if not isinstance(equation, str):
        trace.refuse("einsum of lists of numbers", "Write the equation as a string.")
    _checked(trace, tensors)
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        trace.refuse(f"einsum {equation!r} of {len(tensors)} tensors", "The module itself would raise here.")
    room = max((tensor.ndim - len(term.replace("...", "")) for tensor, term in zip(tensors, terms, strict=True)), default=0)
    labels = [
        _labels(term, tensor.ndim - len(term.replace("...", "")) if "..." in term else 0)
        for tensor, term in zip(tensors, terms, strict=True)
    ]
    result = _labels(right, room if "..." in right else 0) if arrow else _implied(terms, room)
    wrong = any(len(named) != tensor.ndim or len(set(named)) != len(named) for named, tensor in zip(labels, tensors, strict=True))
    if wrong or len(set(result)) != len(result) or not set(result) <= {label for named in labels for label in named}:
        trace.refuse(f"einsum {equation!r}", "Name every dimension once in each term, and those of the result among them.")
    made, *others = (Factor(tensor, named) for tensor, named in zip(tensors, labels, strict=True))
    while others:
        following, *others = others
        later = {label for other in others for label in other.labels} | set(result)
        kept = [label for label in dict.fromkeys((*made.labels, *following.labels)) if label in later]
        if made.streams or following.streams:
            made = contract(trace, made, following, kept if others else result)
        else:
            made = _of_constants(made, following, kept)
    made = made.summed(trace, set(result))
    symbol: Symbol = made.tensor
    return symbol.seen_as(symbol.axes.permuted(made.labels.index(label) for label in result))


def _labels(term: str, dots: int) -> tuple[str, ...]:
    """One per dimension; those that `...` stands for are counted from the last."""
    before, _, behind = term.partition("...")
    return (*before, *(f"batch {place}" for place in range(-dots, 0)), *behind)


def _implied(terms: Sequence[str], room: int) -> tuple[str, ...]:
    letters = sorted("".join(terms).replace(".", ""))
    dots = room if any("..." in term for term in terms) else 0
    return (*(f"batch {place}" for place in range(-dots, 0)), *(letter for letter in letters if letters.count(letter) == 1))


def _of_constants(a: Factor, b: Factor, kept: Sequence[str]) -> Factor:
    numbers = {label: place for place, label in enumerate(dict.fromkeys((*a.labels, *b.labels)))}
    lists = [[numbers[label] for label in labels] for labels in (a.labels, b.labels, kept)]
    return Factor(torch.einsum(a.tensor, lists[0], b.tensor, lists[1], lists[2]), tuple(kept))


@lowers("tensordot")
def tensordot(trace: Trace, a: Any, b: Any, dims: Any = 2) -> Symbol:
    _checked(trace, [a, b])
    if isinstance(dims, int):
        dims = (range(a.ndim - dims, a.ndim), range(dims))
    left, right = ([summed] if isinstance(summed, int) else list(summed) for summed in dims)
    letters = iter(ascii_lowercase)
    first, second = ([next(letters) for _ in range(tensor.ndim)] for tensor in (a, b))
    for one, other in zip(left, right, strict=True):
        second[other] = first[one]
    result = [letter for letter in (*first, *second) if (letter in first) != (letter in second)]
    return einsum(trace, f"{''.join(first)},{''.join(second)}->{''.join(result)}", a, b)


@lowers("bilinear")
def bilinear(trace: Trace, a: Symbol, b: Symbol, weight: Tensor, bias: Tensor | None = None) -> Symbol:
    made = einsum(trace, "...i,kij,...j->...k", a, weight, b)
    return made if bias is None else trace.call("add", (made, bias.detach()), {})
