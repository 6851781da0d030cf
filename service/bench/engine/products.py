"""The limit: the matrix products that a step consists of, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from service.bench.engine.contenders import Batch, Penstock
from service.streaming.kernels import PLAIN, Kernel, Native
from service.streaming.native import Library, Multiplication
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
        ready = {(rows, len(matrix)): torch.randn(rows, len(matrix)) for _, rows, matrix, _ in calls}
        self.calls = []
        for used, rows, matrix, bias in calls:
            kernel = PLAIN if blas else used
            self.calls.append((kernel, ready[rows, len(matrix)], kernel.arranged(matrix), bias))

    @torch.no_grad()
    def step(self) -> None:
        for kernel, rows, weight, bias in self.calls:
            kernel.product(rows, weight, bias, None)


@contextmanager
def _recorded() -> Iterator[list[tuple[Kernel, int, Tensor, Tensor]]]:
    """Which kernel multiplied how many rows by which matrix, and added which bias."""
    calls: list[tuple[Kernel, int, Tensor, Tensor]] = []
    whole, multiply = Gemm.__call__, Library.multiply

    def record(gemm: Gemm, rows: Tensor, out: Tensor | None = None) -> Tensor:
        before = len(calls)
        made = whole(gemm, rows, out)
        calls[before:] = [(gemm.kernel, rows.shape[0], gemm.matrix[:, : gemm.columns], gemm.bias[: gemm.columns])]
        return made

    def record_multiplied(
        own: Library, by: Sequence[Multiplication], source: Tensor, at: Tensor | None, out: Tensor, *more: Any
    ) -> Tensor:
        for part in by:
            if not part.depthwise:
                matrix = part.weight.transpose(0, 1).flatten(1)[:, : part.columns]
                calls.append((Native(own), out.shape[0], matrix, part.bias))
        return multiply(own, by, source, at, out, *more)

    Gemm.__call__, Library.multiply = record, record_multiplied  # type: ignore[method-assign, assignment]
    try:
        yield calls
    finally:
        Gemm.__call__, Library.multiply = whole, multiply  # type: ignore[method-assign]
