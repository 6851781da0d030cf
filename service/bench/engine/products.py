"""The limit: the matrix products that a step consists of, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from service.bench.engine.contenders import Batch, Penstock
from service.streaming.kernels import Kernel
from service.streaming.numerics import Gemm


class BareProducts:
    """The products of one step, with the same kernels, shapes and weights, on rows that lie ready."""

    def __init__(self, penstock: Penstock, batch: Batch) -> None:
        self.name = f"bare products, {penstock.name.removeprefix('penstock ')}"
        with _recorded() as calls:
            penstock.step(penstock.prepare(batch))
        self.calls = [(gemm.kernel, torch.randn(rows, depth), gemm) for gemm, rows, depth in calls]

    @torch.no_grad()
    def step(self) -> None:
        for kernel, rows, gemm in self.calls:
            kernel.product(rows, gemm.weight, gemm.bias, None)


@contextmanager
def _recorded() -> Iterator[list[tuple[Gemm, int, int]]]:
    calls: list[tuple[Gemm, int, int]] = []
    whole = Gemm.__call__

    def record(gemm: Gemm, rows: Tensor, out: Tensor | None = None) -> Tensor:
        calls.append((gemm, *rows.shape))
        return whole(gemm, rows, out)

    Gemm.__call__ = record  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        Gemm.__call__ = whole  # type: ignore[method-assign]


__all__ = ["BareProducts", "Kernel"]
