"""Packed ragged batches: the samples of many streams in one tensor, stream after stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """`values [N, C]` holds the rows of stream 0, then of stream 1, …; `lengths [B]` says how many each has (zeros allowed).

    `start [B]`, on outputs, is the absolute index in its stream of each stream's first row here.
    """

    values: Float[Tensor, "N C"]
    lengths: Int64[Tensor, "B"]
    start: Int64[Tensor, "B"] | None = None

    def split(self) -> list[Float[Tensor, "n C"]]:
        """One tensor per stream, views of `values`."""
        return list(torch.split(self.values, self.lengths.tolist()))
