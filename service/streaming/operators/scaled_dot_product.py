"""`scaled_dot_product_attention`, as networks that make their own heads call it."""

from __future__ import annotations

from typing import Any

from service.streaming.axes import Axes, factor
from service.streaming.lowering import lowers
from service.streaming.operators.arithmetic import check_rates
from service.streaming.operators.attention import attended, banded
from service.streaming.operators.concatenation import Concatenation
from service.streaming.operators.dimensions import factors_of
from service.streaming.symbol import Symbol
from service.streaming.tracing import Trace

WHAT = "scaled_dot_product_attention"


@lowers(WHAT)
def scaled_dot_product_attention(
    trace: Trace,
    query: Symbol,
    key: Symbol,
    value: Symbol,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Symbol:
    parts = (query, key, value)
    if not all(isinstance(part, Symbol) and part.axes.letters.endswith("TC") for part in parts):
        trace.refuse(f"{WHAT} over another dimension than time", "Give it three values [B, heads, T, channels].")
    if dropout_p:
        trace.refuse(f"{WHAT} with dropout", "Use dropout while training only.")
    if is_causal:
        trace.refuse(f"{WHAT} with is_causal", "It looks at the whole past; give it attn_mask, a band, instead.")
    if any(part.stored.timeline.total is not query.stored.timeline.total for part in parts):
        trace.refuse(f"{WHAT} of values of different lengths", "Let frames attend to frames of their own stream.")
    check_rates(trace, WHAT, parts)
    bias = banded(trace, WHAT, attn_mask, query)
    depth, width = query.axes.sizes[-1], value.axes.sizes[-1]
    heads, groups = query.channels // depth, key.channels // key.axes.sizes[-1]
    alike = key.axes.sizes[-1] == depth and value.channels == groups * width
    if not alike or (groups != heads and not (enable_gqa and heads % groups == 0)):
        trace.refuse(
            f"{WHAT} of {', '.join(str(part.axes) for part in parts)}", "Queries, keys and values have as many heads; repeat none."
        )
    rows = [Symbol(trace, part.reads, Axes.of("BTC", part.channels)) for part in parts]
    mixed = trace.add(Concatenation(sum(part.channels for part in parts)), rows)
    made = attended(trace, WHAT, mixed, heads, groups, depth, width, bias, scale)
    last = factors_of(query.axes)[-1]
    return Symbol(trace, made.reads, query.axes.replaced(last, factor(width, 1)).flat())
