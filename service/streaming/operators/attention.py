"""Attention of every frame to the last frames."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from service.errors import NotStreamable
from service.streaming.numerics import Numerics
from service.streaming.operator import Banded

TILE = 8
PROBED_TILES = (1, 2, 3, 5, 8, 13, 32, 47)


class Attention(Banded):
    """Scaled dot-product attention of every element to itself and the `band - 1` before it.

    The input's channels are the queries of `heads` heads of `depth` channels, then keys and then values of `groups` heads, each of
    them for `heads / groups` heads of queries. `bias [1 or heads, band]` is added to the scores, by distance into the past.

    Torch's kernel gives a tile the same bits however many tiles there are, since its shape is always the same; that is probed.
    """

    name = "attention"

    def __init__(
        self,
        heads: int,
        groups: int,
        depth: int,
        width: int,
        band: int,
        scale: float,
        bias: Float[Tensor, "H band"],
        numerics: Numerics,
    ) -> None:
        self.heads = heads
        self.groups = groups
        self.depth = depth
        self.width = width
        self.channels = heads * width
        self.band = band
        # No tile reads more elements beyond its new ones than the rings of the smallest arena have.
        self.tile = min(TILE, band)
        self.scale = scale
        self.bias = bias.detach().clone()
        distance = torch.arange(self.tile).unsqueeze(1) + (band - 1) - torch.arange(band + self.tile - 1)
        inside = (distance >= 0) & (distance < band)
        self.mask: Float[Tensor, "H tile k"] = torch.where(
            inside, self.bias[:, distance.clamp(0, band - 1)], torch.tensor(-torch.inf)
        )
        if numerics is Numerics.EXACT and not keeps_tiles(self.tile, band, heads, groups, depth, width, torch.get_num_threads()):
            raise NotStreamable(
                f"attention to {band} frames with {heads} heads of {depth} channels gives other bits for other numbers of streams "
                "on this machine. Convert with numerics='fast', or choose another number of channels."
            )

    def compute(self, values: Float[Tensor, "P k C_in"], first: Int64[Tensor, "P"]) -> Float[Tensor, "P tile C"]:
        mask = self.mask.unsqueeze(0)
        if bool((first < self.band - 1).any()):
            index = first.unsqueeze(1) + torch.arange(1 - self.band, self.tile, device=first.device)
            mask = mask.masked_fill((index < 0).view(len(first), 1, 1, -1), -torch.inf)
        return attend(values, mask, self.tile, self.heads, self.groups, self.depth, self.width, self.scale)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.bias,)

    def describe(self) -> str:
        return f"attention({self.heads}, {self.groups}, {self.depth}, {self.width}, {self.band}, {self.scale})"


def attend(
    values: Float[Tensor, "P k C_in"],
    mask: Float[Tensor, "_ _ tile k"],
    tile: int,
    heads: int,
    groups: int,
    depth: int,
    width: int,
    scale: float,
) -> Float[Tensor, "P tile C"]:
    """The tiles' outputs; their queries are the last `tile` elements."""
    count, taps, _ = values.shape
    queries, keys, content = torch.split(values, [heads * depth, groups * depth, groups * width], 2)
    made = F.scaled_dot_product_attention(
        queries[:, taps - tile :].view(count, tile, heads, depth).transpose(1, 2),
        keys.view(count, taps, groups, depth).transpose(1, 2),
        content.view(count, taps, groups, width).transpose(1, 2),
        attn_mask=mask.expand(count, heads, -1, -1),
        scale=scale,
        enable_gqa=groups != heads,
    )
    return made.transpose(1, 2).reshape(count, tile, heads * width)


@cache
def keeps_tiles(tile: int, band: int, heads: int, groups: int, depth: int, width: int, threads: int) -> bool:
    """Whether a tile's bits were seen not to depend on the number of tiles and its place among them."""
    generator = torch.Generator().manual_seed(band)
    shape = (PROBED_TILES[-1], band + tile - 1, heads * depth + groups * (depth + width))
    values = torch.randn(shape, generator=generator)
    mask = torch.zeros(1, 1, tile, band + tile - 1)
    mask[..., :tile, : tile // 2] = -torch.inf
    arguments = (tile, heads, groups, depth, width, depth**-0.5)
    whole = attend(values, mask, *arguments)
    for count in PROBED_TILES:
        for start in (0, min(1, len(values) - count), len(values) - count):
            part = values[start : start + count].clone()
            if not torch.equal(attend(part, mask, *arguments), whole[start : start + count]):
                return False
    return True
