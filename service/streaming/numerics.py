"""Which kernel a matrix product takes: one whose rows are the same bits in any company, or the quickest.

`MKL_CBWR=AUTO,STRICT` removes most changes of bits from MKL; it must be set before the process's first matrix product, hence at
import here. Whatever a program uses under `exact` is probed for its shapes first.
"""

from __future__ import annotations

import os
import time
from enum import Enum
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from service.errors import NotStreamable
from service.streaming.kernels import BUCKETS, PLAIN, THIN, TILE, Blas, Kernel, Native, OneDnn, Quickest
from service.streaming.native import Multiplication

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


OWN = 1 << 16
"""Up to how many weights our own product is as quick as any library's, and does not need its rows side by side."""


class Numerics(Enum):
    """`EXACT`: a stream's bits never depend on batch, chunking or slot. `FAST`: the quickest kernels."""

    EXACT = "exact"
    FAST = "fast"


class Gemm:
    """`rows @ weight + bias` by the best kernel; libraries compute one output column as two.

    `few` says that calls have few rows, one after the other, as recurrences do: there a call's own cost decides.
    """

    def __init__(
        self, weight: Float[Tensor, "K N"], bias: Float[Tensor, "N"] | None, numerics: Numerics, few: bool = False
    ) -> None:
        depth, self.columns = weight.shape
        width = max(self.columns, 2) if numerics is Numerics.EXACT else self.columns
        padded = weight.new_zeros(depth, width)
        padded[:, : self.columns] = weight
        self._width = width
        self.bias = weight.new_zeros(width)
        if bias is not None:
            self.bias[: self.columns] = bias
        threads = torch.get_num_threads()
        own = Native.for_type(weight.dtype) is not None
        choose = exact_kernel if numerics is Numerics.EXACT else quickest_kernel
        kernel = choose(depth, width, weight.dtype, threads, few, own)
        self.matrix = padded
        self.use(kernel)
        self.rectified = False
        """Whether negative results become zero, as a relu behind it would make them."""

    def __call__(self, rows: Float[Tensor, "M K"], out: Float[Tensor, "M N"] | None = None) -> Float[Tensor, "M N"]:
        if self.columns == self._start.shape[0]:
            return self.kernel.product(rows, self.weight, self._start, out, self.rectified)
        result = self.kernel.product(rows, self.weight, self._start, None, self.rectified)[:, : self.columns]
        return result.contiguous() if out is None else out.copy_(result)

    @property
    def multiplication(self) -> Multiplication | None:
        """What our own kernel is called with, which does not need windows side by side; None where another computes the product."""
        if not isinstance(self.kernel, Native):
            return None
        (panels,) = self.weight
        return Multiplication(panels, self._start, False, self.rectified)

    def use(self, kernel: Kernel) -> None:
        """Computes with this kernel from now on."""
        width = self.columns if isinstance(kernel, Native) else self._width
        self.weight = kernel.arranged(self.matrix[:, :width])
        self.kernel = kernel
        self._start = self.bias[:width]

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.matrix, self.bias


@cache
def exact_kernel(depth: int, width: int, dtype: torch.dtype, threads: int, few: bool = False, own: bool = False) -> Kernel:
    """The cheapest kernel by which a `[M, depth] x [depth, width]` product was seen to keep its rows' bits on this machine.

    `own` allows our own, which comes first. The order of preference is fixed, so that every process of a machine takes the same.
    Raises NotStreamable when none does.
    """
    native = Native.for_type(dtype) if own else None
    first: tuple[Kernel, ...] = () if native is None else (native,)
    blas: tuple[Kernel, ...] = (Blas(2), Blas(4), Blas(16), Blas(32), Blas(TILE, TILE))
    generated: tuple[Kernel, ...] = (OneDnn(),) if OneDnn.exists() else ()
    for kernel in first + (blas + generated if few or depth <= THIN else generated + blas):
        if _keeps_rows(kernel, depth, width, dtype):
            return kernel
    raise NotStreamable(
        f"a product of depth {depth} and width {width} gives other bits for other numbers of rows on this machine "
        f"(torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {threads} threads, "
        f"MKL_CBWR={os.environ.get('MKL_CBWR')}), whatever is tried. Import service.streaming before the first matrix product of "
        "the process, so that MKL_CBWR takes effect, or convert with numerics='fast'."
    )


@cache
def quickest_kernel(depth: int, width: int, dtype: torch.dtype, threads: int, few: bool = False, own: bool = False) -> Kernel:
    """Our own, or the BLAS up to the number of rows from which oneDNN was measured to be quicker here."""
    native = Native.for_type(dtype) if own else None
    if native is not None and depth * width <= OWN:
        return native
    if few or not OneDnn.exists():
        return PLAIN
    least = BUCKETS[-1] + 1
    for count in reversed(BUCKETS):
        rows, weight, bias = (
            torch.ones(count, depth, dtype=dtype),
            torch.ones(depth, width, dtype=dtype),
            torch.ones(width, dtype=dtype),
        )
        if _seconds(OneDnn(), rows, weight, bias) > _seconds(PLAIN, rows, weight, bias):
            break
        least = count
    return Quickest(least)


def _seconds(kernel: Kernel, rows: Tensor, weight: Tensor, bias: Tensor) -> float:
    """The shortest of a few calls, the first one, which may generate code, apart."""
    arranged = kernel.arranged(weight)
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        kernel.product(rows, arranged, bias, None)
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def _keeps_rows(kernel: Kernel, depth: int, width: int, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(depth * 100_003 + width)
    most = kernel.probed[-1]
    # The odd leading element puts rows at addresses that no allocator would choose, as staging areas do.
    rows = torch.randn(most * depth + 1, generator=generator).to(dtype)[1:].view(-1, depth)
    weight = kernel.arranged(torch.randn(depth, width, generator=generator).to(dtype))
    bias = torch.randn(width, generator=generator).to(dtype)
    room = torch.empty(most * width + 1, dtype=dtype)[1:].view(-1, width)
    reference = kernel.product(rows, weight, bias, None)
    for place, count in enumerate(kernel.probed):
        last = len(rows) - count
        first = (0, min(3, last), last)[place % 3]
        result = kernel.product(rows[first : first + count], weight, bias, room[:count])
        if not torch.equal(result, reference[first : first + count]):
            return False
    return True
