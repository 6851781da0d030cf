"""Matrix products whose rows are the same bits however many rows there are, and whichever rows stand beside them.

BLAS picks kernels by shape, so a row's sum may be taken in another order when the number of rows changes. `MKL_CBWR=AUTO,STRICT`
removes most of that (it must be set before the process's first matrix product, hence at import here), fixed minimum sizes remove
what was measured to be left, and every shape is probed before a program may use it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from service.errors import NotStreamable

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

TILE = 128
PROBED_ROWS = (
    *range(1, 34),
    47,
    48,
    49,
    63,
    64,
    65,
    96,
    127,
    128,
    129,
    192,
    255,
    256,
    257,
    500,
    512,
    513,
    1000,
    1024,
    1537,
    2560,
    4097,
)


class Numerics(Enum):
    """`EXACT`: a stream's bits never depend on batch, chunking or slot. `FAST`: the quickest kernels."""

    EXACT = "exact"
    FAST = "fast"


@dataclass(frozen=True)
class RowPolicy:
    """How to call the BLAS so that rows keep their bits: at least `least` rows, or exactly `tile` rows at a time."""

    least: int
    tile: int | None = None

    def product(
        self, rows: Float[Tensor, "M K"], weight: Float[Tensor, "K N"], bias: Float[Tensor, "N"], out: Float[Tensor, "M N"] | None
    ) -> Float[Tensor, "M N"]:
        """`rows @ weight + bias`."""
        count = rows.shape[0]
        if self.tile is None and count >= self.least:
            return torch.addmm(bias, rows, weight) if out is None else torch.addmm(bias, rows, weight, out=out)
        step = self.tile or self.least
        padded = rows.new_zeros(-(-count // step) * step, rows.shape[1])
        padded[:count] = rows
        parts = [torch.addmm(bias, part, weight) for part in torch.split(padded, step)]
        result = (parts[0] if len(parts) == 1 else torch.cat(parts))[:count]
        return result if out is None else out.copy_(result)


FAST_ROWS = RowPolicy(least=1)


class Gemm:
    """`rows @ weight + bias` under a row policy; one output column is computed as two."""

    def __init__(self, weight: Float[Tensor, "K N"], bias: Float[Tensor, "N"] | None, numerics: Numerics) -> None:
        depth, self.columns = weight.shape
        width = max(self.columns, 2) if numerics is Numerics.EXACT else self.columns
        self.weight = weight.new_zeros(depth, width)
        self.weight[:, : self.columns] = weight
        self.bias = weight.new_zeros(width)
        if bias is not None:
            self.bias[: self.columns] = bias
        self.policy = FAST_ROWS
        if numerics is Numerics.EXACT:
            self.policy = row_policy(depth, width, weight.dtype, torch.get_num_threads())

    def __call__(self, rows: Float[Tensor, "M K"], out: Float[Tensor, "M N"] | None = None) -> Float[Tensor, "M N"]:
        if self.columns == self.weight.shape[1]:
            return self.policy.product(rows, self.weight, self.bias, out)
        result = self.policy.product(rows, self.weight, self.bias, None)[:, : self.columns]
        return result.contiguous() if out is None else out.copy_(result)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias


@cache
def row_policy(depth: int, width: int, dtype: torch.dtype, threads: int) -> RowPolicy:
    """The cheapest policy under which a `[M, depth] x [depth, width]` product was seen to keep its rows' bits on this machine.

    Raises NotStreamable when none does.
    """
    for policy in (RowPolicy(2), RowPolicy(4), RowPolicy(16), RowPolicy(32), RowPolicy(TILE, TILE)):
        if _keeps_rows(policy, depth, width, dtype):
            return policy
    raise NotStreamable(
        f"a product of depth {depth} and width {width} gives other bits for other numbers of rows on this machine "
        f"(torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {threads} threads, "
        f"MKL_CBWR={os.environ.get('MKL_CBWR')}), whatever is tried. Import service.streaming before the first matrix product of "
        "the process, so that MKL_CBWR takes effect, or convert with numerics='fast'."
    )


def _keeps_rows(policy: RowPolicy, depth: int, width: int, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(depth * 100_003 + width)
    # The odd leading element puts rows at addresses that no allocator would choose, as staging areas do.
    rows = torch.randn(PROBED_ROWS[-1] * depth + 1, generator=generator).to(dtype)[1:].view(-1, depth)
    weight = torch.randn(depth, width, generator=generator).to(dtype)
    bias = torch.randn(width, generator=generator).to(dtype)
    room = torch.empty(PROBED_ROWS[-1] * width + 1, dtype=dtype)[1:].view(-1, width)
    reference = policy.product(rows, weight, bias, None)
    for place, count in enumerate(PROBED_ROWS):
        last = len(rows) - count
        first = (0, min(3, last), last)[place % 3]
        result = policy.product(rows[first : first + count], weight, bias, room[:count])
        if not torch.equal(result, reference[first : first + count]):
            return False
    return True
