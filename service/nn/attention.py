"""Self-attention that looks back a bounded time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from service.nn.overtime import OverTime
from service.streaming.operator import Window, Windowed, Windows
from service.streaming.operators.affine import Linear
from service.streaming.operators.attention import attended
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

ROTARY_BASE = 10_000.0


class CausalAttention(OverTime):
    """Multi-head self-attention of every frame to itself and the `window - 1` frames before it; `[B, C, T]` in and out.

    Queries, keys and values are one linear map of the frame, the heads' results go through another. With `rotary`, queries and
    keys are turned by their frame's index (Su et al., RoFormer; pairs are the halves of a head, base 10,000), so that scores depend
    on distance. Raises ValueError where `heads` does not divide `channels`, for an odd head with `rotary`, and for `window < 1`.
    """

    def __init__(
        self, channels: int, heads: int, window: int, rotary: bool = False, bias: bool = True, layout: str = "BCT"
    ) -> None:
        super().__init__(layout)
        if heads < 1 or channels % heads:
            raise ValueError(f"heads is {heads} and channels {channels}; heads divides channels")
        if rotary and channels // heads % 2:
            raise ValueError(f"a head has {channels // heads} channels; rotary turns pairs of them")
        if window < 1:
            raise ValueError(f"window is {window}; a frame attends to itself at least")
        self.channels = channels
        self.heads = heads
        self.window = window
        self.rotary = rotary
        self.into = nn.Linear(channels, 3 * channels, bias)
        self.out = nn.Linear(channels, channels, bias)

    def offline(self, x: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
        batch, channels, length = x.shape
        mixed = self.into(x.transpose(1, 2))
        if self.rotary:
            mixed = rotated(mixed, torch.arange(length, device=x.device), self.heads)
        # Blocks of `window` frames attend to themselves and the block before them, so memory does not grow with the square of time.
        blocks = -(-length // self.window)
        padded = F.pad(mixed, (0, 0, self.window, blocks * self.window - length))
        folded = padded.view(batch, blocks + 1, self.window, 3, self.heads, channels // self.heads)
        queries, keys, values = folded.permute(3, 0, 1, 4, 2, 5)
        distance = torch.arange(self.window, device=x.device).unsqueeze(1) + self.window
        distance = distance - torch.arange(2 * self.window, device=x.device)
        seen = ((distance >= 0) & (distance < self.window)).expand(blocks, 1, -1, -1).clone()
        seen[0, :, :, : self.window] = False
        made = F.scaled_dot_product_attention(
            queries[:, 1:],
            torch.cat([keys[:, :-1], keys[:, 1:]], 3),
            torch.cat([values[:, :-1], values[:, 1:]], 3),
            attn_mask=seen,
        )
        joined = made.transpose(2, 3).reshape(batch, blocks * self.window, channels)[:, :length]
        result: Tensor = self.out(joined)
        return result.transpose(1, 2)

    def streamed(self, trace: Trace, symbol: Symbol) -> Symbol:
        if symbol.channels != self.channels:
            trace.refuse(
                f"CausalAttention of {symbol.channels} channels", f"It takes {self.channels}; the module would raise here."
            )
        mixed = trace.add(Linear(self.into.weight, self.into.bias, trace.numerics), [symbol])
        depth = self.channels // self.heads
        if self.rotary:
            mixed = trace.add(Rotation(self.channels, self.heads), [mixed])
        bias = torch.zeros(1, self.window)
        result = attended(trace, "CausalAttention", mixed, self.heads, self.heads, depth, depth, bias)
        return trace.add(Linear(self.out.weight, self.out.bias, trace.numerics), [result])

    def extra_repr(self) -> str:
        return f"channels={self.channels}, heads={self.heads}, window={self.window}, rotary={self.rotary}"


class Rotation(Windowed):
    """Turns queries and keys by their frame's index; values stay."""

    name = "rotary"
    window = Window(1, (0,))
    right = 0

    def __init__(self, channels: int, heads: int) -> None:
        self.channels = 3 * channels
        self.heads = heads

    def compute(self, windows: Windows, out: Float[Tensor, "M 3*C"] | None) -> Float[Tensor, "M 3*C"]:
        made = rotated(windows.values.squeeze(1), windows.span.index, self.heads)
        return made if out is None else out.copy_(made)

    def describe(self) -> str:
        return f"rotary({self.heads})"


def rotated(mixed: Float[Tensor, "*B T 3*C"], index: Tensor, heads: int) -> Float[Tensor, "*B T 3*C"]:
    """Queries and keys turned by `index * base ** (-2 * i / D)`, the angles in float64: they grow with the stream."""
    depth = mixed.shape[-1] // (3 * heads)
    half = depth // 2
    rates = ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64, device=mixed.device) * 2 / depth)
    angles = index.to(torch.float64).unsqueeze(-1) * rates
    cosine, sine = (turn.to(mixed.dtype).unsqueeze(-2) for turn in (angles.cos(), angles.sin()))
    turned, values = torch.split(mixed, [2 * heads * depth, heads * depth], -1)
    first, second = turned.reshape(*turned.shape[:-1], 2 * heads, 2, half).unbind(-2)
    pairs = torch.stack([first * cosine - second * sine, second * cosine + first * sine], -2)
    return torch.cat([pairs.flatten(-3), values], -1)
