"""In which numbers the matrix products compute. Everything else, and all that is remembered of a stream, is float32."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import torch

from service.streaming.kernels import OneDnn, Rounded
from service.streaming.operator import Operator

LEAST = 32768
"""Numbers in a weight from which rounding its operands pays, as measured; smaller products stay in float32."""


class Precision(Enum):
    """`FLOAT32`, or `BFLOAT16` for large products: operands with 8 bits of mantissa, summed in float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @property
    def tolerance(self) -> float:
        """The largest difference from the offline module that is expected, relative to its largest output."""
        return 1e-5 if self is Precision.FLOAT32 else 5e-2


def apply(precision: Precision, operators: Iterable[Operator]) -> None:
    """Raises ValueError where this machine's libraries do not compute in that precision."""
    if precision is Precision.FLOAT32:
        return
    if not (OneDnn.exists() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        raise ValueError("precision is 'bfloat16', which this processor does not compute in; use float32")
    for operator in operators:
        for product in operator.products():
            if product.matrix.numel() >= LEAST:
                product.use(Rounded())
