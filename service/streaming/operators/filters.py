"""What convolutions over one dimension and over two have in common."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from service.streaming.numerics import Gemm, Numerics
from service.streaming.operator import Operator, Windowed


class Filters(Windowed):
    """Filters of `groups` of channels: a matrix product each, or, where they are depthwise, a multiplication per tap.

    `weight [C_out, C_group, …, k]` with time last. The rows of a product's matrix are in the reverse order of these dimensions,
    and so are `tap_weights [k, …, C_out]`.
    """

    def __init__(
        self, weight: Float[Tensor, "C_out C_group *_"], bias: Float[Tensor, "C_out"] | None, groups: int, numerics: Numerics
    ) -> None:
        self.outward, self.depth = weight.shape[:2]
        self.groups = groups
        self.numerics = numerics
        self.rectified = False
        self.depthwise = groups > 1 and self.depth == 1 and self.outward == groups
        self.take(weight, bias)

    def take(self, weight: Float[Tensor, "C_out C_group *_"], bias: Float[Tensor, "C_out"] | None) -> None:
        """Computes with these from now on."""
        self.weight, self.bias = weight.detach().clone(), None if bias is None else bias.detach().clone()
        if self.depthwise:
            self.tap_weights: Float[Tensor, "k *_ C"] = _reversed(self.weight.squeeze(1)).contiguous()
            self.start = self.weight.new_zeros(self.outward) if self.bias is None else self.bias
        else:
            biases = [None] * self.groups if self.bias is None else list(self.bias.chunk(self.groups))
            matrices = [_reversed(part).flatten(0, -2) for part in self.weight.chunk(self.groups)]
            self.gemms = [Gemm(matrix, bias, self.numerics) for matrix, bias in zip(matrices, biases, strict=True)]

    def products(self) -> tuple[Gemm, ...]:
        return () if self.depthwise else tuple(self.gemms)

    def absorbs(self, follower: Operator) -> bool:
        if self.depthwise or follower.name != "relu" or self.rectified:
            return False
        self.rectified = True
        for product in self.gemms:
            product.rectified = True
        return True

    def weights(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


def _reversed(weight: Tensor) -> Tensor:
    return weight.permute(*reversed(range(weight.ndim)))
