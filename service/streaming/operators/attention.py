"""Attention of every frame to the last frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from service.errors import NotStreamable
from service.streaming.band import WITHOUT_END, Band
from service.streaming.lowering import lowers_module
from service.streaming.numerics import Numerics
from service.streaming.operator import Banded
from service.streaming.operators.affine import Linear
from service.streaming.operators.arithmetic import check_rates, part
from service.streaming.operators.concatenation import Concatenation
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

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

    def compute(
        self, values: Float[Tensor, "P k C_in"], first: Int64[Tensor, "P"], begins: bool | None = None
    ) -> Float[Tensor, "P tile C"]:
        mask = self.mask.unsqueeze(0)
        if begins or (begins is None and bool((first < self.band - 1).any())):
            index = first.unsqueeze(1) + torch.arange(1 - self.band, self.tile, device=first.device)
            mask = mask.masked_fill((index < 0).view(len(first), 1, 1, -1), -torch.inf)
        sizes = self.tile, self.heads, self.groups, self.depth, self.width
        return attend(values, mask, *sizes, self.scale, captured=begins is not None)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.bias,)

    @property
    def work(self) -> int:
        return self.band * self.heads * (self.depth + self.width)

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
    captured: bool = False,
) -> Float[Tensor, "P tile C"]:
    """The tiles' outputs; their queries are the last `tile` elements.

    Keys and values that are not finite make those outputs NaN that attend to them, and no others: in torch's kernel they reach all
    of their tile. A query that is not makes its own NaN. While launches are captured, nobody can look whether there are any.
    """
    finite = values.isfinite()
    plain = not captured and bool(finite.all())
    if not plain:
        values = values.masked_fill(~finite, 0.0)
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
    made = made.transpose(1, 2).reshape(count, tile, heads * width)
    if plain:
        return made
    asking, asked = finite[:, taps - tile :, : heads * depth].all(2), finite[:, :, heads * depth :].all(2)
    attended = (mask > -torch.inf).any(1).expand(count, -1, -1)
    lost = (attended & ~asked.unsqueeze(1)).any(2) | ~asking
    return made.masked_fill(lost.unsqueeze(2), torch.nan)


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


def attended(
    trace: Trace,
    what: str,
    mixed: Symbol,
    heads: int,
    groups: int,
    depth: int,
    width: int,
    bias: Tensor,
    scale: float | None = None,
) -> Symbol:
    """The attention of queries to keys, whose values are the rest of the channels of `mixed`; `bias [H, band]` by distance."""
    if bias.shape[0] not in (1, heads):
        trace.refuse(f"{what} with a mask for {bias.shape[0]} heads", f"There are {heads}; the module itself would raise here.")
    band = bias.shape[1]
    if band == 1 and groups == heads:
        return part(trace, mixed, slice(heads * depth + groups * depth, None))
    if band == 1:
        # A tile of one frame, whose past is never looked at: the heads of values are repeated there.
        bias = F.pad(bias, (0, 1), value=-torch.inf)
    operator = Attention(heads, groups, depth, width, bias.shape[1], depth**-0.5 if scale is None else scale, bias, trace.numerics)
    return trace.add(operator, [mixed])


def banded(trace: Trace, what: str, mask: Any, like: Symbol, inverted: bool = False) -> Float[Tensor, "H band"]:
    """The mask of an attention over `like`, by distance. Refuses what is no band, and a band without an end."""
    if mask is None:
        trace.refuse(f"{what} over all time", WITHOUT_END)
    if not isinstance(mask, Band):
        trace.refuse(f"{what} with a mask of a fixed size", "Make the mask in forward, from the length of the input.")
    if mask.length.count is not like.reads.timeline.total:
        trace.refuse(f"{what} with a mask of another length", "Make the mask from the length of what attends.")
    if mask.dtype not in (torch.bool, torch.float32):
        trace.refuse(f"{what} with a mask of {mask.dtype}", "Use a mask of bool or float32.")
    return mask.bias(inverted)


class NoWeights:
    """The weights of an attention, `[T, T]`, which a stream does not have; any use of them is refused."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __getattr__(self, name: str) -> NoReturn:
        self._trace.refuse("the weights of an attention", "Use its output only.")


@lowers_module(nn.MultiheadAttention)
def multihead(
    trace: Trace,
    module: nn.MultiheadAttention,
    query: Symbol,
    key: Symbol,
    value: Symbol,
    key_padding_mask: object = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Symbol, NoWeights | None]:
    what = "MultiheadAttention"
    expected = "BTC" if module.batch_first else "TBC"
    inputs: Sequence[Any] = (query, key, value)
    if any(not isinstance(symbol, Symbol) or symbol.dims.value != expected for symbol in inputs):
        trace.refuse(f"{what} over another dimension than time", f"Give it three values [{', '.join(expected)}].")
    if any(symbol.reads.timeline.total is not query.reads.timeline.total for symbol in inputs):
        trace.refuse(f"{what} of values of different lengths", "Let frames attend to frames of their own stream.")
    if key_padding_mask is not None or module.bias_k is not None or module.add_zero_attn:
        trace.refuse(f"{what} with key_padding_mask, bias_k or add_zero_attn", "A stream has no padding; leave them out.")
    if is_causal:
        trace.refuse(f"{what} with is_causal", "Torch then ignores the mask and looks at the whole past; leave it out.")
    bias = banded(trace, what, attn_mask, query, inverted=True)
    size, heads = module.embed_dim, module.num_heads
    check_rates(trace, what, inputs)
    mixed = _projected(trace, module, inputs)
    depth = size // heads
    result = attended(trace, what, mixed, heads, heads, depth, depth, bias)
    result = trace.add(Linear(module.out_proj.weight, module.out_proj.bias, trace.numerics), [result])
    return result, NoWeights(trace) if need_weights else None


def _projected(trace: Trace, module: nn.MultiheadAttention, inputs: Sequence[Symbol]) -> Symbol:
    """Queries, keys and values side by side; one product where they come from one value."""
    size = module.embed_dim
    bias = module.in_proj_bias
    if module._qkv_same_embed_dim:
        weights = list(module.in_proj_weight.chunk(3))
    else:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    for symbol, weight in zip(inputs, weights, strict=True):
        if symbol.channels != weight.shape[1]:
            trace.refuse(
                f"MultiheadAttention of {symbol.channels} channels",
                f"It takes {weight.shape[1]}; the module itself would raise here.",
            )
    if all(symbol.reads == inputs[0].reads for symbol in inputs):
        return trace.add(Linear(torch.cat(weights), bias, trace.numerics), [inputs[0]])
    biases = [None] * 3 if bias is None else list(bias.chunk(3))
    parts = [
        trace.add(Linear(weight, share, trace.numerics), [symbol])
        for symbol, weight, share in zip(inputs, weights, biases, strict=True)
    ]
    return trace.add(Concatenation(3 * size), parts)


@lowers_module(nn.TransformerEncoderLayer)
def encoder_layer(
    trace: Trace,
    module: nn.TransformerEncoderLayer,
    src: Symbol,
    src_mask: Any = None,
    src_key_padding_mask: object = None,
    is_causal: bool = False,
) -> Any:
    """As its forward is, without the checks that want tensors."""
    attention = module.self_attn
    if src_mask is None:
        trace.refuse("TransformerEncoderLayer over all time", WITHOUT_END)

    def attend_to(x: Any) -> Any:
        return attention(
            x, x, x, key_padding_mask=src_key_padding_mask, need_weights=False, attn_mask=src_mask, is_causal=is_causal
        )[0]

    def feed_forward(x: Any) -> Any:
        return module.linear2(module.activation(module.linear1(x)))

    x: Any = src
    if module.norm_first:
        x = x + attend_to(module.norm1(x))
        return x + feed_forward(module.norm2(x))
    x = module.norm1(x + attend_to(x))
    return module.norm2(x + feed_forward(x))


@lowers_module(nn.TransformerEncoder)
def encoder(
    trace: Trace,
    module: nn.TransformerEncoder,
    src: Any,
    mask: Any = None,
    src_key_padding_mask: object = None,
    is_causal: bool | None = None,
) -> Any:
    for layer in module.layers:
        src = layer(src, mask, src_key_padding_mask, bool(is_causal))
    return src if module.norm is None else module.norm(src)
