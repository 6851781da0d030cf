"""Which tensors share their elements, and what a change of some of them makes of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from service.streaming.operator import Pointwise


@dataclass(frozen=True, eq=False)
class Memory:
    """Where torch would keep a tensor's elements.

    Tensors of one memory share it: what is written to one shows in the others. Of those that have only the origin in common nobody
    knows it here, because torch copies where the strides ask for it: `contiguous`, `reshape`. Where it `overlaps`, several elements
    lie in one place, as `expand` and `unfold` leave them.
    """

    origin: object
    overlaps: bool = False

    @staticmethod
    def anew() -> Memory:
        return Memory(object())

    def perhaps(self, overlaps: bool = False) -> Memory:
        """The same, or a copy."""
        return Memory(self.origin, self.overlaps or overlaps)


class Put(Pointwise):
    """Rows in which some channels are those of another value, in the order of their `places`."""

    name = "put"

    def __init__(self, channels: int, places: Sequence[int]) -> None:
        self.channels = channels
        self.chosen = torch.arange(channels)
        self.chosen[list(places)] = torch.arange(channels, channels + len(places))

    def compute(self, rows: Sequence[Float[Tensor, "M _"]], out: Float[Tensor, "M C"] | None) -> Float[Tensor, "M C"]:
        return torch.index_select(torch.cat(list(rows), 1), 1, self.chosen, out=out)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.chosen,)
