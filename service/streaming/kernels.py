"""Ways to compute a matrix product, and what keeps a row's bits in each of them.

Kernels of our own compute every row by itself. Libraries pick kernels by shape, so a row's sum may be taken in another order when
the number of rows changes. oneDNN's kernels are generated for a shape and keep a row's order of summation, but generating one takes
a millisecond, so rows come in a few fixed numbers. The BLAS takes any number; fixed minimum sizes or tiles remove what changes of
bits `MKL_CBWR` leaves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.native import Library, Multiplication, library

TILE = 128
PROBED_ROWS = (*range(1, 34), 47, 49, 63, 64, 65, 96, 127, 128, 129, 255, 256, 257, 500, 512, 513, 1000, 1024, 1537, 2560, 4097)
BUCKETS = (16, 32, 64, 128, 256, *range(512, 8192, 512), *range(8192, 16385, 2048))
"""The numbers of rows that oneDNN's kernels are made for."""
THIN = 16
"""Up to which depth a product is so little work that what oneDNN's call costs decides."""


Arranged = tuple[Tensor, ...]
"""A weight as a kernel takes it; what oneDNN takes is opaque."""


class Kernel(ABC):
    """A way to compute `rows @ weight + bias`, rectified or not."""

    def arranged(self, weight: Float[Tensor, "K N"]) -> Arranged:
        """The weight in the layout that `product` takes."""
        return (weight.contiguous(),)

    @abstractmethod
    def product(
        self,
        rows: Float[Tensor, "M K"],
        weight: Arranged,
        bias: Float[Tensor, "N"],
        out: Float[Tensor, "M N"] | None,
        rectified: bool = False,
    ) -> Float[Tensor, "M N"]:
        """The product, in `out` where that is given."""

    @property
    def probed(self) -> tuple[int, ...]:
        """The numbers of rows at which to look whether rows keep their bits."""
        return PROBED_ROWS


@dataclass(frozen=True)
class Blas(Kernel):
    """Torch's `addmm`, called so that rows keep their bits: with at least `least` rows, or exactly `tile` rows at a time."""

    least: int
    tile: int | None = None

    def product(
        self,
        rows: Float[Tensor, "M K"],
        weight: Arranged,
        bias: Float[Tensor, "N"],
        out: Float[Tensor, "M N"] | None,
        rectified: bool = False,
    ) -> Float[Tensor, "M N"]:
        (matrix,) = weight
        count = rows.shape[0]
        if self.tile is None and count >= self.least:
            result = torch.addmm(bias, rows, matrix) if out is None else torch.addmm(bias, rows, matrix, out=out)
        else:
            step = self.tile or self.least
            padded = rows.new_zeros(-(-count // step) * step, rows.shape[1])
            padded[:count] = rows
            parts = [torch.addmm(bias, part, matrix) for part in torch.split(padded, step)]
            made = (parts[0] if len(parts) == 1 else torch.cat(parts))[:count]
            result = made if out is None else out.copy_(made)
        return result.relu_() if rectified else result


@dataclass(frozen=True)
class OneDnn(Kernel):
    """oneDNN's product, in pieces of the `BUCKETS`' sizes; what is padded is dropped."""

    def arranged(self, weight: Float[Tensor, "K N"]) -> Arranged:
        return (torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous()),)

    def product(
        self,
        rows: Float[Tensor, "M K"],
        weight: Arranged,
        bias: Float[Tensor, "N"],
        out: Float[Tensor, "M N"] | None,
        rectified: bool = False,
    ) -> Float[Tensor, "M N"]:
        (packed,) = weight
        count = rows.shape[0]
        pieces = _pieces(count)

        def product(piece: Tensor) -> Tensor:
            made: Tensor = torch.ops.mkldnn._linear_pointwise.default(piece, packed, bias, "none", [], "")
            # Its own relu makes a zero of NaN.
            return made.relu_() if rectified else made

        if len(pieces) == 1:
            made = product(rows) if pieces[0][1] == count else product(_extended(rows, pieces[0][1]))[:count]
            return made if out is None else out.copy_(made)
        parts = [product(_extended(rows[first:], size))[: count - first] for first, size in pieces]
        return torch.cat(parts) if out is None else torch.cat(parts, out=out)

    @property
    def probed(self) -> tuple[int, ...]:
        return (1, *BUCKETS)

    @staticmethod
    @cache
    def exists() -> bool:
        """Whether this build of torch has it for this processor."""
        try:
            kernel = OneDnn()
            kernel.product(torch.zeros(16, 2), kernel.arranged(torch.zeros(2, 2)), torch.zeros(2), None)
        except (RuntimeError, AttributeError):
            return False
        return True


@dataclass(frozen=True)
class Native(Kernel):
    """Our own: no row depends on another, so any number of them will do, and windows are read where they lie."""

    library: Library

    def arranged(self, weight: Float[Tensor, "K N"]) -> Arranged:
        return (self.library.panels(weight),)

    def product(
        self,
        rows: Float[Tensor, "M K"],
        weight: Arranged,
        bias: Float[Tensor, "N"],
        out: Float[Tensor, "M N"] | None,
        rectified: bool = False,
    ) -> Float[Tensor, "M N"]:
        (panels,) = weight
        room = rows.new_empty(rows.shape[0], bias.shape[0]) if out is None else out
        return self.library.multiply([Multiplication(panels, bias, False, rectified)], rows, None, room)

    @property
    def probed(self) -> tuple[int, ...]:
        return (1, 5, 6, 7, 12, 13, 25, 1000)

    @staticmethod
    def for_type(dtype: torch.dtype) -> Native | None:
        """None where there are no such kernels."""
        found = library() if dtype == torch.float32 else None
        return None if found is None else Native(found)


class Rounded(OneDnn):
    """oneDNN's product of operands rounded to bfloat16, summed in float32, rounded again."""

    def arranged(self, weight: Float[Tensor, "K N"]) -> Arranged:
        return super().arranged(weight.bfloat16())

    def product(
        self,
        rows: Float[Tensor, "M K"],
        weight: Arranged,
        bias: Float[Tensor, "N"],
        out: Float[Tensor, "M N"] | None,
        rectified: bool = False,
    ) -> Float[Tensor, "M N"]:
        made = super().product(rows.bfloat16(), weight, bias.bfloat16(), None, rectified)
        return made.float() if out is None else out.copy_(made)


@lru_cache(4096)
def _pieces(count: int) -> tuple[tuple[int, int], ...]:
    """Where to cut `count` rows, and the number of rows to compute for each piece."""
    most = BUCKETS[-1]
    return tuple((first, BUCKETS[bisect_left(BUCKETS, min(count - first, most))]) for first in range(0, count, most))


def _extended(rows: Float[Tensor, "M K"], size: int) -> Float[Tensor, "size K"]:
    """The first `size` rows; where there are fewer, what follows them in memory, or zeros at its end."""
    count, depth = rows.shape
    if count >= size:
        return rows[:size]
    if rows.is_contiguous() and rows.storage_offset() + size * depth <= rows.untyped_storage().size() // rows.itemsize:
        return rows.as_strided((size, depth), (depth, 1))
    padded = rows.new_zeros(size, depth)
    padded[:count] = rows
    return padded


@dataclass(frozen=True)
class Quickest(Kernel):
    """The BLAS for few rows and oneDNN from `least` on, as was measured."""

    least: int

    def arranged(self, weight: Float[Tensor, "K N"]) -> Arranged:
        return PLAIN.arranged(weight) + GENERATED.arranged(weight)

    def product(
        self,
        rows: Float[Tensor, "M K"],
        weight: Arranged,
        bias: Float[Tensor, "N"],
        out: Float[Tensor, "M N"] | None,
        rectified: bool = False,
    ) -> Float[Tensor, "M N"]:
        if rows.shape[0] < self.least:
            return PLAIN.product(rows, weight[:1], bias, out, rectified)
        return GENERATED.product(rows, weight[1:], bias, out, rectified)


PLAIN = Blas(least=1)
GENERATED = OneDnn()
