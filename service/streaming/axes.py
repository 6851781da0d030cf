"""How the dimensions of a traced tensor read the packed rows: as strides read memory.

A row holds the channels of one frame. A tensor's dimensions are its batch, its time, and any number of *factors*: a factor of size
`n` and stride `s` steps over the row's channels `0, s, 2 * s, …`. So splitting channels into heads, permuting, slicing,
selecting and repeating them moves no data; rows in the order of the dimensions are made where a node needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod


class Kind(Enum):
    """What a dimension counts."""

    BATCH = "B"
    TIME = "T"
    FACTOR = "C"


@dataclass(frozen=True)
class Axis:
    """One dimension; the batch has one stream, the time's size is a length."""

    kind: Kind
    size: int = 1
    stride: int = 0


BATCH = Axis(Kind.BATCH)
TIME = Axis(Kind.TIME)
ONE = Axis(Kind.FACTOR)


def factor(size: int, stride: int) -> Axis:
    return Axis(Kind.FACTOR, size, stride if size > 1 else 0)


@dataclass(frozen=True)
class Axes:
    """The dimensions in their order; `offset` is the channel where the first element lies."""

    each: tuple[Axis, ...]
    offset: int = 0

    @staticmethod
    def of(letters: str, channels: int) -> Axes:
        """One dimension of channels, with time and perhaps the batch."""
        known = {"B": BATCH, "T": TIME, "C": factor(channels, 1)}
        return Axes(tuple(known[letter] for letter in letters))

    @property
    def letters(self) -> str:
        return "".join(axis.kind.value for axis in self.each)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the factors."""
        return tuple(axis.size for axis in self.each if axis.kind is Kind.FACTOR)

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(axis.stride for axis in self.each if axis.kind is Kind.FACTOR)

    @property
    def channels(self) -> int:
        return prod(self.sizes)

    @property
    def time_dim(self) -> int:
        return self.each.index(TIME)

    def is_as_large(self, other: Axes) -> bool:
        """Whether all dimensions have the same sizes; a batch is a dimension of size 1."""
        return [(axis == TIME, axis.size) for axis in self.each] == [(axis == TIME, axis.size) for axis in other.each]

    def is_flat(self, channels: int) -> bool:
        """Whether the factors, in their order, read all channels of a row in theirs."""
        return self.offset == 0 and self.channels == channels and self == self.flat()

    def is_permutation(self, channels: int) -> bool:
        """Whether the factors read every channel of a row once."""
        expected = 1
        for axis in sorted((axis for axis in self.each if axis.size > 1), key=lambda axis: axis.stride):
            if axis.stride != expected:
                return False
            expected *= axis.size
        return self.offset == 0 and expected == channels

    @property
    def places(self) -> list[int]:
        """The channels of a row that the elements of a frame are, in their order."""
        made = [self.offset]
        for size, stride in zip(self.sizes, self.strides, strict=True):
            made = [place + step * stride for place in made for step in range(size)]
        return made

    @property
    def repeat(self) -> bool:
        """Whether a channel of a row is read more than once."""
        return len(set(self.places)) < self.channels

    def flat(self) -> Axes:
        """The same dimensions over rows that hold the factors in their order."""
        return self.over([dim for dim, axis in enumerate(self.each) if axis.kind is Kind.FACTOR])

    def over(self, order: Sequence[int]) -> Axes:
        """The same dimensions over rows that hold the factors in another order, `order[-1]` innermost."""
        made = list(self.each)
        stride = 1
        for dim in reversed(order):
            made[dim] = factor(made[dim].size, stride)
            stride *= made[dim].size
        return Axes(tuple(made))

    def permuted(self, order: Iterable[int]) -> Axes:
        return Axes(tuple(self.each[dim] for dim in order), self.offset)

    def without(self, dim: int, offset: int = 0) -> Axes:
        return Axes(self.each[:dim] + self.each[dim + 1 :], self.offset + offset)

    def inserted(self, dim: int, axis: Axis = ONE) -> Axes:
        return Axes((*self.each[:dim], axis, *self.each[dim:]), self.offset)

    def replaced(self, dim: int, axis: Axis, offset: int = 0) -> Axes:
        return Axes((*self.each[:dim], axis, *self.each[dim + 1 :]), self.offset + offset)

    def __str__(self) -> str:
        sizes = [str(axis.size) if axis.kind is Kind.FACTOR else axis.kind.value for axis in self.each]
        return f"[{', '.join(sizes)}]"


def regrouped(axes: Sequence[Axis], sizes: Sequence[int]) -> tuple[Axis, ...] | None:
    """The same elements in the same order as dimensions of other sizes; None where no strides say it.

    The first new dimension of size 1 where the batch stood, or in front where it has been merged away, is the batch.
    """
    blocks: list[tuple[int, int]] = []
    for axis in axes:
        if axis.size == 1:
            continue
        if blocks and blocks[-1][1] == axis.size * axis.stride:
            blocks[-1] = (blocks[-1][0] * axis.size, axis.stride)
        else:
            blocks.append((axis.size, axis.stride))
    made: list[Axis] = []
    room, stride = 1, 0
    for size in reversed(sizes):
        if size > 1 and room == 1:
            room, stride = blocks.pop()
        if room % size:
            return None
        made.append(factor(size, stride))
        room, stride = room // size, stride * size
    made.reverse()
    return tuple(made)


def batch_place(axes: Sequence[Axis], sizes: Sequence[int]) -> int | None:
    """Which of the new dimensions is the batch, when `axes` that begin with it, or have lost it, get other sizes."""
    before = prod(axis.size for axis in axes[: axes.index(BATCH)]) if BATCH in axes else 1
    found = 1
    for place, size in enumerate(sizes):
        if found == before and size == 1:
            return place
        found *= size
    return None
