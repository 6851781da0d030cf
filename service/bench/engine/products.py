"""The limit: the matrix products that a step consists of, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from service.bench.engine.contenders import Batch, Penstock
from service.streaming.kernels import PLAIN
from service.streaming.numerics import Gemm


class BareProducts:
    """The products of one step, with the same shapes and weights, on rows that lie ready: by the same kernels, or by `addmm`."""

    def __init__(self, penstock: Penstock, batch: Batch, blas: bool) -> None:
        self.name = "bare products, addmm" if blas else "bare products"
        program = penstock.program
        taped, program.taped = program.taped, False
        with _recorded() as calls:
            penstock.step(penstock.prepare(batch))
        program.taped = taped
        ready = {(rows, depth): torch.randn(rows, depth) for _, rows, depth in calls}
        self.calls = []
        for gemm, rows, depth in calls:
            matrix, bias = gemm.matrix[:, : gemm.columns], gemm.bias[: gemm.columns]
            kernel = PLAIN if blas else gemm.kernel
            self.calls.append((kernel, ready[rows, depth], kernel.arranged(matrix), bias))

    @torch.no_grad()
    def step(self) -> None:
        for kernel, rows, weight, bias in self.calls:
            kernel.product(rows, weight, bias, None)


@contextmanager
def _recorded() -> Iterator[list[tuple[Gemm, int, int]]]:
    calls: list[tuple[Gemm, int, int]] = []
    whole, gathered = Gemm.__call__, Gemm.gathered

    def record(gemm: Gemm, rows: Tensor, out: Tensor | None = None) -> Tensor:
        calls.append((gemm, *rows.shape))
        return whole(gemm, rows, out)

    def record_gathered(gemm: Gemm, source: Tensor, addresses: Tensor | None, count: int, *more: Any) -> Tensor:
        calls.append((gemm, count, gemm.matrix.shape[0]))
        return gathered(gemm, source, addresses, count, *more)

    Gemm.__call__, Gemm.gathered = record, record_gathered  # type: ignore[method-assign, assignment]
    try:
        yield calls
    finally:
        Gemm.__call__, Gemm.gathered = whole, gathered  # type: ignore[method-assign]
